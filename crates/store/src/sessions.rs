//! Links that sign in, and the sessions of browsers that followed one. Both are stored as keyed hashes only.

use std::time::Duration;

use rigbox_core::ids::{SessionId, UserId};
use rigbox_core::permit::{Credential, Principal, Scope};
use rigbox_core::plans::Overrides;
use rigbox_core::time::Moment;
use sqlx::Row;

use crate::audit::{self, Act};
use crate::secret::{LinkToken, SessionToken, TokenKey};
use crate::{Error, Holder, Store, User, parsed, random, user_limits, users};

/// A session about to be stored.
#[derive(Debug, Clone, Copy)]
pub struct NewSession<'a> {
    /// What the browser gets.
    pub token: &'a SessionToken,
    /// How long it lasts unused.
    pub idle: Duration,
    /// How long it lasts at most.
    pub longest: Duration,
}

/// Who a link signed in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedIn {
    /// The user.
    pub user: User,
    /// The new session.
    pub session: SessionId,
}

impl Store {
    /// Keeps a link for a user until `until`. Links that have ended are removed on the way.
    pub async fn add_link(
        &self,
        user: &UserId,
        token: &LinkToken,
        token_key: &TokenKey,
        until: Moment,
        now: Moment,
    ) -> Result<(), Error> {
        let mut tx = self.write().await?;
        sqlx::query("DELETE FROM login_links WHERE expires_at <= $1")
            .bind(now.unix_ms())
            .execute(&mut *tx)
            .await?;
        sqlx::query("INSERT INTO login_links (hash, user_id, expires_at) VALUES ($1, $2, $3)")
            .bind(token_key.hash(token.reveal()).as_str())
            .bind(user.as_str())
            .bind(until.unix_ms())
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(())
    }

    /// Who a link would sign in.
    pub async fn user_of_link(
        &self,
        token: &LinkToken,
        token_key: &TokenKey,
        now: Moment,
    ) -> Result<Option<User>, Error> {
        sqlx::query(
            "SELECT users.id, email, email_verified, plan, created_at, disabled_at FROM login_links \
             JOIN users ON users.id = login_links.user_id \
             WHERE hash = $1 AND expires_at > $2 AND disabled_at IS NULL",
        )
        .bind(token_key.hash(token.reveal()).as_str())
        .bind(now.unix_ms())
        .fetch_optional(&self.pool)
        .await?
        .map(|row| users::user(&row))
        .transpose()
    }

    /// Uses a link up and begins a session; `None` when the link is not good (any more). `act` is done by the new session.
    pub async fn sign_in(
        &self,
        link: &LinkToken,
        session: NewSession<'_>,
        token_key: &TokenKey,
        from: Option<std::net::IpAddr>,
        now: Moment,
    ) -> Result<Option<SignedIn>, Error> {
        let mut tx = self.write().await?;
        let row = sqlx::query("DELETE FROM login_links WHERE hash = $1 RETURNING user_id, expires_at")
            .bind(token_key.hash(link.reveal()).as_str())
            .fetch_optional(&mut *tx)
            .await?;
        let Some(row) = row else { return Ok(None) };
        let good = row.try_get::<i64, _>("expires_at")? > now.unix_ms();
        let user: String = row.try_get("user_id")?;
        let Some(user) = users::enabled(&mut tx, &user).await?.filter(|_| good) else {
            // Used up all the same.
            tx.commit().await?;
            return Ok(None);
        };
        // The link was sent to the address.
        sqlx::query("UPDATE users SET email_verified = TRUE WHERE id = $1 AND NOT email_verified")
            .bind(user.id.as_str())
            .execute(&mut *tx)
            .await?;
        let id = SessionId::from_random(random()?);
        sqlx::query("DELETE FROM sessions WHERE idle_at <= $1 OR ends_at <= $1")
            .bind(now.unix_ms())
            .execute(&mut *tx)
            .await?;
        sqlx::query(
            "INSERT INTO sessions (id, user_id, hash, created_at, idle_at, ends_at) VALUES ($1, $2, $3, $4, $5, $6)",
        )
        .bind(id.as_str())
        .bind(user.id.as_str())
        .bind(token_key.hash(session.token.reveal()).as_str())
        .bind(now.unix_ms())
        .bind(now.after(session.idle).unix_ms())
        .bind(now.after(session.longest).unix_ms())
        .execute(&mut *tx)
        .await?;
        let principal = Principal {
            user: user.id.clone(),
            plan: user.plan,
            limits: Overrides::default(),
            credential: Credential::Session(id.clone()),
            scope: Scope::Account,
            from,
        };
        audit::append(&mut tx, &self.chain, &Act::by(&principal, "session.create", &id), now).await?;
        tx.commit().await?;
        Ok(Some(SignedIn { user, session: id }))
    }

    /// Whose session this is, if it is good at this moment; `idle` is how long it lasts unused.
    pub async fn holder_of_session(
        &self,
        token: &SessionToken,
        token_key: &TokenKey,
        idle: Duration,
        now: Moment,
    ) -> Result<Option<Holder>, Error> {
        let row = sqlx::query(
            "SELECT sessions.id, sessions.idle_at, users.id AS user_id, users.plan, users.limits \
             FROM sessions JOIN users ON users.id = sessions.user_id \
             WHERE hash = $1 AND idle_at > $2 AND ends_at > $2 AND disabled_at IS NULL",
        )
        .bind(token_key.hash(token.reveal()).as_str())
        .bind(now.unix_ms())
        .fetch_optional(&self.pool)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let idle_ms = i64::try_from(idle.as_millis()).unwrap_or(i64::MAX);
        let idle_at: i64 = row.try_get("idle_at")?;
        Ok(Some(Holder {
            principal: Principal {
                user: parsed(row.try_get("user_id")?)?,
                plan: parsed(row.try_get("plan")?)?,
                limits: user_limits::read(row.try_get("limits")?)?,
                credential: Credential::Session(parsed(row.try_get("id")?)?),
                scope: Scope::Account,
                from: None,
            },
            last_used_at: Some(Moment::from_unix_ms(idle_at.saturating_sub(idle_ms))),
        }))
    }

    /// Notes that a session is used: it lasts for `idle` more.
    pub async fn session_used(&self, id: &SessionId, idle: Duration, now: Moment) -> Result<(), Error> {
        sqlx::query("UPDATE sessions SET idle_at = $1 WHERE id = $2")
            .bind(now.after(idle).unix_ms())
            .bind(id.as_str())
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// Ends a session.
    pub async fn end_session(&self, id: &SessionId, act: &Act, now: Moment) -> Result<(), Error> {
        let mut tx = self.write().await?;
        let done =
            sqlx::query("DELETE FROM sessions WHERE id = $1").bind(id.as_str()).execute(&mut *tx).await?;
        if done.rows_affected() == 1 {
            audit::append(&mut tx, &self.chain, act, now).await?;
        }
        tx.commit().await?;
        Ok(())
    }
}
