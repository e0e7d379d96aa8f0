//! A workspace's environment: its names read, its variables set and removed. The values go in and never come out again; the delivering
//! is the reconciler's, and a change is answered once a running workspace has it.

use std::collections::BTreeMap;
use std::time::Duration;

use rigbox_core::authz::{Action, Permit, ReadEnv, WriteEnv};
use rigbox_core::environment::{InvalidVariable, VariableName};
use rigbox_core::status::Status;
use rigbox_store::{AuditEvent, EnvironmentNames};
use secrecy::{ExposeSecret, SecretString};

use crate::clock;
use crate::error::{ServiceError, id_of};
use crate::guests::secret_delivery::SecretDelivery;
use crate::transitions::WorkspaceTransitions;

/// How long a change waits for a workspace to have taken it.
const LIVE_WITHIN: Duration = Duration::from_secs(5);
/// Of what the audit log tells about a change.
const LONGEST_TARGET: usize = 256;

#[derive(Clone)]
pub struct Environments {
    transitions: WorkspaceTransitions,
    secret_delivery: SecretDelivery,
}

/// What has become of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// The workspace has it.
    Live,
    /// The workspace has it when it runs.
    AtStart,
    /// The workspace runs and has not taken it yet.
    Soon,
}

impl Environments {
    pub fn new(transitions: WorkspaceTransitions, secret_delivery: SecretDelivery) -> Self {
        Self { transitions, secret_delivery }
    }

    pub async fn names(&self, permit: &Permit<ReadEnv>) -> Result<EnvironmentNames, ServiceError> {
        let id = id_of(permit)?;
        let workspace = self.transitions.store().workspace(id).await?;
        Ok(workspace.ok_or_else(|| ServiceError::NotFound(id.to_string()))?.environment)
    }

    /// Adds variables, or gives them other values.
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
        let changed = self.transitions.store().set_variables(id, &checked, &event, clock::now()).await;
        let names = match changed {
            Ok(names) => names.ok_or_else(|| ServiceError::NotFound(id.to_string()))?,
            Err(rigbox_store::Error::Quota { limit_name, limit }) => {
                return Err(ServiceError::EnvironmentTooLarge { limit_name, limit });
            }
            Err(other) => return Err(other.into()),
        };
        self.effect(permit, names.revision).await
    }

    pub async fn unset(&self, permit: &Permit<WriteEnv>, name: &str) -> Result<Effect, ServiceError> {
        let missing = || ServiceError::NoVariable(name.chars().take(64).collect());
        let name: VariableName = name.parse().map_err(|_: InvalidVariable| missing())?;
        let event = event(permit, "secret.delete", [&name])?;
        let names =
            self.transitions.store().remove_variable(id_of(permit)?, &name, &event, clock::now()).await?;
        self.effect(permit, names.ok_or_else(missing)?.revision).await
    }

    /// Has the change delivered, and waits for it a little.
    async fn effect(&self, permit: &Permit<WriteEnv>, revision: i64) -> Result<Effect, ServiceError> {
        let id = id_of(permit)?;
        self.transitions.announce(id);
        let workspace = self.transitions.store().workspace(id).await?;
        let Some(lifecycle) = workspace.map(|workspace| workspace.lifecycle) else {
            return Ok(Effect::AtStart);
        };
        let (Status::Running, Some(boot)) = (lifecycle.status, &lifecycle.boot) else {
            return Ok(Effect::AtStart);
        };
        if !lifecycle.agent_lost && self.secret_delivery.wait_delivered(id, boot, revision, LIVE_WITHIN).await
        {
            Ok(Effect::Live)
        } else {
            Ok(Effect::Soon)
        }
    }
}

/// What the audit log tells: which variables, never their values.
fn event<'a, A: Action>(
    permit: &Permit<A>,
    action: &str,
    names: impl IntoIterator<Item = &'a VariableName>,
) -> Result<AuditEvent, ServiceError> {
    let names: Vec<&str> = names.into_iter().map(VariableName::as_str).collect();
    let target = format!("{}/env/{}", id_of(permit)?, names.join(","));
    let target = match target.get(..LONGEST_TARGET) {
        Some(start) if target.len() > LONGEST_TARGET => format!("{start}…"),
        _ => target,
    };
    Ok(AuditEvent::by(permit.principal(), action, target))
}
