//! Network policies of workspaces: reading, changing, and pushing to the node. Whatever changes a policy raises its revision in the database,
//! in the same transaction, and the policy is pushed until the node has acknowledged that revision.

use std::time::Duration;

use rigbox_core::authz::{Action, Permit, ReadNetwork, WriteNetwork};
use rigbox_core::egress::Egress;
use rigbox_core::ids::WorkspaceId;
use rigbox_store::{AuditEvent, NetworkRevisions, NetworkSettings, Store};
use tokio::sync::watch;
use tracing::warn;

use crate::error::{ServiceError, id_of};
use crate::nodes::api::NodeError;
use crate::nodes::client::NodeClient;
use crate::targets::Targets;

/// Interval at which policies are looked for that the node has not acknowledged: their push failed, or another process changed them.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// Maximum number of pushes in a row of one workspace whose policy changes all the time.
const MAX_PUSHES: usize = 3;

/// Service for network policies.
#[derive(Clone)]
pub struct NetworkPolicies {
    store: Store,
    node: NodeClient,
    targets: Targets,
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
    pub fn new(store: Store, node: NodeClient, targets: Targets) -> Self {
        Self { store, node, targets }
    }

    /// Returns the network settings of a workspace.
    pub fn settings(&self, id: &WorkspaceId) -> Result<NetworkSettings, rigbox_store::Error> {
        Ok(self.store.network(id)?.unwrap_or_default())
    }

    /// Returns the settings, and whether they are in force.
    pub fn read(&self, permit: &Permit<ReadNetwork>) -> Result<(NetworkSettings, bool), ServiceError> {
        let id = id_of(permit)?;
        let live = self.store.network_revisions(id)?.is_none_or(NetworkRevisions::is_in_force);
        Ok((self.settings(id)?, live))
    }

    /// Changes the settings and pushes them to the node. Returns them, and whether they are in force.
    pub async fn change(
        &self,
        permit: &Permit<WriteNetwork>,
        change: NetworkChange,
    ) -> Result<(NetworkSettings, bool), ServiceError> {
        let id = id_of(permit)?;
        let apply = |settings: &mut NetworkSettings| {
            if let Some(egress) = change.egress {
                settings.egress = egress;
            }
            if let Some(any) = change.apps_from_inside_any {
                settings.apps_from_inside_any = any;
            }
        };
        let event = AuditEvent::by(permit.principal(), WriteNetwork::NAME, id);
        let changed = self.store.change_network(id, apply, &event, self.store.now()).await?;
        let settings = changed.ok_or_else(|| ServiceError::NotFound(id.to_string()))?;
        let live = self.push(id).await?;
        Ok((settings, live))
    }

    /// Pushes a workspace's policy to the node, with the whole target. Returns whether it is in force. A workspace that the node does not
    /// have gets its policy when it has it again.
    pub async fn push(&self, id: &WorkspaceId) -> Result<bool, rigbox_store::Error> {
        for _ in 0..MAX_PUSHES {
            let Some(workspace) = self.store.workspace(id).await? else { return Ok(true) };
            let Some(request) = self.targets.request(&workspace).await? else { return Ok(true) };
            let sent = request.network_revision;
            let report = match self.node.set_target(request).await {
                Ok(report) => report,
                Err(NodeError::Refused { code, .. }) => {
                    warn!(workspace = %id, code, "the node refused the network policy; trying again");
                    return Ok(false);
                }
                Err(NodeError::Unreachable(problem)) => {
                    warn!(workspace = %id, problem, "failed to push the network policy; trying again");
                    return Ok(false);
                }
            };
            let has = if report.observed.is_absent() { sent } else { report.network_revision };
            // Otherwise it has changed meanwhile, as the target has, or the node has a later one.
            if self.acknowledge(id, has).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Records the revision of a workspace's policy that the node has. Returns whether the wanted one is in force.
    pub async fn acknowledge(&self, id: &WorkspaceId, revision: u64) -> Result<bool, rigbox_store::Error> {
        // Most reports tell nothing new, and need no write.
        let mut revisions = self.store.network_revisions(id)?;
        if revisions.is_some_and(|revisions| revisions.acknowledged < revision) {
            self.store.acknowledge_network(id, revision).await?;
            revisions = self.store.network_revisions(id)?;
        }
        Ok(revisions.is_none_or(NetworkRevisions::is_in_force))
    }

    /// Pushes the policies that the node has not acknowledged, for as long as it is polled. `synced` tells when the node is back: its own
    /// configuration, and that of plans, may have changed, so it gets all policies.
    pub async fn run(&self, mut synced: watch::Receiver<bool>) {
        let mut retry = tokio::time::interval(RETRY_INTERVAL);
        loop {
            let found = tokio::select! {
                biased;
                changed = synced.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    if !*synced.borrow_and_update() {
                        continue;
                    }
                    self.store.running_workspaces().await
                }
                _ = retry.tick() => self.store.pending_networks().await,
            };
            let push = async {
                for id in found? {
                    self.push(&id).await?;
                }
                Ok::<_, rigbox_store::Error>(())
            };
            if let Err(error) = push.await {
                warn!(%error, "failed to read or write the state of network policies; trying again");
            }
        }
    }
}
