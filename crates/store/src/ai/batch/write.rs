//! Writes what a batch's steps have changed.
//!
//! All rows were read under the write lock, and the sums fit their bounds. The statements repeat that, so that nothing is committed where
//! they do not: of an account by its `CHECK`, of a month by `NULL` where it would be above its bound, which the column refuses.

use std::collections::BTreeSet;

use rusqlite::{Connection, params};

use super::Batch;
use crate::ai::amounts::{count, signed};
use crate::ai::sums::{MonthKey, Row};
use crate::{Error, json};

/// Time within which a key is recorded as used once.
const KEY_USE_STEP_MS: i64 = 1_000;

const NEW_CALL: &str = "INSERT INTO ai_calls (id, run, user_id, workspace_id, workspace_name, provider, upstream, operation, model, \
     prices, began_at, month, reserved, output_limit, lowered) \
     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)";
const NEW_ACCOUNT: &str = "INSERT INTO ai_accounts (user_id, granted, spent, reserved, allowance, month, spent_logged) \
     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
const ACCOUNT: &str = "UPDATE ai_accounts SET granted = ?2, spent = spent + ?3, reserved = reserved + ?4, allowance = ?5, month = ?6, \
     spent_logged = ?7 WHERE user_id = ?1";
const NEW_MONTH: &str = "INSERT INTO ai_months (kind, subject, month, spent, reserved) \
     VALUES (?1, ?2, ?3, ?4, CASE WHEN ?6 IS NULL OR ?4 + ?5 <= ?6 THEN ?5 END)";
const MONTH: &str = "UPDATE ai_months SET spent = spent + ?4, \
     reserved = CASE WHEN ?6 IS NULL OR spent + ?4 + reserved + ?5 <= ?6 THEN reserved + ?5 END \
     WHERE kind = ?1 AND subject = ?2 AND month = ?3";
const SETTLED_CALL: &str = "UPDATE ai_calls SET ended_at = ?2, cost = ?3, input_tokens = ?4, cache_read_tokens = ?5, \
     cache_write_5m_tokens = ?6, cache_write_1h_tokens = ?7, output_tokens = ?8, reasoning_tokens = ?9, estimated = ?10, at_bound = ?11, \
     status = ?12, ending = ?13, key_id = ?14, provider_request_id = ?15, duration_ms = ?16 WHERE id = ?1 AND ended_at IS NULL";
const USED_KEY: &str = "UPDATE ai_provider_keys SET last_used_at = ?2 WHERE id = ?1 AND (last_used_at IS NULL OR last_used_at < ?3)";

impl Batch<'_> {
    /// Writes what the steps have changed.
    pub(crate) fn write(&self, connection: &Connection) -> Result<(), Error> {
        self.write_accounts(connection)?;
        self.write_months(connection)?;
        self.write_reserved(connection)?;
        self.write_settled(connection)
    }

    fn write_accounts(&self, connection: &Connection) -> Result<(), Error> {
        for (user, known, change) in self.accounts.changed() {
            let (account, is_new) = (&known.account, known.row == Row::New);
            let mut statement = connection.prepare_cached(if is_new { NEW_ACCOUNT } else { ACCOUNT })?;
            statement.execute(params![
                user,
                signed(account.granted),
                change.spent,
                change.reserved,
                signed(account.allowance),
                account.month,
                known.logged
            ])?;
        }
        Ok(())
    }

    fn write_months(&self, connection: &Connection) -> Result<(), Error> {
        for (MonthKey { kind, subject, month }, sum, change) in self.months.changed() {
            let is_new = sum.row == Row::New;
            let mut statement = connection.prepare_cached(if is_new { NEW_MONTH } else { MONTH })?;
            let limit = sum.limit.map(signed);
            statement.execute(params![kind, subject, month, change.spent, change.reserved, limit])?;
        }
        Ok(())
    }

    fn write_reserved(&self, connection: &Connection) -> Result<(), Error> {
        let mut statement = connection.prepare_cached(NEW_CALL)?;
        for (call, granted) in &self.reserved {
            let workspace = call.workspace.as_str();
            let caller = self.callers.get(workspace);
            let caller =
                caller.ok_or_else(|| Error::Damaged("a reservation without its caller".to_owned()))?;
            statement.execute(params![
                call.id,
                self.run,
                caller.user.as_str(),
                workspace,
                caller.workspace_name,
                call.provider,
                call.upstream,
                call.operation,
                call.model,
                json::to_text(call.prices.to_record())?,
                self.now.unix_ms(),
                self.month,
                signed(granted.reserved),
                count(granted.output_tokens),
                granted.lowered
            ])?;
        }
        Ok(())
    }

    fn write_settled(&self, connection: &Connection) -> Result<(), Error> {
        let mut statement = connection.prepare_cached(SETTLED_CALL)?;
        let mut keys = BTreeSet::new();
        for (call, cost) in &self.settled {
            let usage = &call.usage;
            statement.execute(params![
                call.id,
                self.now.unix_ms(),
                signed(*cost),
                tokens(usage.input),
                tokens(usage.cache_read),
                tokens(usage.cache_write_5m),
                tokens(usage.cache_write_1h),
                tokens(usage.output),
                tokens(usage.reasoning),
                call.estimated || call.at_bound,
                call.at_bound,
                call.status,
                call.ending.as_str(),
                call.key,
                call.provider_request_id,
                count(call.duration_ms)
            ])?;
            keys.extend(call.key.as_deref());
        }
        let mut statement = connection.prepare_cached(USED_KEY)?;
        let now = self.now.unix_ms();
        for key in keys {
            statement.execute(params![key, now, now.saturating_sub(KEY_USE_STEP_MS)])?;
        }
        Ok(())
    }
}

/// Returns a number of tokens for a column. Absurd ones would not add up.
fn tokens(number: u64) -> i64 {
    count(number.min(u64::from(u32::MAX)))
}
