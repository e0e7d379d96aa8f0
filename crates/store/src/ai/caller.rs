//! Caller of the AI proxy, as a reservation reads it in its transaction: the workspace, its owner, and all that bounds a call of theirs.

use rigbox_core::ai::account::{Account, Budget};
use rigbox_core::ai::mode::AiMode;
use rigbox_core::ai::money::Money;
use rigbox_core::ai::reservation::{Grant, grant};
use rigbox_core::egress::Egress;
use rigbox_core::ids::UserId;
use rigbox_core::plans::Plans;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use super::amounts::{money, number, optional_money};
use super::reservation::{AiReservation, AiTerms};
use crate::networks::NetworkSettings;
use crate::sqlite::connection::Connection;
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

/// Caller, with what bounds its calls.
pub(super) struct Caller {
    pub(super) user: UserId,
    pub(super) workspace_name: String,
    /// Account, with the allowance of now.
    pub(super) account: Account,
    pub(super) user_budget: Budget,
    pub(super) workspace_budget: Budget,
    /// Run of the proxy that may reserve.
    pub(super) run: String,
    /// The call itself is reserved.
    pub(super) is_reserved: bool,
    is_stopped: bool,
    is_disabled: bool,
    is_switched_off: bool,
    mode: AiMode,
    may_use_model: bool,
    may_reach_every_host: bool,
    open_calls: u64,
}

/// Everything that bounds a call, in one statement: a reservation is made at each call.
const QUERY: &str = "SELECT p.run, p.stopped, w.user_id, w.name, w.network, w.ai_mode, w.ai_proxy_off, u.plan, u.limits, u.disabled_at, \
     a.granted, a.spent, a.reserved, a.allowance, a.month, a.mode, \
     ub.kind AS has_user_budget, ub.amount AS user_budget, wb.kind AS has_workspace_budget, wb.amount AS workspace_budget, \
     um.spent + um.reserved AS user_used, wm.spent + wm.reserved AS workspace_used, am.spent + am.reserved AS allowance_used, \
     (SELECT COUNT(*) FROM ai_calls c WHERE c.id = $4) AS same_calls, \
     (SELECT COUNT(*) FROM ai_calls c WHERE c.workspace_id = w.id AND c.ended_at IS NULL) AS open_calls, \
     (SELECT COUNT(*) FROM ai_allowed_models m WHERE m.kind = 'user' AND m.subject = w.user_id) AS user_models, \
     (SELECT COUNT(*) FROM ai_allowed_models m WHERE m.kind = 'user' AND m.subject = w.user_id AND m.model = $2) AS user_model, \
     (SELECT COUNT(*) FROM ai_allowed_models m WHERE m.kind = 'workspace' AND m.subject = w.id) AS workspace_models, \
     (SELECT COUNT(*) FROM ai_allowed_models m WHERE m.kind = 'workspace' AND m.subject = w.id AND m.model = $2) AS workspace_model \
     FROM workspaces w CROSS JOIN ai_proxy p JOIN users u ON u.id = w.user_id \
     LEFT JOIN ai_accounts a ON a.user_id = w.user_id \
     LEFT JOIN ai_budgets ub ON ub.kind = 'user' AND ub.subject = w.user_id \
     LEFT JOIN ai_budgets wb ON wb.kind = 'workspace' AND wb.subject = w.id \
     LEFT JOIN ai_months um ON um.kind = 'user' AND um.subject = w.user_id AND um.month = $3 \
     LEFT JOIN ai_months wm ON wm.kind = 'workspace' AND wm.subject = w.id AND wm.month = $3 \
     LEFT JOIN ai_months am ON am.kind = 'user' AND am.subject = w.user_id AND am.month = a.month \
     WHERE w.id = $1";

/// Reads the caller of a call; `None`, if there is no such workspace.
pub(super) async fn read(
    connection: &mut Connection,
    call: &AiReservation,
    month: &str,
    terms: &AiTerms,
) -> Result<Option<Caller>, Error> {
    let query = sqlx::query(QUERY).bind(call.workspace.as_str()).bind(&call.model).bind(month).bind(&call.id);
    let row = query.fetch_optional(connection).await?;
    row.map(|row| caller(&row, month, terms)).transpose()
}

