//! Network policies of workspaces: reading, changing, and pushing to the node. A push that fails is repeated
//! once the node responds again.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rigbox_core::authz::{Action, Permit, ReadNetwork, WriteNetwork};
use rigbox_core::egress::Egress;
use rigbox_core::ids::WorkspaceId;
use rigbox_proto::node::egress::Mode;
use rigbox_proto::node::{Egress as WireEgress, NetworkPolicy};
use rigbox_store::{AuditEvent, NetworkSettings, Store};
use tokio::sync::watch;
use tracing::warn;

use crate::clock;
use crate::error::{ServiceError, id_of};
use crate::nodes::client::{NodeClient, NodeError};
use crate::vm_limits::OwnerLimits;

/// Interval at which failed pushes are repeated, and changed limits looked for.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// Service for network policies.
#[derive(Clone)]
pub struct NetworkPolicies {
    store: Store,
    node: NodeClient,
    limits: OwnerLimits,
    /// Workspaces whose policy the node may not have.
    unsynced: Arc<Mutex<BTreeSet<WorkspaceId>>>,
}

/// Change of network settings. Fields that are `None` stay as they are.
pub struct NetworkChange {
    /// New egress policy.
    pub egress: Option<Egress>,
    /// True if code in the workspace may share its apps more widely.
    pub apps_from_inside_any: Option<bool>,
}

impl NetworkPolicies {
    /// Creates the service.
    pub fn new(store: Store, node: NodeClient, limits: OwnerLimits) -> Self {
        Self { store, node, limits, unsynced: Arc::default() }
    }

    /// Returns the network settings of a workspace.
    pub fn settings(&self, id: &WorkspaceId) -> Result<NetworkSettings, rigbox_store::Error> {
        Ok(self.store.network(id)?.unwrap_or_default())
    }

    /// Returns the settings, and whether they are in force.
    pub fn read(&self, permit: &Permit<ReadNetwork>) -> Result<(NetworkSettings, bool), ServiceError> {
        let id = id_of(permit)?;
        let live = !self.unsynced().contains(id);
        Ok((self.settings(id)?, live))
    }

    /// Changes the settings and pushes them to the node. Returns them, and whether they are in force.
    pub async fn change(
        &self,
        permit: &Permit<WriteNetwork>,
        change: NetworkChange,
    ) -> Result<(NetworkSettings, bool), ServiceError> {
        let id = id_of(permit)?;
        let mut settings = self.settings(id)?;
        if let Some(egress) = change.egress {
            settings.egress = egress;
        }
        if let Some(any) = change.apps_from_inside_any {
            settings.apps_from_inside_any = any;
        }
        let event = AuditEvent::by(permit.principal(), WriteNetwork::NAME, id);
        if !self.store.set_network(id, &settings, &event, clock::now()).await? {
            return Err(ServiceError::NotFound(id.to_string()));
        }
        let live = self.push(id).await?;
        Ok((settings, live))
    }

    /// Returns the policy that the node enforces.
    pub fn policy(&self, id: &WorkspaceId) -> Result<NetworkPolicy, rigbox_store::Error> {
        let without_list = |mode: Mode| WireEgress { mode: mode.into(), ..WireEgress::default() };
        let egress = match self.settings(id)?.egress {
            Egress::Internet => without_list(Mode::Internet),
            Egress::List { domains, cidrs, allow_ech } => {
                let (domains, cidrs) = (to_strings(domains), to_strings(cidrs));
                WireEgress { mode: Mode::List.into(), domains, cidrs, allow_ech }
            }
            Egress::None => without_list(Mode::None),
        };
        let app_ports = self.store.app_ports(id)?.into_iter().map(u32::from).collect();
        let limits = Some(self.limits.of_network(id)?);
        Ok(NetworkPolicy { app_ports, egress: Some(egress), limits })
    }

    /// Pushes a workspace's policy to the node. Returns whether it is there. A workspace that the node does
    /// not know gets its policy when it starts.
    pub async fn push(&self, id: &WorkspaceId) -> Result<bool, rigbox_store::Error> {
        self.unsynced().remove(id);
        match self.node.set_network(id, self.policy(id)?).await {
            Ok(()) => Ok(true),
            Err(NodeError::Refused { code, .. }) if code == "not_found" => Ok(true),
            Err(error) => {
                warn!(workspace = %id, %error, "failed to push the network policy; trying again");
                self.unsynced().insert(id.clone());
                Ok(false)
            }
        }
    }

    /// Repeats failed pushes, and pushes changed limits, for as long as it is polled. `synced` tells when the node is back.
    pub async fn run(&self, mut synced: watch::Receiver<bool>) {
        let mut retry = tokio::time::interval(RETRY_INTERVAL);
        loop {
            tokio::select! {
                changed = synced.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    if *synced.borrow_and_update() {
                        match self.store.running_workspaces().await {
                            Ok(ids) => self.unsynced().extend(ids),
                            Err(error) => warn!(%error, "failed to read the running workspaces"),
                        }
                    }
                }
                _ = retry.tick() => match self.limits.changed().await {
                    Ok(ids) => self.unsynced().extend(ids),
                    Err(error) => warn!(%error, "failed to read the limits of running workspaces"),
                },
            }
            let unsynced: Vec<_> = self.unsynced().iter().cloned().collect();
            for id in unsynced {
                if let Err(error) = self.push(&id).await {
                    warn!(workspace = %id, %error, "failed to read the network policy");
                    self.unsynced().insert(id);
                }
            }
        }
    }

    fn unsynced(&self) -> std::sync::MutexGuard<'_, BTreeSet<WorkspaceId>> {
        self.unsynced.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn to_strings<T: Into<String>>(entries: Vec<T>) -> Vec<String> {
    entries.into_iter().map(Into::into).collect()
}
