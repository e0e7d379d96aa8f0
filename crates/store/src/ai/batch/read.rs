//! Reads what a batch's steps depend on.

use std::collections::{BTreeMap, BTreeSet};

use rigbox_core::ai::reservation::Grant;
use rigbox_core::time::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row};

use super::{Batch, Call, RecordedPrices};
use crate::Error;
use crate::ai::amounts::{amount, month, unsigned};
use crate::ai::caller::{self, caller, optional_money};
use crate::ai::sums::{Accounts, MonthKey, Months};

/// State of the proxy.
const PROXY: &str = "SELECT run, stopped FROM ai_proxy";
/// Caller in the workspace `?1`, with the sums of the month `?2`. (In PostgreSQL, `json_group_array` is `json_agg`.)
const CALLER: &str = "SELECT w.user_id, w.name, w.network, w.ai_mode, w.ai_proxy_off, u.plan, u.limits, u.disabled_at, \
     a.granted, a.spent, a.reserved, a.allowance, a.month, a.spent_logged, a.mode, \
     ub.kind AS has_user_budget, ub.amount AS user_budget, wb.kind AS has_workspace_budget, wb.amount AS workspace_budget, \
     um.spent + um.reserved AS user_used, wm.spent + wm.reserved AS workspace_used, am.spent + am.reserved AS allowance_used, \
     (SELECT COUNT(*) FROM ai_calls c WHERE c.workspace_id = w.id AND c.ended_at IS NULL) AS open_calls, \
     (SELECT json_group_array(m.model) FROM ai_allowed_models m WHERE m.kind = 'user' AND m.subject = w.user_id) AS user_models, \
     (SELECT json_group_array(m.model) FROM ai_allowed_models m WHERE m.kind = 'workspace' AND m.subject = w.id) AS workspace_models \
     FROM workspaces w JOIN users u ON u.id = w.user_id \
     LEFT JOIN ai_accounts a ON a.user_id = w.user_id \
     LEFT JOIN ai_budgets ub ON ub.kind = 'user' AND ub.subject = w.user_id \
     LEFT JOIN ai_budgets wb ON wb.kind = 'workspace' AND wb.subject = w.id \
     LEFT JOIN ai_months um ON um.kind = 'user' AND um.subject = w.user_id AND um.month = ?2 \
     LEFT JOIN ai_months wm ON wm.kind = 'workspace' AND wm.subject = w.id AND wm.month = ?2 \
     LEFT JOIN ai_months am ON am.kind = 'user' AND am.subject = w.user_id AND am.month = a.month \
     WHERE w.id = ?1";
/// Call with the id `?1`, and the account that it counts against.
const CALL: &str = "SELECT c.run, c.user_id, c.workspace_id, c.month AS call_month, c.prices, c.reserved AS call_reserved, \
     c.output_limit, c.lowered, c.cost, c.ended_at, a.granted, a.spent, a.reserved, a.allowance, a.month, a.spent_logged \
     FROM ai_calls c LEFT JOIN ai_accounts a ON a.user_id = c.user_id WHERE c.id = ?1";

impl Batch<'_> {
    /// Reads what reservations of these workspaces and steps of the calls with these ids depend on.
    pub(crate) fn read(
        connection: &Connection,
        workspaces: &BTreeSet<&str>,
        calls: &[&str],
        now: Timestamp,
    ) -> Result<Self, Error> {
        let proxy = |row: &Row<'_>| Ok((row.get(0)?, row.get(1)?));
        let proxy = connection.prepare_cached(PROXY)?.query_row([], proxy).optional()?;
        let (run, is_stopped) = proxy.ok_or_else(|| Error::Damaged("no row of the AI proxy".to_owned()))?;
        let mut batch = Self {
            now,
            month: month(now),
            run,
            is_stopped,
            callers: BTreeMap::new(),
            open_calls: BTreeMap::new(),
            calls: BTreeMap::new(),
            accounts: Accounts::default(),
            months: Months::default(),
            reserved: Vec::new(),
            settled: Vec::new(),
            revocations: Vec::new(),
        };
        let mut statement = connection.prepare_cached(CALLER)?;
        for workspace in workspaces {
            if let Some(row) = statement.query([*workspace, &batch.month])?.next()? {
                batch.add_caller(row, workspace)?;
            }
        }
        let mut statement = connection.prepare_cached(CALL)?;
        for id in calls {
            if let Some(row) = statement.query([id])?.next()? {
                batch.add_call(row, id)?;
            }
        }
        Ok(batch)
    }

    fn add_caller(&mut self, row: &Row<'_>, workspace: &str) -> Result<(), Error> {
        let caller = caller(row)?;
        let user = caller.user.as_str();
        self.add_account(row, user)?;
        if let Some(month) = row.get::<_, Option<String>>("month")? {
            self.months.insert(MonthKey::user(user, &month), optional_money(row, "allowance_used")?);
        }
        self.months.insert(MonthKey::user(user, &self.month), optional_money(row, "user_used")?);
        let key = MonthKey::workspace(workspace, &self.month);
        self.months.insert(key, optional_money(row, "workspace_used")?);
        self.open_calls.insert(workspace.to_owned(), unsigned(row.get("open_calls")?));
        self.callers.insert(workspace.to_owned(), caller);
        Ok(())
    }

    fn add_call(&mut self, row: &Row<'_>, id: &str) -> Result<(), Error> {
        let user: String = row.get("user_id")?;
        self.add_account(row, &user)?;
        let is_settled = row.get::<_, Option<i64>>("ended_at")?.is_some();
        let call = Call {
            run: row.get("run")?,
            user,
            workspace: row.get("workspace_id")?,
            month: row.get("call_month")?,
            prices: RecordedPrices::Stored(row.get("prices")?),
            granted: Grant {
                reserved: amount(row.get("call_reserved")?),
                output_tokens: unsigned(row.get("output_limit")?),
                lowered: row.get("lowered")?,
            },
            cost: if is_settled { Some(amount(row.get("cost")?)) } else { None },
        };
        self.calls.insert(id.to_owned(), call);
        Ok(())
    }

    /// Adds a user's account, which several rows have.
    fn add_account(&mut self, row: &Row<'_>, user: &str) -> Result<(), Error> {
        if self.accounts.contains(user) {
            return Ok(());
        }
        let account = match row.get("spent_logged")? {
            Some(logged) => Some((caller::account(row)?, logged)),
            None => None,
        };
        self.accounts.insert(user, account);
        Ok(())
    }
}
