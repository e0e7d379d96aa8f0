//! How a signed-in browser gets from the console to an app: a one-time code, and the session behind what the app's host is given for it.

use std::time::Duration;

use rigbox_core::ids::{AppId, SessionId, UserId};
use rigbox_core::time::Moment;
use sqlx::Row;

use crate::secret::{AppCode, TokenKey};
use crate::{Error, Store, parsed};

/// A session, and who signed in with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionHolder {
    /// Which session.
    pub id: SessionId,
    /// Who.
    pub user: UserId,
    /// The user's address; it was verified by the link that was sent to it.
    pub email: String,
    /// Unused, it ends then.
    pub idle_at: Moment,
    /// It ends then, however much it is used.
    pub ends_at: Moment,
}

/// What a code stands for.
#[derive(Debug, Clone, Copy)]
pub struct WayToApp<'a> {
    /// Where it lets in.
    pub app: &'a AppId,
    /// Whose browser.
    pub session: &'a SessionId,
    /// What the browser has to know besides.
    pub state: &'a str,
    /// For how long.
    pub lives: Duration,
}

impl Store {
    /// Keeps a code that lets a browser in at an app.
    pub async fn add_app_code(
        &self,
        code: &AppCode,
        token_key: &TokenKey,
        way: &WayToApp<'_>,
        now: Moment,
    ) -> Result<(), Error> {
        let mut tx = self.write().await?;
        sqlx::query("DELETE FROM app_codes WHERE expires_at <= $1")
            .bind(now.unix_ms())
            .execute(&mut *tx)
            .await?;
        sqlx::query(
            "INSERT INTO app_codes (hash, app_id, session_id, state, expires_at) VALUES ($1, $2, $3, $4, $5)",
        )
        .bind(token_key.hash(code.reveal()).as_str())
        .bind(way.app.as_str())
        .bind(way.session.as_str())
        .bind(way.state)
        .bind(now.after(way.lives).unix_ms())
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(())
    }

    /// Uses a code up, whether or not it fits; the session that it stands for, if it does.
    pub async fn redeem_app_code(
        &self,
        code: &AppCode,
        token_key: &TokenKey,
        app: &AppId,
        state: &str,
        now: Moment,
    ) -> Result<Option<SessionHolder>, Error> {
        let row = sqlx::query(
            "DELETE FROM app_codes WHERE hash = $1 RETURNING app_id, session_id, state, expires_at",
        )
        .bind(token_key.hash(code.reveal()).as_str())
        .fetch_optional(&self.pool)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let fits = row.try_get::<&str, _>("app_id")? == app.as_str()
            && row.try_get::<&str, _>("state")? == state
            && row.try_get::<i64, _>("expires_at")? > now.unix_ms();
        if !fits {
            return Ok(None);
        }
        self.session_holder(&parsed(row.try_get("session_id")?)?, now).await
    }

    /// Who signed in with a session, if it is good at this moment.
    pub async fn session_holder(&self, id: &SessionId, now: Moment) -> Result<Option<SessionHolder>, Error> {
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
                id: parsed(row.try_get("id")?)?,
                user: parsed(row.try_get("user_id")?)?,
                email: row.try_get("email")?,
                idle_at: Moment::from_unix_ms(row.try_get("idle_at")?),
                ends_at: Moment::from_unix_ms(row.try_get("ends_at")?),
            })
        })
        .transpose()
    }

    /// How often what some credential opens has changed, whoever changed it.
    pub fn grants_epoch(&self) -> Result<i64, Error> {
        self.epoch()
    }
}
