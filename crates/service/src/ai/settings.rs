//! Settings of AI calls, as users make them: modes, providers and keys of their own; and what a user's credits are.

use rigbox_core::ai::mode::AiMode;
use rigbox_core::ai::own_key::{self, EffectiveAi, InvalidOwnAi, KeyDelivery};
use rigbox_core::ai::provider::Provider;
use rigbox_core::authz::{
    Denied, ManageAi, OperateWorkspace, Permit, Principal, ReadAi, ReadEnv, ReadWorkspace, Scope,
    SwitchAiProxy, WriteEnv,
};
use rigbox_core::ids::{UserId, WorkspaceId};
use rigbox_core::plans::Plans;
use rigbox_store::{AiConfigChange, AiCredits, AiSubject, AuditEvent, Store, WorkspaceAi, WorkspaceAiMode};
use secrecy::{ExposeSecret, SecretString};

use crate::environment::{Effect, delivered};
use crate::error::{ServiceError, id_of};
use crate::transitions::WorkspaceTransitions;

/// Service for settings and credits.
#[derive(Clone)]
pub struct AiSettings {
    transitions: WorkspaceTransitions,
    plans: Plans,
}

/// Change of settings. `None` keeps what there is, and `Some(None)` clears it.
#[derive(Debug, Default)]
pub struct SettingsChange {
    /// Mode. Cleared: of a workspace that of its owner, of a user `managed`.
    pub mode: Option<Option<AiMode>>,
    /// Name of a provider.
    pub provider: Option<Option<String>>,
    /// Model.
    pub model: Option<Option<String>>,
    /// Key at the provider that holds after the change.
    pub key: Option<Option<SecretString>>,
    /// Name of the key's way to its provider.
    pub delivery: Option<Option<String>>,
}

impl AiSettings {
    /// Creates the service.
    pub fn new(transitions: WorkspaceTransitions, plans: Plans) -> Self {
        Self { transitions, plans }
    }

    /// Returns the caller's credits.
    pub async fn credits(&self, permit: &Permit<ReadAi>) -> Result<AiCredits, ServiceError> {
        self.credits_of(&permit.principal().user).await
    }

    /// Sets the mode of the caller's workspaces without one of their own.
    pub async fn set_default_mode(
        &self,
        permit: &Permit<ManageAi>,
        mode: AiMode,
    ) -> Result<AiCredits, ServiceError> {
        let change = AiConfigChange { mode: Some(Some(mode)), ..AiConfigChange::default() };
        let event = AuditEvent::by(permit.principal(), "ai.mode", mode.as_str());
        self.change_user(&permit.principal().user, &change, &event).await?;
        self.credits_of(&permit.principal().user).await
    }

    async fn credits_of(&self, user: &UserId) -> Result<AiCredits, ServiceError> {
        let store = self.store();
        let credits = store.ai_credits(user, &self.plans, store.now()).await?;
        credits.ok_or_else(|| ServiceError::Internal(format!("there is no user {user}")))
    }

    /// Returns the mode of a workspace.
    pub async fn mode(&self, permit: &Permit<ReadWorkspace>) -> Result<WorkspaceAiMode, ServiceError> {
        let id = id_of(permit)?;
        self.store().workspace_ai_mode(id).await?.ok_or_else(|| ServiceError::NotFound(id.to_string()))
    }

    /// Sets the mode of a workspace. `None` is that of its owner. Returns once a running workspace has it.
    pub async fn set_mode(
        &self,
        permit: &Permit<OperateWorkspace>,
        mode: Option<AiMode>,
    ) -> Result<WorkspaceAiMode, ServiceError> {
        let id = id_of(permit)?;
        let change = AiConfigChange { mode: Some(mode), ..AiConfigChange::default() };
        let target = format!("{id} {}", mode.map_or("default", AiMode::as_str));
        let event = AuditEvent::by(permit.principal(), "workspace.ai_mode", target);
        self.change_workspace(id, permit.principal(), &change, &event).await?;
        self.store().workspace_ai_mode(id).await?.ok_or_else(|| ServiceError::NotFound(id.to_string()))
    }

    /// Switches the proxy of a workspace: off closes what its settings have opened, for AI calls and for proxied secrets. Returns once a
    /// running workspace has it.
    pub async fn switch_proxy(
        &self,
        permit: &Permit<SwitchAiProxy>,
        is_off: bool,
    ) -> Result<WorkspaceAiMode, ServiceError> {
        let (id, store) = (id_of(permit)?, self.store());
        let target = format!("{id} {}", if is_off { "off" } else { "on" });
        let event = AuditEvent::by(permit.principal(), "workspace.ai_proxy", target);
        let missing = || ServiceError::NotFound(id.to_string());
        let revision = store.switch_ai_proxy(id, is_off, &event, store.now()).await?.ok_or_else(missing)?;
        delivered(&self.transitions, id, revision).await?;
        store.workspace_ai_mode(id).await?.ok_or_else(missing)
    }

    /// Returns the settings that hold for a workspace.
    pub async fn of_workspace(&self, permit: &Permit<ReadEnv>) -> Result<WorkspaceAi, ServiceError> {
        self.workspace_ai(id_of(permit)?).await
    }

