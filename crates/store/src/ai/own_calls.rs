//! Calls with a user's own key. Each is a record like another one from before it is made, and costs nothing.

use rigbox_core::ai::prices::CallPrices;
use rigbox_core::ai::provider::Provider;
use rigbox_core::egress::Egress;
use rigbox_core::ids::WorkspaceId;
use rigbox_core::time::Timestamp;
use sqlx::Row;

use super::amounts::{month, number};
use super::caller::AiDenial;
use crate::networks::NetworkSettings;
use crate::{Error, Store, json};

/// Call with a user's own key that is to be made.
#[derive(Debug, Clone)]
pub struct OwnAiCall {
    /// Id that the proxy has made.
    pub id: String,
    /// Run of the proxy.
    pub run: String,
    /// Workspace that calls.
    pub workspace: WorkspaceId,
    /// Provider that has given the key.
    pub provider: Provider,
    /// Kind of call, for the record.
    pub operation: &'static str,
    /// Model.
    pub model: String,
    /// The provider would fetch a URL.
    pub fetches_urls: bool,
}

/// Outcome for such a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OwnAiOutcome {
    /// It is recorded, and may be made.
    Recorded,
    /// It is refused.
    Denied(AiDenial),
    /// Another run of the proxy has taken over, or none has begun.
    OtherRun,
}

impl Store {
    /// Records a call before it is made, unless the workspace has `max_open_calls` of them.
    pub async fn record_own_ai_call(
        &self,
        call: &OwnAiCall,
        max_open_calls: u64,
        now: Timestamp,
    ) -> Result<OwnAiOutcome, Error> {
        let mut tx = self.begin_write().await?;
        let row = sqlx::query(
            "SELECT w.user_id, w.name, w.network, w.ai_proxy_off, u.disabled_at, p.run, p.stopped, \
             (SELECT COUNT(*) FROM ai_calls c WHERE c.workspace_id = w.id AND c.ended_at IS NULL) AS open_calls \
             FROM workspaces w CROSS JOIN ai_proxy p JOIN users u ON u.id = w.user_id WHERE w.id = $1",
        )
        .bind(call.workspace.as_str())
        .fetch_optional(&mut *tx)
        .await?;
        let denied = |denial| Ok(OwnAiOutcome::Denied(denial));
        let Some(row) = row else { return denied(AiDenial::NoWorkspace) };
        if row.try_get::<&str, _>("run")? != call.run {
            return Ok(OwnAiOutcome::OtherRun);
        }
        if row.try_get("stopped")? {
            return denied(AiDenial::Stopped);
        }
        if row.try_get("ai_proxy_off")? {
            return denied(AiDenial::SwitchedOff);
        }
        if row.try_get::<Option<i64>, _>("disabled_at")?.is_some() {
            return denied(AiDenial::NoWorkspace);
        }
        let network: NetworkSettings = json::parse(row.try_get("network")?)?;
        if call.fetches_urls && network.egress != Egress::Internet {
            return denied(AiDenial::UrlNotAllowed);
        }
        let open_calls = number(&row, "open_calls")?;
        if open_calls >= max_open_calls {
            return denied(AiDenial::TooManyCalls(open_calls));
        }
        let user: &str = row.try_get("user_id")?;
        let account = "INSERT INTO ai_accounts (user_id, granted, spent, reserved, allowance, month) \
                       VALUES ($1, 0, 0, 0, 0, '') ON CONFLICT (user_id) DO NOTHING";
        // Settlements find one for each call.
        sqlx::query(account).bind(user).execute(&mut *tx).await?;
        sqlx::query(
            "INSERT INTO ai_calls (id, run, user_id, workspace_id, workspace_name, provider, upstream, operation, model, \
             prices, began_at, month, reserved, output_limit, lowered, own_key) \
             VALUES ($1, $2, $3, $4, $5, $6, $6, $7, $8, $9, $10, $11, 0, 0, FALSE, TRUE)",
        )
        .bind(&call.id)
        .bind(&call.run)
        .bind(user)
        .bind(call.workspace.as_str())
        .bind(row.try_get::<&str, _>("name")?)
        .bind(call.provider.as_str())
        .bind(call.operation)
        .bind(&call.model)
        .bind(json::to_text(CallPrices::free().to_record())?)
        .bind(now.unix_ms())
        .bind(month(now))
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(OwnAiOutcome::Recorded)
    }
}
