//! Reservations and settlements of calls. All that wait are written in one transaction, with an outcome for each.

use rigbox_core::ai::account::Budget;
use rigbox_core::ai::money::Money;
use rigbox_core::ai::reservation::Grant;
use rigbox_core::time::Timestamp;
use sqlx::Row;

use super::amounts::{count, money, month, number, signed};
use super::caller::{self, AiDenial, Caller};
use super::reservation::{AiReservation, AiTerms};
use super::settlement::{self, AiSettlement};
use crate::sqlite::connection::Connection;
use crate::{Error, Store, json};

/// Step of a call.
#[derive(Debug)]
pub enum AiStep {
    /// It is reserved before it is made.
    Reserve(Box<AiReservation>),
    /// It is settled once it is over.
    Settle(Box<AiSettlement>),
}

/// Outcome of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AiOutcome {
    /// The call is reserved.
    Reserved(Grant),
    /// The call is refused.
    Denied(AiDenial),
    /// Another run of the proxy has taken over, or none has begun.
    OtherRun,
    /// The call is settled at this cost.
    Settled(Money),
    /// The call was never reserved.
    UnknownCall,
}

/// All that a reservation writes, for one exchange with the database, which takes longer than the statements do. (PostgreSQL takes each of
/// them alone.) The conditions of the sums hold already, and are repeated where writers do not take turns. The months' sums are kept without
/// a budget too, for one that is set later.
const RESERVE: &str = "INSERT INTO ai_calls (id, run, user_id, workspace_id, workspace_name, provider, upstream, operation, model, \
     prices, began_at, month, reserved, output_limit, lowered) \
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15); \
     INSERT INTO ai_accounts (user_id, granted, spent, reserved, allowance, month) VALUES ($3, $16, 0, $13, $17, $12) \
     ON CONFLICT (user_id) DO UPDATE SET granted = excluded.granted, \
     reserved = ai_accounts.reserved + excluded.reserved, allowance = excluded.allowance, month = excluded.month \
     WHERE ai_accounts.spent + ai_accounts.reserved + excluded.reserved <= excluded.granted; \
     INSERT INTO ai_months (kind, subject, month, spent, reserved) VALUES ('user', $3, $12, 0, $13) \
     ON CONFLICT (kind, subject, month) DO UPDATE SET reserved = ai_months.reserved + excluded.reserved \
     WHERE ai_months.spent + ai_months.reserved + excluded.reserved <= $18; \
     INSERT INTO ai_months (kind, subject, month, spent, reserved) VALUES ('workspace', $4, $12, 0, $13) \
     ON CONFLICT (kind, subject, month) DO UPDATE SET reserved = ai_months.reserved + excluded.reserved \
     WHERE ai_months.spent + ai_months.reserved + excluded.reserved <= $19";
/// Rows that it changes: the call, the account, and two sums of the month.
const RESERVE_ROWS: u64 = 4;

impl Store {
    /// Writes steps of calls in their order and in one transaction. Returns the outcome of each.
    pub async fn write_ai_steps(
        &self,
        steps: &[AiStep],
        terms: &AiTerms,
        now: Timestamp,
    ) -> Result<Vec<AiOutcome>, Error> {
        let mut tx = self.begin_write().await?;
        let (mut outcomes, mut changes) = (Vec::with_capacity(steps.len()), Vec::new());
        for step in steps {
            outcomes.push(match step {
                AiStep::Reserve(call) => reserve(&mut tx, call, terms, now).await?,
                AiStep::Settle(call) => match settlement::settle(&mut tx, call, &mut changes, now).await? {
                    Some(cost) => AiOutcome::Settled(cost),
                    None => AiOutcome::UnknownCall,
                },
            });
        }
        self.commit_revoking(tx, changes, now).await?;
        Ok(outcomes)
    }
}

async fn reserve(
    tx: &mut Connection,
    call: &AiReservation,
    terms: &AiTerms,
    now: Timestamp,
) -> Result<AiOutcome, Error> {
    let Some(caller) = caller::read(tx, call, &month(now), terms).await? else {
        return reserve_without_workspace(tx, call).await;
    };
    if caller.run != call.run {
        return Ok(AiOutcome::OtherRun);
    }
    if caller.is_reserved
        && let Some(granted) = reserved_before(tx, call).await?
    {
        return Ok(granted);
    }
    let granted = match caller.decide(call, terms) {
        Ok(granted) => granted,
        Err(denied) => return Ok(AiOutcome::Denied(denied)),
    };
    write(tx, call, &caller, granted, now).await?;
    Ok(AiOutcome::Reserved(granted))
}

/// Returns the outcome for a workspace that does not exist, any more perhaps.
async fn reserve_without_workspace(tx: &mut Connection, call: &AiReservation) -> Result<AiOutcome, Error> {
    let run: String = sqlx::query_scalar("SELECT run FROM ai_proxy").fetch_one(&mut *tx).await?;
    if run != call.run {
        return Ok(AiOutcome::OtherRun);
    }
    Ok(reserved_before(tx, call).await?.unwrap_or(AiOutcome::Denied(AiDenial::NoWorkspace)))
}

/// Returns how the call was reserved before, if it was. Another workspace's call does not become this one's.
async fn reserved_before(tx: &mut Connection, call: &AiReservation) -> Result<Option<AiOutcome>, Error> {
    let query = "SELECT run, workspace_id, reserved, output_limit, lowered FROM ai_calls WHERE id = $1";
    let Some(row) = sqlx::query(query).bind(&call.id).fetch_optional(tx).await? else { return Ok(None) };
    let (run, workspace): (&str, &str) = (row.try_get("run")?, row.try_get("workspace_id")?);
    if run != call.run || workspace != call.workspace.as_str() {
        return Ok(Some(AiOutcome::OtherRun));
    }
    Ok(Some(AiOutcome::Reserved(Grant {
        reserved: money(&row, "reserved")?,
        output_tokens: number(&row, "output_limit")?,
        lowered: row.try_get("lowered")?,
    })))
}

async fn write(
    tx: &mut Connection,
    call: &AiReservation,
    caller: &Caller,
    granted: Grant,
    now: Timestamp,
) -> Result<(), Error> {
    let limit = |budget: Budget| signed(budget.limit.unwrap_or(Money::MAX));
    let done = sqlx::query(RESERVE)
        .bind(&call.id)
        .bind(&call.run)
        .bind(caller.user.as_str())
        .bind(call.workspace.as_str())
        .bind(&caller.workspace_name)
        .bind(call.provider)
        .bind(&call.upstream)
        .bind(call.operation)
        .bind(&call.model)
        .bind(json::to_text(call.prices.to_record())?)
        .bind(now.unix_ms())
        .bind(&caller.account.month)
        .bind(signed(granted.reserved))
        .bind(count(granted.output_tokens))
        .bind(granted.lowered)
        .bind(signed(caller.account.granted))
        .bind(signed(caller.account.allowance))
        .bind(limit(caller.user_budget))
        .bind(limit(caller.workspace_budget))
        .execute(tx)
        .await?;
    if done.rows_affected() == RESERVE_ROWS {
        Ok(())
    } else {
        Err(Error::Damaged("an account changed during a reservation".to_owned()))
    }
}