    /// Changes the settings of a workspace. Returns once a running workspace has them.
    pub async fn set_workspace(
        &self,
        permit: &Permit<WriteEnv>,
        change: SettingsChange,
    ) -> Result<(WorkspaceAi, Effect), ServiceError> {
        let id = id_of(permit)?;
        let change = checked(change, async || Ok(self.workspace_ai(id).await?.effective.provider)).await?;
        if permit.principal().scope != Scope::Account && widens(&change) {
            let action = "key_delivery other than `proxy`";
            let scope = permit.principal().scope.clone();
            return Err(ServiceError::Denied(Denied::OutOfScope { action, scope, least_role: None }));
        }
        let event =
            AuditEvent::by(permit.principal(), action(&change), format!("{id} {}", described(&change)));
        let effect = self.change_workspace(id, permit.principal(), &change, &event).await?;
        Ok((self.workspace_ai(id).await?, effect))
    }

    /// Returns the settings of the caller's workspaces without their own.
    pub async fn defaults(&self, permit: &Permit<ReadAi>) -> Result<EffectiveAi, ServiceError> {
        Ok(self.store().user_ai(&permit.principal().user).await?)
    }

    /// Changes the settings of the caller's workspaces without their own.
    pub async fn set_defaults(
        &self,
        permit: &Permit<ManageAi>,
        change: SettingsChange,
    ) -> Result<EffectiveAi, ServiceError> {
        let user = &permit.principal().user;
        let change = checked(change, async || Ok(self.store().user_ai(user).await?.provider)).await?;
        let event = AuditEvent::by(permit.principal(), action(&change), described(&change));
        self.change_user(user, &change, &event).await?;
        Ok(self.store().user_ai(user).await?)
    }

    async fn workspace_ai(&self, id: &WorkspaceId) -> Result<WorkspaceAi, ServiceError> {
        self.store().workspace_ai(id).await?.ok_or_else(|| ServiceError::NotFound(id.to_string()))
    }

    async fn change_workspace(
        &self,
        id: &WorkspaceId,
        principal: &Principal,
        change: &AiConfigChange,
        event: &AuditEvent,
    ) -> Result<Effect, ServiceError> {
        let (store, subject) = (self.store(), AiSubject::Workspace(id.clone(), principal.user.clone()));
        let changed = store.change_ai_config(&subject, change, event, store.now()).await?;
        let (_, revision) = changed.first().ok_or_else(|| ServiceError::NotFound(id.to_string()))?;
        delivered(&self.transitions, id, *revision).await
    }

    async fn change_user(
        &self,
        user: &UserId,
        change: &AiConfigChange,
        event: &AuditEvent,
    ) -> Result<(), ServiceError> {
        let (store, subject) = (self.store(), AiSubject::User(user.clone()));
        for (workspace, _) in store.change_ai_config(&subject, change, event, store.now()).await? {
            self.transitions.announce(&workspace);
        }
        Ok(())
    }

    fn store(&self) -> &Store {
        self.transitions.store()
    }
}

/// Checks a change. A key is for the provider of the same change, or else for the `current` one; one that is cleared with its provider is the
/// current one's.
async fn checked(
    change: SettingsChange,
    current: impl AsyncFnOnce() -> Result<Provider, ServiceError>,
) -> Result<AiConfigChange, ServiceError> {
    let SettingsChange { mode, provider, model, key, delivery } = change;
    let invalid = |field| move |error: InvalidOwnAi| ServiceError::InvalidAi { field, error };
    let parse = |name: String| own_key::parse_provider(&name).map_err(invalid("provider"));
    let provider = provider.map(|name| name.map(parse).transpose()).transpose()?;
    let parse = |name: String| name.parse().map_err(invalid("key_delivery"));
    let delivery = delivery.map(|name| name.map(parse).transpose()).transpose()?;
    if let Some(Some(model)) = &model {
        own_key::check_model(model).map_err(invalid("model"))?;
    }
    if let Some(Some(key)) = &key {
        own_key::check_key(key.expose_secret()).map_err(invalid("api_key"))?;
    }
    let key = match (key, provider) {
        (None, _) => None,
        (Some(key), Some(Some(provider))) => Some((provider, key)),
        (Some(key), None) => Some((current().await?, key)),
        (Some(None), Some(None)) => Some((current().await?, None)),
        (Some(Some(_)), Some(None)) => return Err(invalid("api_key")(InvalidOwnAi::NoProvider)),
    };
    Ok(AiConfigChange { mode, provider, model, key, delivery })
}

/// Tells if a change may put a key into a workspace that was kept outside, such as the account's.
fn widens(change: &AiConfigChange) -> bool {
    change.delivery.is_some_and(|delivery| delivery != Some(KeyDelivery::Proxy))
}

/// Returns the name of an event. A key is a secret like a variable of the environment.
fn action(change: &AiConfigChange) -> &'static str {
    match &change.key {
        Some((_, Some(_))) => "secret.write",
        Some((_, None)) => "secret.delete",
        None => "ai.config",
    }
}

/// Describes a change for the audit log, without the key.
fn described(change: &AiConfigChange) -> String {
    let AiConfigChange { mode, provider, model, key, delivery } = change;
    let mut parts = Vec::new();
    parts.extend(mode.map(|mode| format!("mode={}", mode.map_or("default", AiMode::as_str))));
    parts.extend(
        provider.map(|provider| format!("provider={}", provider.map_or("default", Provider::as_str))),
    );
    parts.extend(model.as_ref().map(|model| format!("model={}", model.as_deref().unwrap_or("default"))));
    parts.extend(key.as_ref().map(|(provider, _)| format!("key of {provider}")));
    parts.extend(
        delivery.map(|delivery| format!("key_delivery={}", delivery.map_or("default", KeyDelivery::as_str))),
    );
    parts.join(" ")
}
