//! What passes between a workspace and the rest of the world: read, set, and brought to the node. What could not be brought there is
//! brought as soon as the node answers again.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rigbox_core::authz::{Action, Permit, ReadNetwork, WriteNetwork};
use rigbox_core::egress::Egress;
use rigbox_core::ids::WorkspaceId;
use rigbox_proto::node::NetworkPolicy;
use rigbox_proto::node::egress::Mode;
use rigbox_store::{AuditEvent, NetworkSettings, Store};
use tokio::sync::watch;
use tracing::warn;

use crate::clock;
use crate::error::{ServiceError, id_of};
use crate::nodes::client::{NodeClient, NodeError};

const RETRY_INTERVAL: Duration = Duration::from_secs(1);

#[derive(Clone)]
pub struct NetworkPolicies {
    store: Store,
    node: NodeClient,
    /// Workspaces whose policy the node may not have.
    behind: Arc<Mutex<BTreeSet<WorkspaceId>>>,
}

/// What is to change; what is none stays.
pub struct NetworkChange {
    pub egress: Option<Egress>,
    pub apps_from_inside_any: Option<bool>,
}

impl NetworkPolicies {
    pub fn new(store: Store, node: NodeClient) -> Self {
        Self { store, node, behind: Arc::default() }
    }

    pub fn settings(&self, id: &WorkspaceId) -> Result<NetworkSettings, rigbox_store::Error> {
        Ok(self.store.network(id)?.unwrap_or_default())
    }

    /// What is set, and whether it is in force.
    pub fn read(&self, permit: &Permit<ReadNetwork>) -> Result<(NetworkSettings, bool), ServiceError> {
        let id = id_of(permit)?;
        let live = !self.behind().contains(id);
        Ok((self.settings(id)?, live))
    }

    /// Changes what is set, and brings it to the node.
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

    /// What the node is to let through.
    pub fn policy(&self, id: &WorkspaceId) -> Result<NetworkPolicy, rigbox_store::Error> {
        let (mode, domains, cidrs) = match self.settings(id)?.egress {
            Egress::Internet => (Mode::Internet, Vec::new(), Vec::new()),
            Egress::List { domains, cidrs } => (Mode::List, texts(domains), texts(cidrs)),
            Egress::None => (Mode::None, Vec::new(), Vec::new()),
        };
        let egress = rigbox_proto::node::Egress { mode: mode.into(), domains, cidrs };
        let app_ports = self.store.app_ports(id)?.into_iter().map(u32::from).collect();
        Ok(NetworkPolicy { app_ports, egress: Some(egress) })
    }

    /// Brings a workspace's policy to the node; whether it is there. A workspace that the node does not know gets it when it starts.
    pub async fn push(&self, id: &WorkspaceId) -> Result<bool, rigbox_store::Error> {
        self.behind().remove(id);
        match self.node.set_network(id, self.policy(id)?).await {
            Ok(()) => Ok(true),
            Err(NodeError::Refused { code, .. }) if code == "not_found" => Ok(true),
            Err(error) => {
                warn!(workspace = %id, %error, "what the workspace lets through is not at the node yet");
                self.behind().insert(id.clone());
                Ok(false)
            }
        }
    }

    /// Catches up, for as long as it is polled. `synced` tells when the node has come back.
    pub async fn run(&self, mut synced: watch::Receiver<bool>) {
        let mut again = tokio::time::interval(RETRY_INTERVAL);
        loop {
            tokio::select! {
                changed = synced.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    if *synced.borrow_and_update() {
                        match self.store.running_workspaces().await {
                            Ok(ids) => self.behind().extend(ids),
                            Err(error) => warn!(%error, "cannot read which workspaces run"),
                        }
                    }
                }
                _ = again.tick() => {}
            }
            let behind: Vec<_> = self.behind().iter().cloned().collect();
            for id in behind {
                if let Err(error) = self.push(&id).await {
                    warn!(workspace = %id, %error, "cannot read what the workspace lets through");
                    self.behind().insert(id);
                }
            }
        }
    }

    fn behind(&self) -> std::sync::MutexGuard<'_, BTreeSet<WorkspaceId>> {
        self.behind.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn texts<T: Into<String>>(entries: Vec<T>) -> Vec<String> {
    entries.into_iter().map(Into::into).collect()
}
