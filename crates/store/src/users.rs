//! Users.

use rigbox_core::ids::UserId;
use rigbox_core::plans::Plan;
use rigbox_core::time::Timestamp;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use crate::audit::{self, AuditEvent};
use crate::revocations::entry::Revocation;
use crate::sqlite::connection::Connection;
use crate::{Error, NewKey, Store, api_keys, parse, random, timestamp};

/// User.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Id of the user.
    pub id: UserId,
    /// Email address.
    pub email: String,
    /// True if the user has followed a link sent to the address.
    pub email_verified: bool,
    /// Plan.
    pub plan: Plan,
    /// Time of creation.
    pub created_at: Timestamp,
    /// Time since which the user is disabled; `None` means enabled.
    pub disabled_at: Option<Timestamp>,
}

macro_rules! users {
    ($rest:literal) => {
        concat!("SELECT id, email, email_verified, plan, created_at, disabled_at FROM users ", $rest)
    };
}

impl Store {
    /// Returns the user with this id.
    pub async fn user(&self, id: &UserId) -> Result<Option<User>, Error> {
        sqlx::query(users!("WHERE id = $1"))
            .bind(id.as_str())
            .fetch_optional(&self.pool)
            .await?
            .map(|row| user(&row))
            .transpose()
    }

    /// Returns the first user, who is the installation's administrator.
    pub async fn first_user(&self) -> Result<Option<User>, Error> {
        sqlx::query(users!("ORDER BY created_at, id LIMIT 1"))
            .fetch_optional(&self.pool)
            .await?
            .map(|row| user(&row))
            .transpose()
    }

    /// Creates the first user with one key. Refused if there is any user.
    pub async fn create_first_user(
        &self,
        email: &str,
        key: &NewKey,
        now: Timestamp,
    ) -> Result<UserId, Error> {
        let mut tx = self.begin_write().await?;
        let users: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM users").fetch_one(&mut *tx).await?;
        if users > 0 {
            return Err(Error::UserExists);
        }
        let id = insert(&mut tx, email, Plan::Owner, now).await?;
        let key = api_keys::insert(&mut tx, &id, key, now).await?;
        for event in [
            AuditEvent::by_operator(&id, "user.create", &id),
            AuditEvent::by_operator(&id, "key.create", key),
        ] {
            audit::append(&mut tx, &self.chain, &event, now).await?;
        }
        tx.commit().await?;
        Ok(id)
    }

    /// Returns the user with this lower-case email address.
    pub async fn user_by_email(&self, email: &str) -> Result<Option<User>, Error> {
        sqlx::query(users!("WHERE email = $1"))
            .bind(email)
            .fetch_optional(&self.pool)
            .await?
            .map(|row| user(&row))
            .transpose()
    }

    /// Returns all users, oldest first.
    pub async fn users(&self) -> Result<Vec<User>, Error> {
        let rows = sqlx::query(users!("ORDER BY created_at, id")).fetch_all(&self.pool).await?;
        rows.iter().map(user).collect()
    }

    /// Creates a user without a key.
    pub async fn add_user(&self, email: &str, plan: Plan, now: Timestamp) -> Result<UserId, Error> {
        let mut tx = self.begin_write().await?;
        let taken: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM users WHERE email = $1")
            .bind(email)
            .fetch_one(&mut *tx)
            .await?;
        if taken > 0 {
            return Err(Error::UserExists);
        }
        let id = insert(&mut tx, email, plan, now).await?;
        audit::append(&mut tx, &self.chain, &AuditEvent::by_operator(&id, "user.create", &id), now).await?;
        tx.commit().await?;
        Ok(id)
    }

    /// Changes a user's plan.
    pub async fn set_plan(&self, user: &UserId, plan: Plan, now: Timestamp) -> Result<(), Error> {
        let mut tx = self.begin_write().await?;
        sqlx::query("UPDATE users SET plan = $1 WHERE id = $2")
            .bind(plan.as_str())
            .bind(user.as_str())
            .execute(&mut *tx)
            .await?;
        let event = AuditEvent::by_operator(user, "user.set_plan", plan.as_str());
        audit::append(&mut tx, &self.chain, &event, now).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Disables a user and all their access, or enables them again. Sessions and links are gone for good;
    /// keys become valid again.
    pub async fn set_disabled(&self, user: &UserId, disabled: bool, now: Timestamp) -> Result<(), Error> {
        let mut tx = self.begin_write().await?;
        sqlx::query("UPDATE users SET disabled_at = $1 WHERE id = $2")
            .bind(disabled.then_some(now.unix_ms()))
            .bind(user.as_str())
            .execute(&mut *tx)
            .await?;
        for ended in [
            "DELETE FROM sessions WHERE user_id = $1",
            "DELETE FROM login_links WHERE user_id = $1",
            "DELETE FROM device_logins WHERE user_id = $1",
        ] {
            sqlx::query(ended).bind(user.as_str()).execute(&mut *tx).await?;
        }
        let action = if disabled { "user.disable" } else { "user.enable" };
        audit::append(&mut tx, &self.chain, &AuditEvent::by_operator(user, action, user), now).await?;
        let disabled_at = disabled.then_some(now.unix_ms());
        let change = Revocation::User { user: user.to_string(), disabled_at };
        self.commit_revoking(tx, vec![change], now).await
    }
}

async fn insert(
    connection: &mut Connection,
    email: &str,
    plan: Plan,
    now: Timestamp,
) -> Result<UserId, Error> {
    let id = UserId::from_random(random()?);
    sqlx::query("INSERT INTO users (id, email, plan, created_at) VALUES ($1, $2, $3, $4)")
        .bind(id.as_str())
        .bind(email)
        .bind(plan.as_str())
        .bind(now.unix_ms())
        .execute(connection)
        .await?;
    Ok(id)
}

/// Returns the user with this id unless disabled.
pub(crate) async fn enabled(connection: &mut Connection, id: &str) -> Result<Option<User>, Error> {
    sqlx::query(users!("WHERE id = $1 AND disabled_at IS NULL"))
        .bind(id)
        .fetch_optional(connection)
        .await?
        .map(|row| user(&row))
        .transpose()
}

pub(crate) fn user(row: &SqliteRow) -> Result<User, Error> {
    Ok(User {
        id: parse(row.try_get("id")?)?,
        email: row.try_get("email")?,
        email_verified: row.try_get("email_verified")?,
        plan: parse(row.try_get("plan")?)?,
        created_at: Timestamp::from_unix_ms(row.try_get("created_at")?),
        disabled_at: timestamp(row, "disabled_at")?,
    })
}
