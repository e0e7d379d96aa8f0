//! Exchange that writes what a batch's steps have changed, and commits.

use std::collections::BTreeSet;

use rigbox_core::ai::money::Money;
use rigbox_core::ai::prices::Prices;
use rigbox_core::ai::reservation::Grant;
use serde::Serialize;
use sqlx::Sqlite;
use sqlx::query::Query;
use sqlx::sqlite::SqliteArguments;

use super::Batch;
use crate::ai::amounts::{count, signed};
use crate::ai::caller::Caller;
use crate::ai::reservation::AiReservation;
use crate::ai::settlement::AiSettlement;
use crate::ai::sums::{MonthKey, Row};
use crate::sqlite::connection::Transaction;
use crate::{Error, Store, json};

/// Time within which a key is recorded as used once.
const KEY_USE_STEP_MS: i64 = 1_000;

// All that a batch writes, with the rows of each statement as a JSON array: new calls `$1`, new and changed accounts `$2` and `$3`, new
// and changed months `$4` and `$5`, settled calls `$6`, and keys that were used `$7`. Reservations are of the run `$8` and began at `$9`,
// in the month `$10`.
//
// All rows were read under the write lock, and the sums fit their bounds. The statements repeat that, so that nothing is committed where
// they do not: of an account by its `CHECK`, of a month by `NULL` where it would be above its bound, which the column refuses.
//
// Each row is materialized, because SQLite would make its text anew for each of its fields.
//
// (In PostgreSQL each of the statements is sent alone; there, `json_each` is `json_to_recordset`.)
macro_rules! statements {
    () => {
        "WITH j (v) AS MATERIALIZED (SELECT value FROM json_each($1)) \
         INSERT INTO ai_calls (id, run, user_id, workspace_id, workspace_name, provider, upstream, operation, model, \
         prices, began_at, month, reserved, output_limit, lowered) \
         SELECT v ->> 'id', $8, v ->> 'user', v ->> 'workspace', v ->> 'workspace_name', v ->> 'provider', v ->> 'upstream', \
         v ->> 'operation', v ->> 'model', v -> 'prices', $9, $10, v ->> 'reserved', v ->> 'output_limit', v ->> 'lowered' FROM j; \
         WITH j (v) AS MATERIALIZED (SELECT value FROM json_each($2)) \
         INSERT INTO ai_accounts (user_id, granted, spent, reserved, allowance, month, spent_logged) \
         SELECT v ->> 'user', v ->> 'granted', v ->> 'spent', v ->> 'reserved', v ->> 'allowance', v ->> 'month', v ->> 'logged' \
         FROM j; \
         WITH j (v) AS MATERIALIZED (SELECT value FROM json_each($3)) \
         UPDATE ai_accounts SET granted = v ->> 'granted', spent = ai_accounts.spent + (v ->> 'spent'), \
         reserved = ai_accounts.reserved + (v ->> 'reserved'), allowance = v ->> 'allowance', month = v ->> 'month', \
         spent_logged = v ->> 'logged' FROM j WHERE ai_accounts.user_id = v ->> 'user'; \
         WITH j (v) AS MATERIALIZED (SELECT value FROM json_each($4)) \
         INSERT INTO ai_months (kind, subject, month, spent, reserved) \
         SELECT v ->> 'kind', v ->> 'subject', v ->> 'month', v ->> 'spent', \
         CASE WHEN (v ->> 'limit') IS NULL OR (v ->> 'spent') + (v ->> 'reserved') <= (v ->> 'limit') THEN v ->> 'reserved' END \
         FROM j; \
         WITH j (v) AS MATERIALIZED (SELECT value FROM json_each($5)) \
         UPDATE ai_months SET spent = ai_months.spent + (v ->> 'spent'), \
         reserved = CASE WHEN (v ->> 'limit') IS NULL OR ai_months.spent + (v ->> 'spent') + ai_months.reserved \
         + (v ->> 'reserved') <= (v ->> 'limit') THEN ai_months.reserved + (v ->> 'reserved') END \
         FROM j WHERE ai_months.kind = v ->> 'kind' AND ai_months.subject = v ->> 'subject' AND ai_months.month = v ->> 'month'; \
         WITH j (v) AS MATERIALIZED (SELECT value FROM json_each($6)) \
         UPDATE ai_calls SET ended_at = $9, cost = v ->> 'cost', input_tokens = v ->> 'input', \
         cache_read_tokens = v ->> 'cache_read', cache_write_5m_tokens = v ->> 'cache_write_5m', \
         cache_write_1h_tokens = v ->> 'cache_write_1h', output_tokens = v ->> 'output', reasoning_tokens = v ->> 'reasoning', \
         estimated = v ->> 'estimated', at_bound = v ->> 'at_bound', status = v ->> 'status', ending = v ->> 'ending', \
         key_id = v ->> 'key', provider_request_id = v ->> 'provider_request_id', duration_ms = v ->> 'duration_ms' \
         FROM j WHERE ai_calls.id = v ->> 'id' AND ai_calls.ended_at IS NULL; \
         UPDATE ai_provider_keys SET last_used_at = $9 WHERE id IN (SELECT value FROM json_each($7)) \
         AND (last_used_at IS NULL OR last_used_at < $11)"
    };
}
const WRITE: &str = statements!();
const WRITE_AND_COMMIT: &str = concat!(statements!(), "; COMMIT");

/// Call that is reserved.
#[derive(Serialize)]
struct NewCall<'a> {
    id: &'a str,
    user: &'a str,
    workspace: &'a str,
    workspace_name: &'a str,
    provider: &'a str,
    upstream: &'a str,
    operation: &'a str,
    model: &'a str,
    prices: &'a Prices,
    reserved: i64,
    output_limit: i64,
    lowered: bool,
}

