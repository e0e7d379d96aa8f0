//! Modes of AI calls, as users set them, and what a user's credits are.

use rigbox_core::ai::mode::AiMode;
use rigbox_core::authz::{ManageAi, OperateWorkspace, Permit, ReadAi, ReadWorkspace};
use rigbox_core::ids::UserId;
use rigbox_core::plans::Plans;
use rigbox_store::{AiCredits, AuditEvent, Store, WorkspaceAiMode};

use crate::error::{ServiceError, id_of};

/// Service for modes and credits.
#[derive(Clone)]
pub struct AiModes {
    store: Store,
    plans: Plans,
}

impl AiModes {
    /// Creates the service.
    pub fn new(store: Store, plans: Plans) -> Self {
        Self { store, plans }
    }

    /// Returns the caller's credits.
    pub async fn credits(&self, permit: &Permit<ReadAi>) -> Result<AiCredits, ServiceError> {
        self.credits_of(&permit.principal().user).await
    }

    /// Sets the mode of the caller's workspaces without one of their own.
    pub async fn set_default(
        &self,
        permit: &Permit<ManageAi>,
        mode: AiMode,
    ) -> Result<AiCredits, ServiceError> {
        let principal = permit.principal();
        let event = AuditEvent::by(principal, "ai.mode", mode.as_str());
        self.store.set_ai_mode(&principal.user, mode, &event, self.store.now()).await?;
        self.credits_of(&principal.user).await
    }

    async fn credits_of(&self, user: &UserId) -> Result<AiCredits, ServiceError> {
        let credits = self.store.ai_credits(user, &self.plans, self.store.now()).await?;
        credits.ok_or_else(|| ServiceError::Internal(format!("there is no user {user}")))
    }

    /// Returns the mode of a workspace.
    pub async fn of_workspace(
        &self,
        permit: &Permit<ReadWorkspace>,
    ) -> Result<WorkspaceAiMode, ServiceError> {
        let id = id_of(permit)?;
        self.store.workspace_ai_mode(id).await?.ok_or_else(|| ServiceError::NotFound(id.to_string()))
    }

    /// Sets the mode of a workspace. `None` is that of its owner.
    pub async fn set_workspace(
        &self,
        permit: &Permit<OperateWorkspace>,
        mode: Option<AiMode>,
    ) -> Result<WorkspaceAiMode, ServiceError> {
        let id = id_of(permit)?;
        let not_found = || ServiceError::NotFound(id.to_string());
        let target = format!("{id} {}", mode.map_or("default", AiMode::as_str));
        let event = AuditEvent::by(permit.principal(), "workspace.ai_mode", target);
        if !self.store.set_workspace_ai_mode(id, mode, &event, self.store.now()).await? {
            return Err(not_found());
        }
        self.store.workspace_ai_mode(id).await?.ok_or_else(not_found)
    }
}