fn caller(row: &SqliteRow, month: &str, terms: &AiTerms) -> Result<Caller, Error> {
    let is_in = |all: &str, one: &str| Ok::<_, Error>(number(row, all)? == 0 || number(row, one)? > 0);
    let network: NetworkSettings = json::parse(row.try_get("network")?)?;
    let own_mode: Option<&str> = row.try_get("ai_mode")?;
    let default_mode: Option<&str> = row.try_get("mode")?;
    Ok(Caller {
        user: parse(row.try_get("user_id")?)?,
        workspace_name: row.try_get("name")?,
        account: account(row, month, &terms.plans)?,
        user_budget: budget(row, ("has_user_budget", "user_budget", "user_used"), terms.user_budget)?,
        workspace_budget: budget(
            row,
            ("has_workspace_budget", "workspace_budget", "workspace_used"),
            terms.workspace_budget,
        )?,
        is_reserved: number(row, "same_calls")? > 0,
        run: row.try_get("run")?,
        is_stopped: row.try_get("stopped")?,
        is_disabled: row.try_get::<Option<i64>, _>("disabled_at")?.is_some(),
        is_switched_off: row.try_get("ai_proxy_off")?,
        mode: own_mode.or(default_mode).map(parse).transpose()?.unwrap_or_default(),
        may_use_model: is_in("user_models", "user_model")? && is_in("workspace_models", "workspace_model")?,
        may_reach_every_host: network.egress == Egress::Internet,
        open_calls: number(row, "open_calls")?,
    })
}

/// Reads an account with the allowance of a month. Its columns are missing before a user's first call.
pub(super) fn account(row: &SqliteRow, now: &str, plans: &Plans) -> Result<Account, Error> {
    let limits = user_limits::read(row.try_get("limits")?)?;
    let allowance = plans.entitlements(parse(row.try_get("plan")?)?, limits).ai_credits();
    let mut account = Account {
        granted: money(row, "granted")?,
        spent: money(row, "spent")?,
        reserved: money(row, "reserved")?,
        allowance: money(row, "allowance")?,
        month: row.try_get::<Option<String>, _>("month")?.unwrap_or_default(),
    };
    account.renew(now, allowance, money(row, "allowance_used")?);
    Ok(account)
}

fn budget(
    row: &SqliteRow,
    (is_set, amount, used): (&str, &str, &str),
    default: Option<Money>,
) -> Result<Budget, Error> {
    let is_set = row.try_get::<Option<&str>, _>(is_set)?.is_some();
    let limit = if is_set { optional_money(row, amount)? } else { default };
    Ok(Budget { limit, used: money(row, used)? })
}

impl Caller {
    /// Decides about a call.
    pub(super) fn decide(&self, call: &AiReservation, terms: &AiTerms) -> Result<Grant, AiDenial> {
        if self.is_stopped {
            return Err(AiDenial::Stopped);
        }
        if self.is_disabled {
            return Err(AiDenial::NoWorkspace);
        }
        if self.is_switched_off {
            return Err(AiDenial::SwitchedOff);
        }
        if self.mode != AiMode::Managed {
            return Err(AiDenial::NotManaged);
        }
        if !self.may_use_model {
            return Err(AiDenial::ModelNotAllowed);
        }
        if call.fetches_urls && !self.may_reach_every_host {
            return Err(AiDenial::UrlNotAllowed);
        }
        if self.open_calls >= terms.max_open_calls {
            return Err(AiDenial::TooManyCalls(self.open_calls));
        }
        let (cap, left) = self.least_left();
        let granted = grant(&call.ask, call.limits, &call.prices, left);
        granted.map_err(|refused| AiDenial::Insufficient { cap, needed: refused.needed, left })
    }

    /// Returns the bound that has the least left.
    fn least_left(&self) -> (AiCap, Money) {
        let credits = (AiCap::Credits, self.account.left());
        let others = [
            (AiCap::UserBudget, self.user_budget.left()),
            (AiCap::WorkspaceBudget, self.workspace_budget.left()),
        ];
        others.into_iter().fold(credits, |least, other| if other.1 < least.1 { other } else { least })
    }
}
