//! Network policies of workspaces: reading, changing, and pushing to the node. Whatever changes a policy raises its revision in the database,
//! in the same transaction, and the policy is pushed until the node has acknowledged that revision.

use std::time::Duration;

use rigbox_core::authz::{Action, Permit, ReadNetwork, WriteNetwork};
use rigbox_core::egress::Egress;
use rigbox_core::ids::WorkspaceId;
use rigbox_proto::node::egress::Mode;
use rigbox_proto::node::{Egress as WireEgress, NetworkPolicy};
use rigbox_store::{AuditEvent, NetworkRevisions, NetworkSettings, Store};
use tokio::sync::watch;
use tracing::warn;

use crate::clock;
use crate::error::{ServiceError, id_of};
use crate::nodes::client::{NodeClient, NodeError};
use crate::vm_limits::OwnerLimits;

/// Interval at which policies are looked for that the node has not acknowledged: their push failed, or another process changed them.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// Service for network policies.
#[derive(Clone)]
pub struct NetworkPolicies {
    store: Store,
    node: NodeClient,
    limits: OwnerLimits,
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
        Self { store, node, limits }
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
        let changed = self.store.change_network(id, apply, &event, clock::now()).await?;
        let settings = changed.ok_or_else(|| ServiceError::NotFound(id.to_string()))?;
        let live = self.push(id).await?;
        Ok((settings, live))
    }

    /// Returns the policy that the node is to enforce, with its revision. `None` if there is no such workspace.
    pub fn policy(&self, id: &WorkspaceId) -> Result<Option<(u64, NetworkPolicy)>, rigbox_store::Error> {
        // The revision first: a change that comes between has a later one, which follows.
        let Some(revisions) = self.store.network_revisions(id)? else { return Ok(None) };
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
        Ok(Some((revisions.wanted, NetworkPolicy { app_ports, egress: Some(egress), limits })))
    }

    /// Pushes a workspace's policy to the node. Returns whether it is in force. A workspace that the node does not know gets its policy when
    /// it starts.
    pub async fn push(&self, id: &WorkspaceId) -> Result<bool, rigbox_store::Error> {
        while let Some((revision, policy)) = self.policy(id)? {
            match self.node.set_network(id, revision, policy).await {
                // The node has worked for a newer database than this one, which was restored.
                Ok(latest) if latest > revision => self.store.raise_network_revision(id, latest).await?,
                Err(NodeError::Refused { code, .. }) if code != "not_found" => {
                    warn!(workspace = %id, code, "the node refused the network policy; trying again");
                    return Ok(false);
                }
                Err(NodeError::Unreachable(problem)) => {
                    warn!(workspace = %id, problem, "failed to push the network policy; trying again");
                    return Ok(false);
                }
                Ok(_) | Err(NodeError::Refused { .. }) => {
                    self.store.acknowledge_network(id, revision).await?;
                    return Ok(true);
                }
            }
        }
        Ok(true)
    }

    /// Pushes the policies that the node has not acknowledged, for as long as it is polled. `synced` tells when the node is back: its own
    /// configuration, and that of plans, may have changed, so it gets all policies.
    pub async fn run(&self, mut synced: watch::Receiver<bool>) {
        let mut retry = tokio::time::interval(RETRY_INTERVAL);
        loop {
            let found = tokio::select! {
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

fn to_strings<T: Into<String>>(entries: Vec<T>) -> Vec<String> {
    entries.into_iter().map(Into::into).collect()
}
