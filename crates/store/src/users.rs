//! Users.

use rigbox_core::ids::UserId;
use rigbox_core::plans::Plan;
use rigbox_core::time::Moment;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use crate::audit::{self, Act};
use crate::{Error, NewKey, Store, api_keys, parsed, random};

/// A user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Who.
    pub id: UserId,
    /// Where to write to.
    pub email: String,
    /// What the user may have.
    pub plan: Plan,
    /// Since when.
    pub created_at: Moment,
}

impl Store {
    /// The user of this id.
    pub async fn user(&self, id: &UserId) -> Result<Option<User>, Error> {
        sqlx::query("SELECT id, email, plan, created_at FROM users WHERE id = $1")
            .bind(id.as_str())
            .fetch_optional(&self.pool)
            .await?
            .map(|row| user(&row))
            .transpose()
    }

    /// The user that was made first: the installation's administrator.
    pub async fn first_user(&self) -> Result<Option<User>, Error> {
        sqlx::query("SELECT id, email, plan, created_at FROM users ORDER BY created_at, id LIMIT 1")
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
        let id = UserId::from_random(random()?);
        sqlx::query("INSERT INTO users (id, email, plan, created_at) VALUES ($1, $2, $3, $4)")
            .bind(id.as_str())
            .bind(email)
            .bind(Plan::Owner.as_str())
            .bind(now.unix_ms())
            .execute(&mut *tx)
            .await?;
        let key = api_keys::insert(&mut tx, &id, key, now).await?;
        for act in [Act::on_machine(&id, "user.create", &id), Act::on_machine(&id, "key.create", key)] {
            audit::append(&mut tx, &self.chain, &act, now).await?;
        }
        tx.commit().await?;
        Ok(id)
    }
}

pub(crate) fn user(row: &SqliteRow) -> Result<User, Error> {
    Ok(User {
        id: parsed(row.try_get("id")?)?,
        email: row.try_get("email")?,
        plan: parsed(row.try_get("plan")?)?,
        created_at: Moment::from_unix_ms(row.try_get("created_at")?),
    })
}
