//! Handoff of a signed-in browser from the console to an app: a one-time code, and the session behind the
//! app's own.

use std::time::Duration;

use rigbox_core::ids::{AppId, SessionId, UserId};
use rigbox_core::time::Timestamp;
use sqlx::Row;

use crate::tokens::{AppCode, TokenKey};
use crate::{Error, Store, parse};

/// Session with its user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionHolder {
    /// Id of the session.
    pub id: SessionId,
    /// Id of the user.
    pub user: UserId,
    /// Email address of the user, verified by the sign-in link.
    pub email: String,
    /// Time at which the session expires if unused.
    pub idle_at: Timestamp,
    /// Time at which the session expires in any case.
    pub ends_at: Timestamp,
}

/// Meaning of a one-time code.
#[derive(Debug, Clone, Copy)]
pub struct AppHandoff<'a> {
    /// App the code admits to.
    pub app: &'a AppId,
    /// Session of the browser.
    pub session: &'a SessionId,
    /// State that the browser has to present besides the code.
    pub state: &'a str,
    /// Host that the code is valid at.
    pub host: &'a str,
    /// Lifetime of the code.
    pub ttl: Duration,
}

impl Store {
    /// Stores a one-time code that admits a browser to an app.
    pub async fn add_app_code(
        &self,
        code: &AppCode,
        token_key: &TokenKey,
        handoff: &AppHandoff<'_>,
        now: Timestamp,
    ) -> Result<(), Error> {
        let mut tx = self.begin_write().await?;
        sqlx::query("DELETE FROM app_codes WHERE expires_at <= $1")
            .bind(now.unix_ms())
            .execute(&mut *tx)
            .await?;
        sqlx::query(
            "INSERT INTO app_codes (hash, app_id, session_id, state, host, expires_at) VALUES ($1, $2, $3, $4, $5, $6)",
        )
        .bind(token_key.hash(code.reveal()).as_str())
        .bind(handoff.app.as_str())
        .bind(handoff.session.as_str())
        .bind(handoff.state)
        .bind(handoff.host)
        .bind(now.after(handoff.ttl).unix_ms())
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(())
    }

    /// Consumes a code, whether or not it matches. Returns the session it stands for if it does.
    pub async fn redeem_app_code(
        &self,
        code: &AppCode,
        token_key: &TokenKey,
        app: &AppId,
        state: &str,
        host: &str,
        now: Timestamp,
    ) -> Result<Option<SessionHolder>, Error> {
        let row = sqlx::query(
            "DELETE FROM app_codes WHERE hash = $1 RETURNING app_id, session_id, state, host, expires_at",
        )
        .bind(token_key.hash(code.reveal()).as_str())
        .fetch_optional(&self.writer)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let fits = row.try_get::<&str, _>("app_id")? == app.as_str()
            && row.try_get::<&str, _>("state")? == state
            && row.try_get::<&str, _>("host")? == host
            && row.try_get::<i64, _>("expires_at")? > now.unix_ms();
        if !fits {
            return Ok(None);
        }
        self.session_holder(&parse(row.try_get("session_id")?)?, now).await
    }

    /// Returns the holder of a session that is valid at `now`.
    pub async fn session_holder(
        &self,
        id: &SessionId,
        now: Timestamp,
    ) -> Result<Option<SessionHolder>, Error> {
        let row = sqlx::query(
            "SELECT sessions.id, users.id AS user_id, users.email, idle_at, ends_at \
             FROM sessions JOIN users ON users.id = sessions.user_id \
             WHERE sessions.id = $1 AND idle_at > $2 AND ends_at > $2 AND disabled_at IS NULL",
        )
        .bind(id.as_str())
        .bind(now.unix_ms())
        .fetch_optional(&self.pool)
        .await?;
        row.map(|row| {
            Ok(SessionHolder {
                id: parse(row.try_get("id")?)?,
                user: parse(row.try_get("user_id")?)?,
                email: row.try_get("email")?,
                idle_at: Timestamp::from_unix_ms(row.try_get("idle_at")?),
                ends_at: Timestamp::from_unix_ms(row.try_get("ends_at")?),
            })
        })
        .transpose()
    }

    /// Returns the count of grants and revocations, including those by other processes.
    pub fn grants_epoch(&self) -> Result<i64, Error> {
        self.epoch()
    }
}
