//! Exchange that begins a batch's transaction and reads what its steps depend on.

use std::collections::{BTreeMap, BTreeSet};

use rigbox_core::ai::reservation::Grant;
use rigbox_core::time::Timestamp;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use super::{Batch, Call, RecordedPrices};
use crate::ai::amounts::{money, month, number, optional_money};
use crate::ai::caller::{self, caller};
use crate::ai::sums::{Accounts, MonthKey, Months};
use crate::sqlite::connection::{Pool, Transaction};
use crate::{Error, json};

/// The proxy, the callers in the workspaces `$1`, and the calls with the ids `$2`, with the sums of the month `$3`. (In PostgreSQL each of
/// the statements is sent alone; there, `json_each` is `json_array_elements_text`, and `json_group_array` is `json_agg`.)
const QUERY: &str = "BEGIN IMMEDIATE; SELECT run, stopped FROM ai_proxy; \
     SELECT w.id, w.user_id, w.name, w.network, w.ai_mode, w.ai_proxy_off, u.plan, u.limits, u.disabled_at, \
     a.granted, a.spent, a.reserved, a.allowance, a.month, a.spent_logged, a.mode, \
     ub.kind AS has_user_budget, ub.amount AS user_budget, wb.kind AS has_workspace_budget, wb.amount AS workspace_budget, \
     um.spent + um.reserved AS user_used, wm.spent + wm.reserved AS workspace_used, am.spent + am.reserved AS allowance_used, \
     (SELECT COUNT(*) FROM ai_calls c WHERE c.workspace_id = w.id AND c.ended_at IS NULL) AS open_calls, \
     (SELECT json_group_array(m.model) FROM ai_allowed_models m WHERE m.kind = 'user' AND m.subject = w.user_id) AS user_models, \
     (SELECT json_group_array(m.model) FROM ai_allowed_models m WHERE m.kind = 'workspace' AND m.subject = w.id) AS workspace_models \
     FROM json_each($1) j CROSS JOIN workspaces w JOIN users u ON u.id = w.user_id \
     LEFT JOIN ai_accounts a ON a.user_id = w.user_id \
     LEFT JOIN ai_budgets ub ON ub.kind = 'user' AND ub.subject = w.user_id \
     LEFT JOIN ai_budgets wb ON wb.kind = 'workspace' AND wb.subject = w.id \
     LEFT JOIN ai_months um ON um.kind = 'user' AND um.subject = w.user_id AND um.month = $3 \
     LEFT JOIN ai_months wm ON wm.kind = 'workspace' AND wm.subject = w.id AND wm.month = $3 \
     LEFT JOIN ai_months am ON am.kind = 'user' AND am.subject = w.user_id AND am.month = a.month \
     WHERE w.id = j.value; \
     SELECT c.id, c.run, c.user_id, c.workspace_id, c.month AS call_month, c.prices, c.reserved AS call_reserved, c.output_limit, \
     c.lowered, c.cost, c.ended_at, a.granted, a.spent, a.reserved, a.allowance, a.month, a.spent_logged \
     FROM json_each($2) j CROSS JOIN ai_calls c LEFT JOIN ai_accounts a ON a.user_id = c.user_id WHERE c.id = j.value";

pub(super) async fn begin<'a>(
    pool: &Pool,
    workspaces: &BTreeSet<&str>,
    calls: &[&str],
    now: Timestamp,
) -> Result<(Transaction, Batch<'a>), Error> {
    let month = month(now);
    let query = sqlx::query(QUERY).bind(json::to_text(workspaces)?).bind(json::to_text(&calls)?).bind(&month);
    let (tx, [_, proxy, callers, calls]) = pool.begin_by(query).await?;
    let proxy = proxy.first().ok_or_else(|| Error::Damaged("no row of the AI proxy".to_owned()))?;
    let mut batch = Batch {
        now,
        month,
        run: proxy.try_get("run")?,
        is_stopped: proxy.try_get("stopped")?,
        callers: BTreeMap::new(),
        open_calls: BTreeMap::new(),
        calls: BTreeMap::new(),
        accounts: Accounts::default(),
        months: Months::default(),
        reserved: Vec::new(),
        settled: Vec::new(),
        revocations: Vec::new(),
    };
    for row in &callers {
        batch.add_caller(row)?;
    }
    for row in &calls {
        batch.add_call(row)?;
    }
    Ok((tx, batch))
}

impl Batch<'_> {
    fn add_caller(&mut self, row: &SqliteRow) -> Result<(), Error> {
        let (workspace, user): (&str, &str) = (row.try_get("id")?, row.try_get("user_id")?);
        self.add_account(row, user)?;
        if let Some(month) = row.try_get("month")? {
            self.months.insert(MonthKey::user(user, month), optional_money(row, "allowance_used")?);
        }
        self.months.insert(MonthKey::user(user, &self.month), optional_money(row, "user_used")?);
        let key = MonthKey::workspace(workspace, &self.month);
        self.months.insert(key, optional_money(row, "workspace_used")?);
        self.open_calls.insert(workspace.to_owned(), number(row, "open_calls")?);
        self.callers.insert(workspace.to_owned(), caller(row)?);
        Ok(())
    }

    fn add_call(&mut self, row: &SqliteRow) -> Result<(), Error> {
        let user: &str = row.try_get("user_id")?;
        self.add_account(row, user)?;
        let is_settled = row.try_get::<Option<i64>, _>("ended_at")?.is_some();
        let call = Call {
            run: row.try_get("run")?,
            user: user.to_owned(),
            workspace: row.try_get("workspace_id")?,
            month: row.try_get("call_month")?,
            prices: RecordedPrices::Stored(row.try_get("prices")?),
            granted: Grant {
                reserved: money(row, "call_reserved")?,
                output_tokens: number(row, "output_limit")?,
                lowered: row.try_get("lowered")?,
            },
            cost: if is_settled { Some(money(row, "cost")?) } else { None },
        };
        self.calls.insert(row.try_get("id")?, call);
        Ok(())
    }

    /// Adds a user's account, which several rows have.
    fn add_account(&mut self, row: &SqliteRow, user: &str) -> Result<(), Error> {
        if self.accounts.contains(user) {
            return Ok(());
        }
        let account = match row.try_get("spent_logged")? {
            Some(logged) => Some((caller::account(row)?, logged)),
            None => None,
        };
        self.accounts.insert(user, account);
        Ok(())
    }
}
