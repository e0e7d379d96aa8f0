//! Usage of a user's AI calls: by day and by workspace.

use rigbox_core::authz::{Permit, ReadAi};
use rigbox_core::time::DAY_MS;
use rigbox_store::{AiDay, AiWorkspaceSum, Store};

use crate::error::ServiceError;

/// Days that are told, today included.
pub const WINDOW_DAYS: i32 = 30;

/// Usage of a window of days that ends today, in UTC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AiUsage {
    /// Sums of each day with a call, in order.
    pub days: Vec<AiDay>,
    /// Sums of each workspace, the dearest first.
    pub workspaces: Vec<AiWorkspaceSum>,
}

/// Service for usage.
#[derive(Clone)]
pub struct AiUsageReports {
    store: Store,
}

impl AiUsageReports {
    /// Creates the service.
    pub fn new(store: Store) -> Self {
        Self { store }
    }

    /// Returns the caller's usage.
    pub async fn of_caller(&self, permit: &Permit<ReadAi>) -> Result<AiUsage, ServiceError> {
        let user = &permit.principal().user;
        let first = self.store.now().unix_ms().div_euclid(DAY_MS) - i64::from(WINDOW_DAYS) + 1;
        let days = self.store.ai_days(user, first).await?;
        Ok(AiUsage { days, workspaces: self.store.ai_workspace_sums(user, first).await? })
    }
}
