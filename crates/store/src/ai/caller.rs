//! Caller of the AI proxy, as a reservation finds it in its transaction: the workspace, its owner, and all that bounds a call of theirs.

use rigbox_core::ai::account::{Account, Budget};
use rigbox_core::ai::mode::AiMode;
use rigbox_core::ai::money::Money;
use rigbox_core::ai::reservation::{Grant, grant};
use rigbox_core::egress::Egress;
use rigbox_core::ids::UserId;
use rigbox_core::plans::{LimitOverrides, Plan};
use rusqlite::Row;

use super::amounts::amount;
use super::reservation::{AiReservation, AiTerms};
use crate::networks::NetworkSettings;
use crate::{Error, json, parse, user_limits};

/// Bound that a call does not fit into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AiCap {
    /// Credits of the user.
    Credits,
    /// Budget of the user for the month.
    UserBudget,
    /// Budget of the workspace for the month.
    WorkspaceBudget,
}

/// Refusal of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AiDenial {
    /// There is no such workspace, or its owner is disabled.
    NoWorkspace,
    /// The operator has stopped all calls.
    Stopped,
    /// The workspace has switched its proxy off.
    SwitchedOff,
    /// The workspace does not use the operator's keys.
    NotManaged,
    /// The user or the workspace may not use the model.
    ModelNotAllowed,
    /// The provider would fetch a URL, and the workspace may not reach every host.
    UrlNotAllowed,
    /// The workspace has this many calls that are open.
    TooManyCalls(u64),
    /// A bound does not cover the call.
    Insufficient {
        /// The bound that has the least left.
        cap: AiCap,
        /// Least amount that the call needs.
        needed: Money,
        /// Amount that is left.
        left: Money,
    },
}

/// Caller, with what bounds its calls and does not change by them.
pub(super) struct Caller {
    pub(super) user: UserId,
    pub(super) workspace_name: String,
    plan: Plan,
    limits: LimitOverrides,
    user_budget: SetBudget,
    workspace_budget: SetBudget,
    is_disabled: bool,
    is_switched_off: bool,
    mode: AiMode,
    /// Models that may be used: all, if the list is empty.
    user_models: Vec<String>,
    workspace_models: Vec<String>,
    may_reach_every_host: bool,
}

/// Budget of a month, as the operator has set it or not.
#[derive(Clone, Copy)]
enum SetBudget {
    Default,
    Unlimited,
    Limit(Money),
}

/// Sums that a caller's calls change, as they are at a reservation.
pub(super) struct CallerSums {
    /// Account, with the allowance of now.
    pub(super) account: Account,
    /// Parts of the month's budgets that are used.
    pub(super) user_used: Money,
    pub(super) workspace_used: Money,
    pub(super) open_calls: u64,
}

/// Reads a caller.
pub(super) fn caller(row: &Row<'_>) -> Result<Caller, Error> {
    let text = |column| row.get::<_, String>(column);
    let optional_text = |column| row.get::<_, Option<String>>(column);
    let network: NetworkSettings = json::parse(&text("network")?)?;
    let mode = optional_text("ai_mode")?.or(optional_text("mode")?);
    Ok(Caller {
        user: parse(&text("user_id")?)?,
        workspace_name: text("name")?,
        plan: parse(&text("plan")?)?,
        limits: user_limits::read(optional_text("limits")?.as_deref())?,
        user_budget: budget(row, "has_user_budget", "user_budget")?,
        workspace_budget: budget(row, "has_workspace_budget", "workspace_budget")?,
        is_disabled: row.get::<_, Option<i64>>("disabled_at")?.is_some(),
        is_switched_off: row.get("ai_proxy_off")?,
        mode: mode.as_deref().map(parse).transpose()?.unwrap_or_default(),
        user_models: json::parse(&text("user_models")?)?,
        workspace_models: json::parse(&text("workspace_models")?)?,
        may_reach_every_host: network.egress == Egress::Internet,
    })
}

/// Reads an account as it was last changed. Its columns are missing before a user's first call.
pub(super) fn account(row: &Row<'_>) -> Result<Account, Error> {
    let money = |column| optional_money(row, column).map(Option::unwrap_or_default);
    Ok(Account {
        granted: money("granted")?,
        spent: money("spent")?,
        reserved: money("reserved")?,
        allowance: money("allowance")?,
        month: row.get::<_, Option<String>>("month")?.unwrap_or_default(),
    })
}

/// Reads an amount that may be missing.
pub(super) fn optional_money(row: &Row<'_>, column: &str) -> Result<Option<Money>, Error> {
    Ok(row.get::<_, Option<i64>>(column)?.map(amount))
}

fn budget(row: &Row<'_>, is_set: &str, amount: &str) -> Result<SetBudget, Error> {
    if row.get::<_, Option<String>>(is_set)?.is_none() {
        return Ok(SetBudget::Default);
    }
    Ok(optional_money(row, amount)?.map_or(SetBudget::Unlimited, SetBudget::Limit))
}

impl SetBudget {
    fn or(self, default: Option<Money>) -> Option<Money> {
        match self {
            Self::Default => default,
            Self::Unlimited => None,
            Self::Limit(limit) => Some(limit),
        }
    }
}

impl Caller {
    /// Returns the credits that the user's plan grants for a month.
    pub(super) fn allowance(&self, terms: &AiTerms) -> Money {
        terms.plans.entitlements(self.plan, self.limits).ai_credits()
    }

    /// Returns the bounds of the user's and the workspace's calls of a month, where there are any.
    pub(super) fn budgets(&self, terms: &AiTerms) -> [Option<Money>; 2] {
        [self.user_budget.or(terms.user_budget), self.workspace_budget.or(terms.workspace_budget)]
    }

    /// Decides about a call.
    pub(super) fn decide(
        &self,
        call: &AiReservation,
        sums: &CallerSums,
        terms: &AiTerms,
    ) -> Result<Grant, AiDenial> {
        if self.is_disabled {
            return Err(AiDenial::NoWorkspace);
        }
        if self.is_switched_off {
            return Err(AiDenial::SwitchedOff);
        }
        if self.mode != AiMode::Managed {
            return Err(AiDenial::NotManaged);
        }
        let is_in = |models: &[String]| models.is_empty() || models.contains(&call.model);
        if !is_in(&self.user_models) || !is_in(&self.workspace_models) {
            return Err(AiDenial::ModelNotAllowed);
        }
        if call.fetches_urls && !self.may_reach_every_host {
            return Err(AiDenial::UrlNotAllowed);
        }
        if sums.open_calls >= terms.max_open_calls {
            return Err(AiDenial::TooManyCalls(sums.open_calls));
        }
        let (cap, left) = sums.least_left(self.budgets(terms));
        let granted = grant(&call.ask, call.limits, &call.prices, left);
        granted.map_err(|refused| AiDenial::Insufficient { cap, needed: refused.needed, left })
    }
}

impl CallerSums {
    /// Returns the bound that has the least left.
    fn least_left(&self, [user, workspace]: [Option<Money>; 2]) -> (AiCap, Money) {
        let credits = (AiCap::Credits, self.account.left());
        let others = [
            (AiCap::UserBudget, Budget { limit: user, used: self.user_used }.left()),
            (AiCap::WorkspaceBudget, Budget { limit: workspace, used: self.workspace_used }.left()),
        ];
        others.into_iter().fold(credits, |least, other| if other.1 < least.1 { other } else { least })
    }
}
