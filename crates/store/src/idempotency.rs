//! Responses to create requests, stored under the client's idempotency key so that a repetition creates
//! nothing twice.

use rigbox_core::authz::Credential;
use rigbox_core::ids::UserId;
use rigbox_core::time::Timestamp;
use sqlx::Row;

use crate::Error;
use crate::sqlite::connection::Connection;

/// Time for which a response is kept.
const REPLAY_TTL_MS: i64 = 24 * 60 * 60 * 1000;

/// Idempotency key of a create request.
#[derive(Debug, Clone)]
pub struct IdempotencyKey {
    key: String,
    request: String,
}

impl IdempotencyKey {
    /// `key` is the client's key; `request` is everything that distinguishes this request from others.
    pub fn new(key: &str, request: &[u8]) -> Self {
        Self { key: key.to_owned(), request: blake3::hash(request).to_hex().to_string() }
    }
}

impl IdempotencyKey {
    /// Returns the key as `credential` means it: code in a VM is not its owner, and may not find or take the owner's keys.
    #[must_use]
    pub fn of(&self, credential: &Credential) -> Self {
        let key = match credential {
            Credential::Workspace(id) => format!("{id} {}", self.key),
            Credential::Key(_) | Credential::Session(_) | Credential::SshKey(_) => self.key.clone(),
        };
        Self { key, request: self.request.clone() }
    }
}

/// Outcome of a create request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Replay<T> {
    /// Carried out now.
    Fresh(T),
    /// Carried out before, with this response.
    Repeated(String),
}

pub(crate) async fn stored_response(
    connection: &mut Connection,
    user: &UserId,
    idempotency_key: &IdempotencyKey,
    now: Timestamp,
) -> Result<Option<String>, Error> {
    sqlx::query("DELETE FROM idempotency_keys WHERE created_at < $1")
        .bind(now.unix_ms() - REPLAY_TTL_MS)
        .execute(&mut *connection)
        .await?;
    let row = sqlx::query("SELECT request, answer FROM idempotency_keys WHERE user_id = $1 AND key = $2")
        .bind(user.as_str())
        .bind(&idempotency_key.key)
        .fetch_optional(connection)
        .await?;
    match row {
        None => Ok(None),
        Some(row) if row.try_get::<&str, _>("request")? == idempotency_key.request => {
            Ok(Some(row.try_get("answer")?))
        }
        Some(_) => Err(Error::KeyReused),
    }
}

pub(crate) async fn store_response(
    connection: &mut Connection,
    user: &UserId,
    idempotency_key: &IdempotencyKey,
    response: &str,
    now: Timestamp,
) -> Result<(), Error> {
    sqlx::query(
        "INSERT INTO idempotency_keys (user_id, key, request, answer, created_at) \
         VALUES ($1, $2, $3, $4, $5)",
    )
    .bind(user.as_str())
    .bind(&idempotency_key.key)
    .bind(&idempotency_key.request)
    .bind(response)
    .bind(now.unix_ms())
    .execute(connection)
    .await?;
    Ok(())
}
