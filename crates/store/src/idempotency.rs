//! Answers of creates, kept under the key that the client gave, so that a repeated request makes nothing twice.

use rigbox_core::ids::UserId;
use rigbox_core::time::Moment;
use sqlx::{Row, SqliteConnection};

use crate::Error;

/// How long an answer is kept.
const KEPT_MS: i64 = 24 * 60 * 60 * 1000;

/// A create that is to happen once.
#[derive(Debug, Clone)]
pub struct Once {
    key: String,
    request: String,
}

impl Once {
    /// `key` as the client gave it; `request` is all that distinguishes this request from another.
    pub fn new(key: &str, request: &[u8]) -> Self {
        Self { key: key.to_owned(), request: blake3::hash(request).to_hex().to_string() }
    }
}

/// What a create came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Replay<T> {
    /// It was done now.
    Fresh(T),
    /// It had been done before, with this answer.
    Before(String),
}

pub(crate) async fn recall(
    connection: &mut SqliteConnection,
    user: &UserId,
    once: &Once,
    now: Moment,
) -> Result<Option<String>, Error> {
    sqlx::query("DELETE FROM idempotency_keys WHERE created_at < $1")
        .bind(now.unix_ms() - KEPT_MS)
        .execute(&mut *connection)
        .await?;
    let row = sqlx::query("SELECT request, answer FROM idempotency_keys WHERE user_id = $1 AND key = $2")
        .bind(user.as_str())
        .bind(&once.key)
        .fetch_optional(connection)
        .await?;
    match row {
        None => Ok(None),
        Some(row) if row.try_get::<&str, _>("request")? == once.request => Ok(Some(row.try_get("answer")?)),
        Some(_) => Err(Error::KeyReused),
    }
}

pub(crate) async fn remember(
    connection: &mut SqliteConnection,
    user: &UserId,
    once: &Once,
    answer: &str,
    now: Moment,
) -> Result<(), Error> {
    sqlx::query(
        "INSERT INTO idempotency_keys (user_id, key, request, answer, created_at) \
         VALUES ($1, $2, $3, $4, $5)",
    )
    .bind(user.as_str())
    .bind(&once.key)
    .bind(&once.request)
    .bind(answer)
    .bind(now.unix_ms())
    .execute(connection)
    .await?;
    Ok(())
}
