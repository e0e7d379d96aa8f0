//! Settlement of calls: once, at what they have used, and never above what was reserved.

use rigbox_core::ai::money::Money;
use rigbox_core::ai::prices::{CallPrices, Usage};
use rigbox_core::time::Timestamp;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use super::amounts::{count, money, signed};
use crate::revocations::entry::Revocation;
use crate::sqlite::connection::Connection;
use crate::{Error, Store, json};

/// Amount by which the log of revocations runs ahead of what is spent, so that few settlements write to it.
const LOG_STEP: i64 = 1_000_000;
/// Calls settled in one transaction when their run is over.
const BATCH: i64 = 200;
/// Time within which a key is recorded as used once.
const KEY_USE_STEP_MS: i64 = 1_000;

/// All that a settlement writes, for one exchange with the database, which takes longer than the statements do.
const SETTLE: &str = "UPDATE ai_calls SET ended_at = $1, cost = $2, input_tokens = $3, cache_read_tokens = $4, \
     cache_write_5m_tokens = $5, cache_write_1h_tokens = $6, output_tokens = $7, reasoning_tokens = $8, \
     estimated = $9, at_bound = $10, status = $11, ending = $12, key_id = $13, provider_request_id = $14, \
     duration_ms = $15 WHERE id = $16 AND ended_at IS NULL; \
     UPDATE ai_months SET spent = spent + $2, reserved = reserved - $17 WHERE month = $20 \
     AND ((kind = 'user' AND subject = $18) OR (kind = 'workspace' AND subject = $19)); \
     UPDATE ai_provider_keys SET last_used_at = $1 WHERE id = $13 AND (last_used_at IS NULL OR last_used_at < $21); \
     UPDATE ai_accounts SET spent = spent + $2, reserved = reserved - $17 WHERE user_id = $18 \
     RETURNING spent, spent_logged";

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AiEnding {
    /// Whole.
    Completed,
    /// The provider refused it, or failed.
    Refused,
    /// The client hung up, and the rest was read without it.
    HungUp,
    /// The provider's answer broke off.
    CutOff,
    /// Nothing was sent to the provider.
    NotSent,
    /// The proxy did not say.
    Unknown,
}

/// Call that is over.
#[derive(Debug, Clone)]
pub struct AiSettlement {
    /// Id that the proxy has made.
    pub id: String,
    /// Tokens.
    pub usage: Usage,
    /// The provider's figures are not whole.
    pub estimated: bool,
    /// Nothing is known of what was used: the whole bound counts.
    pub at_bound: bool,
    /// HTTP status that the client got; 0: none.
    pub status: u32,
    /// How it ended.
    pub ending: AiEnding,
    /// Id of the provider's key.
    pub key: Option<String>,
    /// The provider's id of the call.
    pub provider_request_id: Option<String>,
    /// Duration in milliseconds.
    pub duration_ms: u64,
    /// Cost that the provider has told.
    pub told_cost: Option<Money>,
}

impl AiEnding {
    fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Refused => "refused",
            Self::HungUp => "hung_up",
            Self::CutOff => "cut_off",
            Self::NotSent => "not_sent",
            Self::Unknown => "unknown",
        }
    }
}

impl AiSettlement {
    /// Returns the settlement of a call of which nothing is known.
    fn at_bound(id: String) -> Self {
        Self {
            id,
            usage: Usage::default(),
            estimated: true,
            at_bound: true,
            status: 0,
            ending: AiEnding::Unknown,
            key: None,
            provider_request_id: None,
            duration_ms: 0,
            told_cost: None,
        }
    }

    fn cost(&self, prices: CallPrices, reserved: Money) -> Money {
        if self.at_bound {
            return reserved;
        }
        self.told_cost.unwrap_or_else(|| prices.cost(&self.usage)).min(reserved)
    }
}

impl Store {
    /// Begins a run of the proxy: from now on no other one reserves, and what another one has left open is settled at its bound. Returns
    /// the number of those calls.
    pub async fn begin_ai_run(&self, run: &str, now: Timestamp) -> Result<u64, Error> {
        sqlx::query("UPDATE ai_proxy SET run = $1 WHERE run <> $1").bind(run).execute(&self.writer).await?;
        self.settle_at_bound(
            "SELECT id FROM ai_calls WHERE ended_at IS NULL AND run <> $1 LIMIT $2",
            run,
            now,
        )
        .await
    }

    /// Settles calls at their bound that began before a time and are still open. Returns their number.
    pub async fn expire_ai_calls(&self, before: Timestamp, now: Timestamp) -> Result<u64, Error> {
        let query = "SELECT id FROM ai_calls WHERE ended_at IS NULL AND began_at < $1 LIMIT $2";
        self.settle_at_bound(query, before.unix_ms(), now).await
    }

