//! Ends of runs and of calls that nobody settles: both are settled at their bound.

use std::collections::BTreeSet;

use rigbox_core::time::Timestamp;

use super::settlement::AiSettlement;
use crate::{Error, Store};

/// Calls settled in one transaction.
const BATCH: i64 = 200;

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
            let ids: Vec<String> =
                sqlx::query_scalar(query).bind(value.clone()).bind(BATCH).fetch_all(&self.writer).await?;
            if ids.is_empty() {
                return Ok(settled);
            }
            let calls: Vec<_> = ids.into_iter().map(AiSettlement::at_bound).collect();
            let ids = calls.iter().map(|call| call.id.as_str()).collect();
            let (tx, mut batch) = self.begin_ai_batch(BTreeSet::new(), ids, now).await?;
            for call in &calls {
                batch.settle(call)?;
                settled += 1;
            }
            self.commit_ai_batch(tx, batch).await?;
        }
    }
}
