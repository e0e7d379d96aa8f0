//! Credits of users: what they have, and grants by the operator.

use rigbox_core::ai::account::Account;
use rigbox_core::ai::mode::AiMode;
use rigbox_core::ai::money::Money;
use rigbox_core::ids::UserId;
use rigbox_core::plans::Plans;
use rigbox_core::time::Timestamp;
use sqlx::Row;

use super::amounts::{money, month, signed};
use crate::audit::{self, AuditEvent};
use crate::sqlite::connection::Connection;
use crate::{Error, Store, parse, user_limits};

/// Credits of a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AiCredits {
    /// Account, with the allowance of now.
    pub account: Account,
    /// Mode of workspaces without one of their own.
    pub mode: AiMode,
}

impl Store {
    /// Returns a user's credits, or `None` if there is no such user.
    pub async fn ai_credits(
        &self,
        user: &UserId,
        plans: &Plans,
        now: Timestamp,
    ) -> Result<Option<AiCredits>, Error> {
        credits(&mut self.pool.acquire().await?, user, plans, now).await
    }

    /// Grants credits for good, or takes back what is left of them if `takes` is true. Returns the credits afterwards, or `None` if there
    /// is no such user. Nothing that is spent or reserved is taken back.
    pub async fn grant_ai_credits(
        &self,
        user: &UserId,
        amount: Money,
        takes: bool,
        plans: &Plans,
        now: Timestamp,
    ) -> Result<Option<AiCredits>, Error> {
        let mut tx = self.begin_write().await?;
        let Some(mut credits) = credits(&mut tx, user, plans, now).await? else { return Ok(None) };
        let account = &mut credits.account;
        let action = if takes { "ai.take_credits" } else { "ai.grant_credits" };
        account.granted = if takes {
            account.granted.minus(amount.min(account.left()))
        } else {
            account.granted.plus(amount)
        };
        sqlx::query(
            "INSERT INTO ai_accounts (user_id, granted, spent, reserved, allowance, month) VALUES ($1, $2, 0, 0, $3, $4) \
             ON CONFLICT (user_id) DO UPDATE SET granted = excluded.granted, allowance = excluded.allowance, \
             month = excluded.month",
        )
        .bind(user.as_str())
        .bind(signed(account.granted))
        .bind(signed(account.allowance))
        .bind(&account.month)
        .execute(&mut *tx)
        .await?;
        let event = AuditEvent::by_operator(user, action, amount);
        audit::append(&mut tx, &self.chain, &event, now).await?;
        tx.commit().await?;
        Ok(Some(credits))
    }
}

async fn credits(
    connection: &mut Connection,
    user: &UserId,
    plans: &Plans,
    now: Timestamp,
) -> Result<Option<AiCredits>, Error> {
    let row = sqlx::query(
        "SELECT u.plan, u.limits, a.granted, a.spent, a.reserved, a.allowance, a.month, a.mode, \
         m.spent + m.reserved AS allowance_used FROM users u \
         LEFT JOIN ai_accounts a ON a.user_id = u.id \
         LEFT JOIN ai_months m ON m.kind = 'user' AND m.subject = u.id AND m.month = a.month WHERE u.id = $1",
    )
    .bind(user.as_str())
    .fetch_optional(connection)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let mut account = Account {
        granted: money(&row, "granted")?,
        spent: money(&row, "spent")?,
        reserved: money(&row, "reserved")?,
        allowance: money(&row, "allowance")?,
        month: row.try_get::<Option<String>, _>("month")?.unwrap_or_default(),
    };
    let limits = user_limits::read(row.try_get("limits")?)?;
    let allowance = plans.entitlements(parse(row.try_get("plan")?)?, limits).ai_credits();
    account.renew(&month(now), allowance, money(&row, "allowance_used")?);
    let mode: Option<&str> = row.try_get("mode")?;
    Ok(Some(AiCredits { account, mode: mode.map(parse).transpose()?.unwrap_or_default() }))
}
