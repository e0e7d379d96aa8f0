//! Ends of runs and of calls that nobody settles: both are settled at their bound. The caller's thread waits for the disk.

use std::collections::BTreeSet;

use rigbox_core::time::Timestamp;
use rusqlite::{ToSql, params};

use super::settlement::AiSettlement;
use crate::{Error, Store};

/// Calls settled in one transaction.
const BATCH: i64 = 200;

impl Store {
    /// Begins a run of the proxy: from now on no other one reserves, and what another one has left open is settled at its bound. Returns
    /// the number of those calls.
    pub fn begin_ai_run(&self, run: &str, now: Timestamp) -> Result<u64, Error> {
        self.inline_writer.transact(|tx| {
            tx.execute("UPDATE ai_proxy SET run = ?1 WHERE run <> ?1", [run])?;
            Ok(tx.commit()?)
        })?;
        self.settle_at_bound(
            "SELECT id FROM ai_calls WHERE ended_at IS NULL AND run <> ?1 LIMIT ?2",
            &run,
            now,
        )
    }

    /// Settles calls at their bound that began before a time and are still open. Returns their number.
    pub fn expire_ai_calls(&self, before: Timestamp, now: Timestamp) -> Result<u64, Error> {
        let query = "SELECT id FROM ai_calls WHERE ended_at IS NULL AND began_at < ?1 LIMIT ?2";
        self.settle_at_bound(query, &before.unix_ms(), now)
    }

    fn settle_at_bound(&self, query: &str, value: &dyn ToSql, now: Timestamp) -> Result<u64, Error> {
        let mut settled = 0;
        loop {
            let ids: Vec<String> = self.readers.read(|connection| {
                let mut statement = connection.prepare_cached(query)?;
                let ids = statement.query_map(params![value, BATCH], |row| row.get(0))?;
                Ok(ids.collect::<Result<_, _>>()?)
            })?;
            if ids.is_empty() {
                return Ok(settled);
            }
            let calls: Vec<_> = ids.into_iter().map(AiSettlement::at_bound).collect();
            let ids: Vec<_> = calls.iter().map(|call| call.id.as_str()).collect();
            self.in_ai_batch(&BTreeSet::new(), &ids, now, |batch| {
                calls.iter().try_for_each(|call| batch.settle(call).map(drop))
            })?;
            settled += calls.len() as u64;
        }
    }
}
