//! Batch of steps: what they depend on is read, each is decided in its turn, and what they change is written, each sum once. The outcome of
//! each step, and what is written, are those of the steps one by one: each sees what those before it have changed.

use std::collections::{BTreeMap, BTreeSet};

use rigbox_core::ai::money::Money;
use rigbox_core::ai::prices::CallPrices;
use rigbox_core::ai::reservation::Grant;
use rigbox_core::time::Timestamp;

use super::caller::{AiDenial, Caller, CallerSums};
use super::reservation::{AiReservation, AiTerms};
use super::settlement::AiSettlement;
use super::step::AiOutcome;
use super::sums::{Accounts, MonthKey, Months};
use crate::revocations::entry::Revocation;
use crate::{Error, Store, json};

mod read;
mod write;

/// Steps that share a transaction, and all that they concern.
pub(crate) struct Batch<'a> {
    now: Timestamp,
    /// Month of `now`.
    month: String,
    /// Run of the proxy that may reserve.
    run: String,
    is_stopped: bool,
    /// Callers by workspace.
    callers: BTreeMap<String, Caller>,
    /// Numbers of calls that are open, of the workspaces of `callers`.
    open_calls: BTreeMap<String, u64>,
    /// Calls by id.
    calls: BTreeMap<String, Call<'a>>,
    accounts: Accounts,
    months: Months,
    reserved: Vec<(&'a AiReservation, Grant)>,
    settled: Vec<(&'a AiSettlement, Money)>,
    revocations: Vec<Revocation>,
}

/// Call that is reserved, or was.
struct Call<'a> {
    run: String,
    user: String,
    workspace: String,
    month: String,
    prices: RecordedPrices<'a>,
    granted: Grant,
    /// Cost, once it is settled.
    cost: Option<Money>,
}

/// Prices of a call, in the database or in this batch.
enum RecordedPrices<'a> {
    Stored(String),
    OfStep(&'a CallPrices),
}

impl<'a> Batch<'a> {
    /// Reserves a call, or refuses it. With the id of a call that is reserved, returns its reservation.
    pub(crate) fn reserve(&mut self, call: &'a AiReservation, terms: &AiTerms) -> AiOutcome {
        if self.run != call.run {
            return AiOutcome::OtherRun;
        }
        if let Some(known) = self.calls.get(&call.id) {
            return known.reserved_again(call);
        }
        let workspace = call.workspace.as_str();
        let Some(caller) = self.callers.get(workspace) else {
            return AiOutcome::Denied(AiDenial::NoWorkspace);
        };
        if self.is_stopped {
            return AiOutcome::Denied(AiDenial::Stopped);
        }
        let sums = self.sums(caller, workspace, terms);
        let granted = match caller.decide(call, &sums, terms) {
            Ok(granted) => granted,
            Err(denied) => return AiOutcome::Denied(denied),
        };
        let user = caller.user.as_str().to_owned();
        let budgets = caller.budgets(terms);
        self.accounts.reserve(&user, sums.account, granted.reserved);
        for (key, limit) in self.months_of(&user, workspace, &self.month).into_iter().zip(budgets) {
            self.months.reserve(key, granted.reserved, limit);
        }
        self.open_calls.entry(workspace.to_owned()).and_modify(|open| *open += 1).or_insert(1);
        self.reserved.push((call, granted));
        let reserved = Call {
            run: call.run.clone(),
            user,
            workspace: workspace.to_owned(),
            month: self.month.clone(),
            prices: RecordedPrices::OfStep(&call.prices),
            granted,
            cost: None,
        };
        self.calls.insert(call.id.clone(), reserved);
        AiOutcome::Reserved(granted)
    }

    /// Returns the sums that a caller's calls change. The allowance is that of now, which counts once a call is reserved.
    fn sums(&self, caller: &Caller, workspace: &str, terms: &AiTerms) -> CallerSums {
        let user = caller.user.as_str();
        let mut account = self.accounts.get(user);
        let used_of_allowance = self.months.used(&MonthKey::user(user, &account.month));
        account.renew(&self.month, caller.allowance(terms), used_of_allowance);
        let [user_month, workspace_month] = self.months_of(user, workspace, &self.month);
        CallerSums {
            account,
            user_used: self.months.used(&user_month),
            workspace_used: self.months.used(&workspace_month),
            open_calls: self.open_calls.get(workspace).copied().unwrap_or(0),
        }
    }

    fn months_of(&self, user: &str, workspace: &str, month: &str) -> [MonthKey; 2] {
        [MonthKey::user(user, month), MonthKey::workspace(workspace, month)]
    }

    /// Settles a call. One that is settled stays as it is.
    pub(super) fn settle(&mut self, settlement: &'a AiSettlement) -> Result<AiOutcome, Error> {
        let Some(call) = self.calls.get_mut(&settlement.id) else { return Ok(AiOutcome::UnknownCall) };
        if let Some(cost) = call.cost {
            return Ok(AiOutcome::Settled(cost));
        }
        let reserved = call.granted.reserved;
        let cost = settlement.cost(call.prices.get()?, reserved);
        call.cost = Some(cost);
        let logged = self.accounts.settle(&call.user, cost, reserved)?;
        let logged = logged.map(|spent| Revocation::AiSpent { user: call.user.clone(), spent });
        self.revocations.extend(logged);
        let months =
            [MonthKey::user(&call.user, &call.month), MonthKey::workspace(&call.workspace, &call.month)];
        for key in months {
            self.months.settle(key, cost, reserved);
        }
        if let Some(open) = self.open_calls.get_mut(&call.workspace) {
            *open = open.saturating_sub(1);
        }
        self.settled.push((settlement, cost));
        Ok(AiOutcome::Settled(cost))
    }
}

impl Call<'_> {
    /// Returns the outcome of another reservation with this call's id. Another workspace's call does not become that one's.
    fn reserved_again(&self, call: &AiReservation) -> AiOutcome {
        if self.run == call.run && self.workspace == call.workspace.as_str() {
            AiOutcome::Reserved(self.granted)
        } else {
            AiOutcome::OtherRun
        }
    }
}

impl RecordedPrices<'_> {
    fn get(&self) -> Result<CallPrices, Error> {
        let prices = match self {
            Self::Stored(text) => json::parse(text)?,
            Self::OfStep(prices) => prices.to_record().clone(),
        };
        Ok(CallPrices::recorded(prices))
    }
}

impl Store {
    /// Runs `work` on a batch, in a transaction with all that its steps depend on: reservations of these workspaces, calls with these ids.
    /// Their changes are written. The caller's thread waits for the disk.
    pub(super) fn in_ai_batch<'a, T>(
        &self,
        workspaces: &BTreeSet<&str>,
        calls: &[&str],
        now: Timestamp,
        work: impl FnOnce(&mut Batch<'a>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        self.inline_writer.transact(|tx| {
            self.revocations.settle_inline(&tx)?;
            let mut batch = Batch::read(&tx, workspaces, calls, now)?;
            let done = work(&mut batch)?;
            batch.write(&tx)?;
            self.commit_revoking_inline(tx, batch.revocations, now)?;
            Ok(done)
        })
    }
}
