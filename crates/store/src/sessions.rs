//! Sign-in links, and the browser sessions they start. Both are stored only as keyed hashes.

use std::time::Duration;

use rigbox_core::authz::{Credential, Principal, Scope};
use rigbox_core::ids::{SessionId, UserId};
use rigbox_core::plans::LimitOverrides;
use rigbox_core::time::Timestamp;
use sqlx::Row;

use crate::audit::{self, AuditEvent};
use crate::revocations::entry::Revocation;
use crate::tokens::{LinkToken, SessionToken, TokenKey};
use crate::{Error, KeyHolder, Store, User, parse, random, user_limits, users};

/// Session to be stored.
#[derive(Debug, Clone, Copy)]
pub struct NewSession<'a> {
    /// Token for the browser's cookie.
    pub token: &'a SessionToken,
    /// Lifetime of an unused session.
    pub idle: Duration,
    /// Maximum lifetime.
    pub max_lifetime: Duration,
}

/// Result of following a sign-in link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedIn {
    /// The user.
    pub user: User,
    /// The new session.
    pub session: SessionId,
}

impl Store {
    /// Stores a sign-in link that is valid until `until`, and removes expired ones.
    pub async fn add_link(
        &self,
        user: &UserId,
        token: &LinkToken,
        token_key: &TokenKey,
        until: Timestamp,
        now: Timestamp,
    ) -> Result<(), Error> {
        let mut tx = self.begin_write().await?;
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

    /// Returns the user of a valid sign-in link.
    pub async fn user_of_link(
        &self,
        token: &LinkToken,
        token_key: &TokenKey,
        now: Timestamp,
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

    /// Consumes a sign-in link and starts a session. Returns `None` if the link is invalid. `event` is
    /// recorded under the new session.
    pub async fn sign_in(
        &self,
        link: &LinkToken,
        session: NewSession<'_>,
        token_key: &TokenKey,
        from: Option<std::net::IpAddr>,
        now: Timestamp,
    ) -> Result<Option<SignedIn>, Error> {
        let mut tx = self.begin_write().await?;
        let row = sqlx::query("DELETE FROM login_links WHERE hash = $1 RETURNING user_id, expires_at")
            .bind(token_key.hash(link.reveal()).as_str())
            .fetch_optional(&mut *tx)
            .await?;
        let Some(row) = row else { return Ok(None) };
        let good = row.try_get::<i64, _>("expires_at")? > now.unix_ms();
        let user: String = row.try_get("user_id")?;
        let Some(user) = users::enabled(&mut tx, &user).await?.filter(|_| good) else {
            // The link is consumed all the same.
            tx.commit().await?;
            return Ok(None);
        };
        // Following the link proves ownership of the address.
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
        .bind(now.after(session.max_lifetime).unix_ms())
        .execute(&mut *tx)
        .await?;
        let principal = Principal {
            user: user.id.clone(),
            plan: user.plan,
            limits: LimitOverrides::default(),
            credential: Credential::Session(id.clone()),
            scope: Scope::Account,
            from,
        };
        audit::append(&mut tx, &self.chain, &AuditEvent::by(&principal, "session.create", &id), now).await?;
        tx.commit().await?;
        Ok(Some(SignedIn { user, session: id }))
    }

    /// Returns the principal of a session that is valid at `now`, and the time at which it ends if it is not used. `idle` is the lifetime
    /// of an unused session.
    pub async fn session_principal(
        &self,
        token: &SessionToken,
        token_key: &TokenKey,
        idle: Duration,
        now: Timestamp,
    ) -> Result<Option<(KeyHolder, Timestamp)>, Error> {
        let row = sqlx::query(
            "SELECT sessions.id, sessions.idle_at, sessions.ends_at, users.id AS user_id, users.plan, users.limits \
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
        let holder = KeyHolder {
            principal: Principal {
                user: parse(row.try_get("user_id")?)?,
                plan: parse(row.try_get("plan")?)?,
                limits: user_limits::read(row.try_get("limits")?)?,
                credential: Credential::Session(parse(row.try_get("id")?)?),
                scope: Scope::Account,
                from: None,
            },
            last_used_at: Some(Timestamp::from_unix_ms(idle_at.saturating_sub(idle_ms))),
        };
        Ok(Some((holder, Timestamp::from_unix_ms(idle_at.min(row.try_get("ends_at")?)))))
    }

    /// Records a use of a session, which extends it by `idle`.
    pub async fn session_used(&self, id: &SessionId, idle: Duration, now: Timestamp) -> Result<(), Error> {
        sqlx::query("UPDATE sessions SET idle_at = $1 WHERE id = $2")
            .bind(now.after(idle).unix_ms())
            .bind(id.as_str())
            .execute(&self.writer)
            .await?;
        Ok(())
    }

    /// Ends a session.
    pub async fn end_session(&self, id: &SessionId, event: &AuditEvent, now: Timestamp) -> Result<(), Error> {
        let mut tx = self.begin_write().await?;
        let done =
            sqlx::query("DELETE FROM sessions WHERE id = $1").bind(id.as_str()).execute(&mut *tx).await?;
        if done.rows_affected() == 0 {
            return Ok(());
        }
        audit::append(&mut tx, &self.chain, event, now).await?;
        self.commit_revoking(tx, vec![Revocation::Session { session: id.to_string() }], now).await
    }
}
