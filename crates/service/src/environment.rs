//! Environment variables of workspaces. Names can be read, values can only be written. The reconciler
//! delivers them; a change returns once the running workspace has it.

use std::collections::BTreeMap;
use std::time::Duration;

use rigbox_core::authz::{Action, Permit, ReadEnv, WriteEnv};
use rigbox_core::environment::{InvalidVariable, VariableName};
use rigbox_core::ids::WorkspaceId;
use rigbox_core::lifecycle::{Delivered, Lifecycle};
use rigbox_core::status::Status;
use rigbox_store::{AuditEvent, EnvironmentNames};
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::broadcast::error::RecvError;
use tokio::time::Instant;

use crate::error::{ServiceError, id_of};
use crate::transitions::WorkspaceTransitions;

/// Maximum time to wait for a running workspace to receive a change.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum length of an audit entry's target.
const MAX_TARGET_LEN: usize = 256;

/// Service for environment variables.
#[derive(Clone)]
pub struct Environments {
    transitions: WorkspaceTransitions,
}

/// Effect of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// The workspace has the change.
    Live,
    /// The workspace gets the change when it starts.
    OnStart,
    /// The workspace is running and does not have the change yet.
    Pending,
}

impl Environments {
    /// Creates the service.
    pub fn new(transitions: WorkspaceTransitions) -> Self {
        Self { transitions }
    }

    /// Returns the names of a workspace's variables.
    pub async fn names(&self, permit: &Permit<ReadEnv>) -> Result<EnvironmentNames, ServiceError> {
        let id = id_of(permit)?;
        let workspace = self.transitions.store().workspace(id).await?;
        Ok(workspace.ok_or_else(|| ServiceError::NotFound(id.to_string()))?.environment)
    }

    /// Adds or replaces variables.
    pub async fn set(
        &self,
        permit: &Permit<WriteEnv>,
        variables: BTreeMap<String, SecretString>,
    ) -> Result<Effect, ServiceError> {
        let id = id_of(permit)?;
        let mut checked = BTreeMap::new();
        for (name, value) in variables {
            let name: VariableName = name.parse()?;
            name.check_value(value.expose_secret())?;
            checked.insert(name, value);
        }
        let event = event(permit, "secret.write", checked.keys())?;
        let store = self.transitions.store();
        let changed = store.set_variables(id, &checked, &event, store.now()).await;
        let names = match changed {
            Ok(names) => names.ok_or_else(|| ServiceError::NotFound(id.to_string()))?,
            Err(rigbox_store::Error::Quota { limit_name, limit, .. }) => {
                return Err(ServiceError::EnvironmentTooLarge { limit_name, limit });
            }
            Err(other) => return Err(other.into()),
        };
        delivered(&self.transitions, id, names.revision).await
    }

    /// Removes a variable.
    pub async fn unset(&self, permit: &Permit<WriteEnv>, name: &str) -> Result<Effect, ServiceError> {
        let missing = || ServiceError::VariableNotFound(name.chars().take(64).collect());
        let name: VariableName = name.parse().map_err(|_: InvalidVariable| missing())?;
        let event = event(permit, "secret.delete", [&name])?;
        let store = self.transitions.store();
        let names = store.remove_variable(id_of(permit)?, &name, &event, store.now()).await?;
        delivered(&self.transitions, id_of(permit)?, names.ok_or_else(missing)?.revision).await
    }
}

/// Triggers delivery of a change of the environment, and waits for it briefly.
pub(crate) async fn delivered(
    transitions: &WorkspaceTransitions,
    id: &WorkspaceId,
    revision: i64,
) -> Result<Effect, ServiceError> {
    let mut changed = transitions.subscribe();
    transitions.announce(id);
    let Some(before) = lifecycle(transitions, id).await? else { return Ok(Effect::OnStart) };
    let (Status::Running, Some(boot)) = (before.status, before.boot()) else {
        return Ok(Effect::OnStart);
    };
    if before.agent_lost() {
        return Ok(Effect::Pending);
    }
    let deadline = Instant::now() + DELIVERY_TIMEOUT;
    loop {
        let now = lifecycle(transitions, id).await?;
        let has = |delivered: &Delivered| delivered.boot == boot && delivered.revision >= revision;
        if now.and_then(|now| now.delivered).is_some_and(|delivered| has(&delivered)) {
            return Ok(Effect::Live);
        }
        loop {
            match tokio::time::timeout_at(deadline, changed.recv()).await {
                Ok(Ok(other)) if other.id != *id => {}
                Ok(Ok(_) | Err(RecvError::Lagged(_))) => break,
                Ok(Err(RecvError::Closed)) | Err(_) => return Ok(Effect::Pending),
            }
        }
    }
}

async fn lifecycle(
    transitions: &WorkspaceTransitions,
    id: &WorkspaceId,
) -> Result<Option<Lifecycle>, ServiceError> {
    Ok(transitions.store().workspace(id).await?.map(|workspace| workspace.lifecycle))
}

/// Returns the audit event with the names of the variables, never their values.
fn event<'a, A: Action>(
    permit: &Permit<A>,
    action: &str,
    names: impl IntoIterator<Item = &'a VariableName>,
) -> Result<AuditEvent, ServiceError> {
    let names: Vec<&str> = names.into_iter().map(VariableName::as_str).collect();
    let target = format!("{}/env/{}", id_of(permit)?, names.join(","));
    let target = match target.get(..MAX_TARGET_LEN) {
        Some(start) if target.len() > MAX_TARGET_LEN => format!("{start}…"),
        _ => target,
    };
    Ok(AuditEvent::by(permit.principal(), action, target))
}
