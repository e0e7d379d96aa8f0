//! What passes between a workspace and the rest of the world: read, set, and brought to the node. What could not be brought there is
//! brought as soon as the node answers again.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rigbox_core::ids::WorkspaceId;
use rigbox_proto::node::egress::Mode;
use rigbox_proto::node::{Egress, NetworkPolicy};
use rigbox_store::{EgressMode, NetworkSettings, Store};
use tokio::sync::watch;
use tracing::warn;

use crate::node_client::{NodeClient, NodeError};

const AGAIN_EVERY: Duration = Duration::from_secs(1);

#[derive(Clone)]
pub(crate) struct Networks {
    store: Store,
    node: NodeClient,
    /// Workspaces whose policy the node may not have.
    behind: Arc<Mutex<BTreeSet<WorkspaceId>>>,
}

impl Networks {
    pub(crate) fn new(store: Store, node: NodeClient) -> Self {
        Self { store, node, behind: Arc::default() }
    }

    pub(crate) fn settings(&self, id: &WorkspaceId) -> Result<NetworkSettings, rigbox_store::Error> {
        Ok(self.store.network(id)?.unwrap_or_default())
    }

    /// What the node is to let through.
    pub(crate) fn policy(&self, id: &WorkspaceId) -> Result<NetworkPolicy, rigbox_store::Error> {
        let settings = self.settings(id)?;
        let mode = match settings.egress.mode {
            EgressMode::Internet => Mode::Internet,
            EgressMode::List => Mode::List,
            EgressMode::None => Mode::None,
        };
        let egress =
            Egress { mode: mode.into(), domains: settings.egress.domains, cidrs: settings.egress.cidrs };
        let app_ports = self.store.app_ports(id)?.into_iter().map(u32::from).collect();
        Ok(NetworkPolicy { app_ports, egress: Some(egress) })
    }

    /// Brings a workspace's policy to the node; whether it is there. A workspace that the node does not know gets it when it starts.
    pub(crate) async fn push(&self, id: &WorkspaceId) -> Result<bool, rigbox_store::Error> {
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
    pub(crate) async fn run(&self, mut synced: watch::Receiver<bool>) {
        let mut again = tokio::time::interval(AGAIN_EVERY);
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
