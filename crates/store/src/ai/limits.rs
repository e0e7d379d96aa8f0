//! Bounds that the operator sets for a user or a workspace: a budget for each month, and the models that may be used.

use rigbox_core::ai::money::Money;
use rigbox_core::ids::{UserId, WorkspaceId};
use rigbox_core::time::Timestamp;

use super::amounts::signed;
use crate::audit::{self, AuditEvent};
use crate::{Error, Store};

/// User or workspace whose calls are bounded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AiSubject {
    /// All workspaces of a user.
    User(UserId),
    /// One workspace, with its owner.
    Workspace(WorkspaceId, UserId),
}

impl AiSubject {
    fn columns(&self) -> (&'static str, &str) {
        match self {
            Self::User(id) => ("user", id.as_str()),
            Self::Workspace(id, _) => ("workspace", id.as_str()),
        }
    }

    fn event(&self, action: &str) -> AuditEvent {
        match self {
            Self::User(id) => AuditEvent::by_operator(id, action, id),
            Self::Workspace(id, owner) => AuditEvent::by_operator(owner, action, id),
        }
    }
}

impl Store {
    /// Sets the budget for each month. `None` means no budget, whatever the configuration says.
    pub async fn set_ai_budget(
        &self,
        subject: &AiSubject,
        amount: Option<Money>,
        now: Timestamp,
    ) -> Result<(), Error> {
        let (kind, id) = subject.columns();
        let mut tx = self.begin_write().await?;
        sqlx::query(
            "INSERT INTO ai_budgets (kind, subject, amount) VALUES ($1, $2, $3) \
             ON CONFLICT (kind, subject) DO UPDATE SET amount = excluded.amount",
        )
        .bind(kind)
        .bind(id)
        .bind(amount.map(signed))
        .execute(&mut *tx)
        .await?;
        audit::append(&mut tx, &self.chain, &subject.event("ai.budget"), now).await?;
        Ok(tx.commit().await?)
    }

    /// Sets the models that may be used. An empty list means all.
    pub async fn set_ai_models(
        &self,
        subject: &AiSubject,
        models: &[String],
        now: Timestamp,
    ) -> Result<(), Error> {
        let (kind, id) = subject.columns();
        let mut tx = self.begin_write().await?;
        sqlx::query("DELETE FROM ai_allowed_models WHERE kind = $1 AND subject = $2")
            .bind(kind)
            .bind(id)
            .execute(&mut *tx)
            .await?;
        for model in models {
            sqlx::query(
                "INSERT INTO ai_allowed_models (kind, subject, model) VALUES ($1, $2, $3) \
                 ON CONFLICT (kind, subject, model) DO NOTHING",
            )
            .bind(kind)
            .bind(id)
            .bind(model)
            .execute(&mut *tx)
            .await?;
        }
        audit::append(&mut tx, &self.chain, &subject.event("ai.models"), now).await?;
        Ok(tx.commit().await?)
    }

    /// Returns the lists of models that bound a workspace: its own, and its owner's. An empty one bounds nothing.
    pub async fn ai_models_of(&self, workspace: &WorkspaceId) -> Result<[Vec<String>; 2], Error> {
        let of_workspace: Vec<String> = sqlx::query_scalar(
            "SELECT model FROM ai_allowed_models WHERE kind = 'workspace' AND subject = $1 ORDER BY model",
        )
        .bind(workspace.as_str())
        .fetch_all(&self.pool)
        .await?;
        let of_user: Vec<String> = sqlx::query_scalar(
            "SELECT model FROM ai_allowed_models WHERE kind = 'user' \
             AND subject = (SELECT user_id FROM workspaces WHERE id = $1) ORDER BY model",
        )
        .bind(workspace.as_str())
        .fetch_all(&self.pool)
        .await?;
        Ok([of_workspace, of_user])
    }
}