    async fn settle_at_bound<'q, T>(
        &self,
        query: &'static str,
        value: T,
        now: Timestamp,
    ) -> Result<u64, Error>
    where
        T: sqlx::Encode<'q, sqlx::Sqlite> + sqlx::Type<sqlx::Sqlite> + Clone + Send + 'q,
    {
        let mut settled = 0;
        loop {
            let mut tx = self.begin_write().await?;
            let ids: Vec<String> =
                sqlx::query_scalar(query).bind(value.clone()).bind(BATCH).fetch_all(&mut *tx).await?;
            if ids.is_empty() {
                return Ok(settled);
            }
            let mut changes = Vec::new();
            for id in ids {
                settle(&mut tx, &AiSettlement::at_bound(id), &mut changes, now).await?;
                settled += 1;
            }
            self.commit_revoking(tx, changes, now).await?;
        }
    }
}

/// Settles a call, and returns its cost; `None`, if it was never reserved. A call that is settled stays as it is. The caller commits with
/// the changes that are added.
pub(super) async fn settle(
    tx: &mut Connection,
    call: &AiSettlement,
    changes: &mut Vec<Revocation>,
    now: Timestamp,
) -> Result<Option<Money>, Error> {
    let query =
        "SELECT user_id, workspace_id, month, prices, reserved, cost, ended_at FROM ai_calls WHERE id = $1";
    let row = sqlx::query(query).bind(&call.id).fetch_optional(&mut *tx).await?;
    let Some(row) = row else { return Ok(None) };
    if row.try_get::<Option<i64>, _>("ended_at")?.is_some() {
        return Ok(Some(money(&row, "cost")?));
    }
    let reserved = money(&row, "reserved")?;
    let prices = CallPrices::recorded(json::parse(row.try_get("prices")?)?);
    let cost = call.cost(prices, reserved);
    let account = write(tx, call, &row, (cost, reserved), now).await?;
    changes.extend(log_spent(tx, row.try_get("user_id")?, &account).await?);
    Ok(Some(cost))
}

/// Records a call that is over, and replaces its reservation by its cost. Returns the account.
async fn write(
    tx: &mut Connection,
    call: &AiSettlement,
    reservation: &SqliteRow,
    (cost, reserved): (Money, Money),
    now: Timestamp,
) -> Result<SqliteRow, Error> {
    let usage = &call.usage;
    let rows = sqlx::query(SETTLE)
        .bind(now.unix_ms())
        .bind(signed(cost))
        .bind(tokens(usage.input))
        .bind(tokens(usage.cache_read))
        .bind(tokens(usage.cache_write_5m))
        .bind(tokens(usage.cache_write_1h))
        .bind(tokens(usage.output))
        .bind(tokens(usage.reasoning))
        .bind(call.estimated || call.at_bound)
        .bind(call.at_bound)
        .bind(i64::from(call.status))
        .bind(call.ending.as_str())
        .bind(&call.key)
        .bind(&call.provider_request_id)
        .bind(count(call.duration_ms))
        .bind(&call.id)
        .bind(signed(reserved))
        .bind(reservation.try_get::<&str, _>("user_id")?)
        .bind(reservation.try_get::<&str, _>("workspace_id")?)
        .bind(reservation.try_get::<&str, _>("month")?)
        .bind(now.unix_ms().saturating_sub(KEY_USE_STEP_MS))
        .fetch_all(tx)
        .await?;
    rows.into_iter().next().ok_or_else(|| Error::Damaged("a call without an account".to_owned()))
}

/// Returns what the log of revocations has to know of a user's account, if it is behind.
async fn log_spent(
    tx: &mut Connection,
    user: &str,
    account: &SqliteRow,
) -> Result<Option<Revocation>, Error> {
    let (spent, logged): (i64, i64) = (account.try_get("spent")?, account.try_get("spent_logged")?);
    if spent <= logged {
        return Ok(None);
    }
    let spent = spent.saturating_add(LOG_STEP);
    sqlx::query("UPDATE ai_accounts SET spent_logged = $1 WHERE user_id = $2")
        .bind(spent)
        .bind(user)
        .execute(tx)
        .await?;
    Ok(Some(Revocation::AiSpent { user: user.to_owned(), spent }))
}

/// Returns a number of tokens for a column. Absurd ones would not add up.
fn tokens(number: u64) -> i64 {
    count(number.min(u64::from(u32::MAX)))
}
