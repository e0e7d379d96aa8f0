//! What passes between a workspace and the rest of the world: read, set, and brought to the node. What could not be brought there is
//! brought as soon as the node answers again.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rigbox_core::egress::Egress;
use rigbox_core::ids::WorkspaceId;
use rigbox_core::permit::{Action, Permit, ReadNetwork, WriteNetwork};
use rigbox_proto::node::NetworkPolicy;
use rigbox_proto::node::egress::Mode;
use rigbox_store::{Act, EgressMode, EgressSettings, NetworkSettings, Store};
use tokio::sync::watch;
use tracing::warn;

use super::workspaces::{Problem, id_of};
use crate::clock;
use crate::node_client::{NodeClient, NodeError};

const AGAIN_EVERY: Duration = Duration::from_secs(1);

#[derive(Clone)]
pub(crate) struct Networks {
    store: Store,
    node: NodeClient,
    /// Workspaces whose policy the node may not have.
    behind: Arc<Mutex<BTreeSet<WorkspaceId>>>,
}

/// What is to change; what is none stays.
pub(crate) struct NetworkChange {
    pub(crate) egress: Option<EgressSettings>,
    pub(crate) apps_from_inside_any: Option<bool>,
}

/// Entries in the one spelling that they have; a list that says nothing is refused, because it would be taken for another thing.
fn checked(wanted: EgressSettings) -> Result<EgressSettings, Problem> {
    let EgressSettings { mode, domains, cidrs } = wanted;
    if mode != EgressMode::List {
        return match (domains.is_empty(), cidrs.is_empty()) {
            (true, true) => Ok(EgressSettings { mode, domains, cidrs }),
            _ => Err(Problem::BadValue("egress: domains and cidrs are for the mode `list`".to_owned())),
        };
    }
    let list = Egress::list(domains.iter().map(String::as_str), cidrs.iter().map(String::as_str))
        .map_err(|error| Problem::BadValue(format!("egress: {error}")))?;
    let Egress::List { domains, cidrs } = list else {
        return Err(Problem::Internal("an allow-list that is none".to_owned()));
    };
    if domains.is_empty() && cidrs.is_empty() {
        let message =
            "egress: the mode `list` needs domains or cidrs; `none` is for a VM that reaches nothing";
        return Err(Problem::BadValue(message.to_owned()));
    }
    Ok(EgressSettings {
        mode,
        domains: domains.iter().map(ToString::to_string).collect(),
        cidrs: cidrs.iter().map(ToString::to_string).collect(),
    })
}

impl Networks {
    pub(crate) fn new(store: Store, node: NodeClient) -> Self {
        Self { store, node, behind: Arc::default() }
    }

    pub(crate) fn settings(&self, id: &WorkspaceId) -> Result<NetworkSettings, rigbox_store::Error> {
        Ok(self.store.network(id)?.unwrap_or_default())
    }

    /// What is set, and whether it is in force.
    pub(crate) fn read(&self, permit: &Permit<ReadNetwork>) -> Result<(NetworkSettings, bool), Problem> {
        let id = id_of(permit)?;
        let live = !self.behind().contains(id);
        Ok((self.settings(id)?, live))
    }

    /// Changes what is set, and brings it to the node.
    pub(crate) async fn change(
        &self,
        permit: &Permit<WriteNetwork>,
        change: NetworkChange,
    ) -> Result<(NetworkSettings, bool), Problem> {
        let id = id_of(permit)?;
        let mut settings = self.settings(id)?;
        if let Some(egress) = change.egress {
            settings.egress = checked(egress)?;
        }
        if let Some(any) = change.apps_from_inside_any {
            settings.apps_from_inside_any = any;
        }
        let act = Act::by(permit.principal(), WriteNetwork::NAME, id);
        if !self.store.set_network(id, &settings, &act, clock::now()).await? {
            return Err(Problem::NotFound(id.to_string()));
        }
        let live = self.push(id).await?;
        Ok((settings, live))
    }

    /// What the node is to let through.
    pub(crate) fn policy(&self, id: &WorkspaceId) -> Result<NetworkPolicy, rigbox_store::Error> {
        let settings = self.settings(id)?;
        let mode = match settings.egress.mode {
            EgressMode::Internet => Mode::Internet,
            EgressMode::List => Mode::List,
            EgressMode::None => Mode::None,
        };
        let egress = rigbox_proto::node::Egress {
            mode: mode.into(),
            domains: settings.egress.domains,
            cidrs: settings.egress.cidrs,
        };
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
