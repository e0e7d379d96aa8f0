//! Users.

use rigbox_core::ids::UserId;
use rigbox_core::plans::Plan;
use rigbox_core::time::Moment;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row, SqliteConnection};

use crate::audit::{self, Act};
use crate::{Error, NewKey, Store, api_keys, moment, parsed, random};

/// A user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Who.
    pub id: UserId,
    /// Where to write to.
    pub email: String,
    /// The user has followed a link that was sent there.
    pub email_verified: bool,
    /// What the user may have.
    pub plan: Plan,
    /// Since when.
    pub created_at: Moment,
    /// Since when nothing of the user's opens anything; none: it does.
    pub disabled_at: Option<Moment>,
}

macro_rules! users {
    ($rest:literal) => {
        concat!("SELECT id, email, email_verified, plan, created_at, disabled_at FROM users ", $rest)
    };
}

impl Store {
    /// The user of this id.
    pub async fn user(&self, id: &UserId) -> Result<Option<User>, Error> {
        sqlx::query(users!("WHERE id = $1"))
            .bind(id.as_str())
            .fetch_optional(&self.pool)
            .await?
            .map(|row| user(&row))
            .transpose()
    }

    /// The user that was made first: the installation's administrator.
    pub async fn first_user(&self) -> Result<Option<User>, Error> {
        sqlx::query(users!("ORDER BY created_at, id LIMIT 1"))
            .fetch_optional(&self.pool)
            .await?
            .map(|row| user(&row))
            .transpose()
    }

    /// Makes the first user with one key; refused when there is any user.
    pub async fn create_first_user(&self, email: &str, key: &NewKey, now: Moment) -> Result<UserId, Error> {
        let mut tx = self.write().await?;
        let users: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM users").fetch_one(&mut *tx).await?;
        if users > 0 {
            return Err(Error::UserExists);
        }
        let id = insert(&mut tx, email, Plan::Owner, now).await?;
        let key = api_keys::insert(&mut tx, &id, key, now).await?;
        for act in [Act::on_machine(&id, "user.create", &id), Act::on_machine(&id, "key.create", key)] {
            audit::append(&mut tx, &self.chain, &act, now).await?;
        }
        tx.commit().await?;
        Ok(id)
    }

    /// The user with this e-mail address, in lower case.
    pub async fn user_by_email(&self, email: &str) -> Result<Option<User>, Error> {
        sqlx::query(users!("WHERE email = $1"))
            .bind(email)
            .fetch_optional(&self.pool)
            .await?
            .map(|row| user(&row))
            .transpose()
    }

    /// Every user, oldest first.
    pub async fn users(&self) -> Result<Vec<User>, Error> {
        let rows = sqlx::query(users!("ORDER BY created_at, id")).fetch_all(&self.pool).await?;
        rows.iter().map(user).collect()
    }

    /// Makes a user without a key: they sign in.
    pub async fn add_user(&self, email: &str, plan: Plan, now: Moment) -> Result<UserId, Error> {
        let mut tx = self.write().await?;
        let taken: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM users WHERE email = $1")
            .bind(email)
            .fetch_one(&mut *tx)
            .await?;
        if taken > 0 {
            return Err(Error::UserExists);
        }
        let id = insert(&mut tx, email, plan, now).await?;
        audit::append(&mut tx, &self.chain, &Act::on_machine(&id, "user.create", &id), now).await?;
        tx.commit().await?;
        Ok(id)
    }

    /// Gives a user another plan.
    pub async fn set_plan(&self, user: &UserId, plan: Plan, now: Moment) -> Result<(), Error> {
        let mut tx = self.write().await?;
        sqlx::query("UPDATE users SET plan = $1 WHERE id = $2")
            .bind(plan.as_str())
            .bind(user.as_str())
            .execute(&mut *tx)
            .await?;
        let act = Act::on_machine(user, "user.set_plan", plan.as_str());
        audit::append(&mut tx, &self.chain, &act, now).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Makes everything that a user has open nothing, or open again. Sessions and links end for good; keys come back.
    pub async fn set_disabled(&self, user: &UserId, disabled: bool, now: Moment) -> Result<(), Error> {
        let mut tx = self.write().await?;
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
        audit::append(&mut tx, &self.chain, &Act::on_machine(user, action, user), now).await?;
        tx.commit().await?;
        Ok(())
    }
}

async fn insert(
    connection: &mut SqliteConnection,
    email: &str,
    plan: Plan,
    now: Moment,
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

/// The user of this id, if what is theirs opens anything.
pub(crate) async fn enabled(connection: &mut SqliteConnection, id: &str) -> Result<Option<User>, Error> {
    sqlx::query(users!("WHERE id = $1 AND disabled_at IS NULL"))
        .bind(id)
        .fetch_optional(connection)
        .await?
        .map(|row| user(&row))
        .transpose()
}

pub(crate) fn user(row: &SqliteRow) -> Result<User, Error> {
    Ok(User {
        id: parsed(row.try_get("id")?)?,
        email: row.try_get("email")?,
        email_verified: row.try_get("email_verified")?,
        plan: parsed(row.try_get("plan")?)?,
        created_at: Moment::from_unix_ms(row.try_get("created_at")?),
        disabled_at: moment(row, "disabled_at")?,
    })
}