/// Account with its terms, and with the differences of its sums.
#[derive(Serialize)]
struct AccountRow<'a> {
    user: &'a str,
    granted: i64,
    spent: i64,
    reserved: i64,
    allowance: i64,
    month: &'a str,
    logged: i64,
}

/// Month with the differences of its sums.
#[derive(Serialize)]
struct MonthRow<'a> {
    kind: &'a str,
    subject: &'a str,
    month: &'a str,
    spent: i64,
    reserved: i64,
    limit: Option<i64>,
}

/// Call that is settled.
#[derive(Serialize)]
struct SettledCall<'a> {
    id: &'a str,
    cost: i64,
    input: i64,
    cache_read: i64,
    cache_write_5m: i64,
    cache_write_1h: i64,
    output: i64,
    reasoning: i64,
    estimated: bool,
    at_bound: bool,
    status: u32,
    ending: &'a str,
    key: Option<&'a str>,
    provider_request_id: Option<&'a str>,
    duration_ms: i64,
}

impl Store {
    /// Writes what the steps of a batch have changed, and commits.
    pub(crate) async fn commit_ai_batch(&self, mut tx: Transaction, batch: Batch<'_>) -> Result<(), Error> {
        if batch.revocations.is_empty() {
            return Ok(tx.commit_by(batch.query(WRITE_AND_COMMIT)?).await?);
        }
        batch.query(WRITE)?.execute(&mut *tx).await?;
        self.commit_revoking(tx, batch.revocations, batch.now).await
    }
}

impl Batch<'_> {
    fn query(&self, statements: &'static str) -> Result<Query<'_, Sqlite, SqliteArguments>, Error> {
        let ([new_accounts, accounts], [new_months, months]) = (self.account_rows(), self.month_rows());
        let settled: Vec<_> = self.settled.iter().map(settled_call).collect();
        let keys: BTreeSet<&str> = settled.iter().filter_map(|call| call.key).collect();
        Ok(sqlx::query(statements)
            .bind(json::to_text(&self.new_calls())?)
            .bind(json::to_text(&new_accounts)?)
            .bind(json::to_text(&accounts)?)
            .bind(json::to_text(&new_months)?)
            .bind(json::to_text(&months)?)
            .bind(json::to_text(&settled)?)
            .bind(json::to_text(&keys)?)
            .bind(&self.run)
            .bind(self.now.unix_ms())
            .bind(&self.month)
            .bind(self.now.unix_ms().saturating_sub(KEY_USE_STEP_MS)))
    }

    /// Returns the calls that are reserved. Their callers were read, or they would not be.
    fn new_calls(&self) -> Vec<NewCall<'_>> {
        let callers = &self.callers;
        let reserved = self.reserved.iter();
        reserved
            .filter_map(|(call, granted)| {
                Some(new_call(call, *granted, callers.get(call.workspace.as_str())?))
            })
            .collect()
    }

    /// Returns the accounts that are new, and the others that have changed.
    fn account_rows(&self) -> [Vec<AccountRow<'_>>; 2] {
        let mut rows = [Vec::new(), Vec::new()];
        let [new, changed] = &mut rows;
        for (user, known, change) in self.accounts.changed() {
            let account = &known.account;
            let row = AccountRow {
                user,
                granted: signed(account.granted),
                spent: change.spent,
                reserved: change.reserved,
                allowance: signed(account.allowance),
                month: &account.month,
                logged: known.logged,
            };
            if known.row == Row::New { new.push(row) } else { changed.push(row) }
        }
        rows
    }

    /// Returns the months that are new, and the others that have changed.
    fn month_rows(&self) -> [Vec<MonthRow<'_>>; 2] {
        let mut rows = [Vec::new(), Vec::new()];
        let [new, changed] = &mut rows;
        for (MonthKey { kind, subject, month }, sum, change) in self.months.changed() {
            let limit = sum.limit.map(signed);
            let row =
                MonthRow { kind, subject, month, spent: change.spent, reserved: change.reserved, limit };
            if sum.row == Row::New { new.push(row) } else { changed.push(row) }
        }
        rows
    }
}

fn new_call<'a>(call: &'a AiReservation, granted: Grant, caller: &'a Caller) -> NewCall<'a> {
    NewCall {
        id: &call.id,
        user: caller.user.as_str(),
        workspace: call.workspace.as_str(),
        workspace_name: &caller.workspace_name,
        provider: call.provider,
        upstream: &call.upstream,
        operation: call.operation,
        model: &call.model,
        prices: call.prices.to_record(),
        reserved: signed(granted.reserved),
        output_limit: count(granted.output_tokens),
        lowered: granted.lowered,
    }
}

fn settled_call<'a>((call, cost): &(&'a AiSettlement, Money)) -> SettledCall<'a> {
    let usage = &call.usage;
    SettledCall {
        id: &call.id,
        cost: signed(*cost),
        input: tokens(usage.input),
        cache_read: tokens(usage.cache_read),
        cache_write_5m: tokens(usage.cache_write_5m),
        cache_write_1h: tokens(usage.cache_write_1h),
        output: tokens(usage.output),
        reasoning: tokens(usage.reasoning),
        estimated: call.estimated || call.at_bound,
        at_bound: call.at_bound,
        status: call.status,
        ending: call.ending.as_str(),
        key: call.key.as_deref(),
        provider_request_id: call.provider_request_id.as_deref(),
        duration_ms: count(call.duration_ms),
    }
}

/// Returns a number of tokens for a column. Absurd ones would not add up.
fn tokens(number: u64) -> i64 {
    count(number.min(u64::from(u32::MAX)))
}
