//! API keys: stored as keyed hashes only.

use rigbox_core::ids::{KeyId, UserId};
use rigbox_core::time::Moment;
use sqlx::SqliteConnection;

use crate::secret::{ApiKey, TokenHash, TokenKey};
use crate::users::{self, User};
use crate::{Error, Store, random};

/// A key about to be stored: nothing in it opens anything.
#[derive(Debug, Clone)]
pub struct NewKey {
    name: String,
    hash: TokenHash,
    preview: String,
}

impl NewKey {
    /// The record of `key`.
    pub fn of(key: &ApiKey, name: &str, token_key: &TokenKey) -> Self {
        Self { name: name.to_owned(), hash: token_key.hash(key.reveal()), preview: key.preview() }
    }
}

impl Store {
    /// Whose key this is.
    pub async fn user_of_key(&self, hash: &TokenHash) -> Result<Option<User>, Error> {
        sqlx::query(
            "SELECT users.id, users.email, users.plan, users.created_at FROM api_keys \
             JOIN users ON users.id = api_keys.user_id WHERE api_keys.hash = $1",
        )
        .bind(hash.as_str())
        .fetch_optional(&self.pool)
        .await?
        .map(|row| users::user(&row))
        .transpose()
    }

    /// Adds a key for a user.
    pub async fn add_key(&self, user: &UserId, key: &NewKey, now: Moment) -> Result<KeyId, Error> {
        let mut tx = self.write().await?;
        let id = insert(&mut tx, user, key, now).await?;
        tx.commit().await?;
        Ok(id)
    }
}

pub(crate) async fn insert(
    connection: &mut SqliteConnection,
    user: &UserId,
    key: &NewKey,
    now: Moment,
) -> Result<KeyId, Error> {
    let id = KeyId::from_random(random()?);
    sqlx::query(
        "INSERT INTO api_keys (id, user_id, name, hash, preview, created_at) \
         VALUES ($1, $2, $3, $4, $5, $6)",
    )
    .bind(id.as_str())
    .bind(user.as_str())
    .bind(&key.name)
    .bind(key.hash.as_str())
    .bind(&key.preview)
    .bind(now.unix_ms())
    .execute(connection)
    .await?;
    Ok(id)
}
