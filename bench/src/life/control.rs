//! Control of the benchmark `life`: the reconciler and the services above a database on disk, opened as the control role opens it.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rigbox_core::ids::{UserId, WorkspaceId};
use rigbox_core::lifecycle::{Lifecycle, Timeouts};
use rigbox_core::names::WorkspaceName;
use rigbox_core::plans::{Plan, Plans};
use rigbox_core::resources::Resources;
use rigbox_core::status::{Request, Status};
use rigbox_proto::guest::DeliverSecretsRequest;
use rigbox_service::clock;
use rigbox_service::database::{KeySource, TokenKey};
use rigbox_service::guests::client::GuestError;
use rigbox_service::guests::deliver::DeliverSecrets;
use rigbox_service::guests::secret_delivery::SecretDelivery;
use rigbox_service::network::NetworkPolicies;
use rigbox_service::nodes::client::NodeClient;
use rigbox_service::reconciler::Reconciler;
use rigbox_service::targets::Targets;
use rigbox_service::transitions::WorkspaceTransitions;
use rigbox_service::vm_limits::OwnerLimits;
use rigbox_store::{AuditEvent, EnvironmentNames, Quota, Store, Workspace};
use tokio::sync::watch;

use super::node::{NODE_ID, socket};

const EMAIL: &str = "bench@rigbox.invalid";
/// Time for all workspaces to get anywhere.
const TIMEOUT: Duration = Duration::from_secs(300);
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Control.
pub(super) struct Control {
    transitions: WorkspaceTransitions,
    node: NodeClient,
    synced: watch::Receiver<bool>,
}

/// Agents, which take everything.
struct Agents;

impl DeliverSecrets for Agents {
    fn deliver<'a>(
        &'a self,
        _: &'a WorkspaceId,
        _: DeliverSecretsRequest,
    ) -> BoxFuture<'a, Result<(), GuestError>> {
        async { Ok(()) }.boxed()
    }
}

impl Control {
    /// Opens the database and starts the reconciler.
    pub(super) async fn open(folder: &Path) -> Result<Self> {
        let token_key = TokenKey::load_or_create(&folder.join("token.key"))?;
        let store = Store::open(&folder.join("rigbox.db"), &token_key).await?;
        let store = store.unlock(KeySource::File(folder.join("master.key")), clock::now()).await?;
        let node = NodeClient::new(&socket(folder), &store.database_id().await?);
        let transitions = WorkspaceTransitions::new(store.clone());
        let secrets =
            SecretDelivery::new(store.clone(), token_key, Arc::new(Agents), "rigbox.localhost", Vec::new());
        let limits = OwnerLimits::new(store.clone(), Plans::default());
        let targets = Targets::new(store.clone(), limits, String::new());
        let networks = NetworkPolicies::new(store, node.clone(), targets.clone());
        let reconciler = Reconciler::new(
            transitions.clone(),
            node.clone(),
            secrets,
            networks.clone(),
            targets,
            Timeouts::default(),
        );
        let (synced, known) = (reconciler.synced(), reconciler.synced());
        tokio::spawn(reconciler.run());
        tokio::spawn(async move { networks.run(known).await });
        Ok(Self { transitions, node, synced })
    }

    /// Waits until a report of the node's session is stored for every workspace.
    pub(super) async fn recovered(&mut self) -> Result<()> {
        self.synced.wait_for(|synced| *synced).await?;
        let session = self.node.session().context("synced without a session")?;
        let ids = self.store().all_workspaces().await?;
        self.wait_for_all(&ids, |lifecycle| lifecycle.observed.order.session == session).await
    }

    /// Creates and starts workspaces until there are `count`, and waits until all of them run and nothing is left to do.
    pub(super) async fn run_workspaces(&self, count: u32) -> Result<()> {
        let all = self.store().all_workspaces().await?;
        let have = u32::try_from(all.len())?;
        if have < count {
            let user = self.user().await?;
            let mut made = Vec::new();
            for number in have..count {
                made.push(self.create(&user, number).await?);
            }
            self.wait_for_all(&made, |lifecycle| lifecycle.status == Status::Provisioned).await?;
            for id in &made {
                let start = |workspace: &Workspace, now| {
                    Ok(Some(workspace.lifecycle.request(Request::Start, now).map_err(anyhow::Error::from)?))
                };
                self.transitions.change::<anyhow::Error>(id, None, start).await?;
            }
        }
        let all = self.store().all_workspaces().await?;
        self.wait_for_all(&all, |lifecycle| {
            lifecycle.status == Status::Running && lifecycle.answering_boot().is_some()
        })
        .await?;
        let deadline = Instant::now() + TIMEOUT;
        while !(self.store().unsettled_workspaces().await?.is_empty()
            && self.store().pending_networks().await?.is_empty())
        {
            anyhow::ensure!(Instant::now() < deadline, "something is left to do");
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        Ok(())
    }

    /// Waits until it is stored of each workspace whether its agent is lost.
    pub(super) async fn reported(&self, agent_lost: bool) -> Result<()> {
        let all = self.store().all_workspaces().await?;
        self.wait_for_all(&all, |lifecycle| lifecycle.agent_lost() == agent_lost).await
    }

    fn store(&self) -> &Store {
        self.transitions.store()
    }

    async fn user(&self) -> Result<UserId> {
        match self.store().user_by_email(EMAIL).await? {
            Some(user) => Ok(user.id),
            None => Ok(self.store().add_user(EMAIL, Plan::Pro, clock::now()).await?),
        }
    }

    async fn create(&self, user: &UserId, number: u32) -> Result<WorkspaceId> {
        let [a, b, c, d] = number.to_be_bytes();
        let (id, now) = (WorkspaceId::from_random([a, b, c, d, 1]), clock::now());
        let new = Workspace {
            id: id.clone(),
            user_id: user.clone(),
            node_id: NODE_ID.parse()?,
            name: WorkspaceName::for_new(&format!("w{number}"))?,
            template_id: "base".to_owned(),
            image: "base".to_owned(),
            resources: Resources::new(512, 1, 4096)?,
            revision: 1,
            lifecycle: Lifecycle::created(now),
            environment: EnvironmentNames::default(),
            created_at: now,
            updated_at: now,
        };
        let quota = Quota { max_vms: u32::MAX, max_ram_total_mb: u32::MAX, max_disk_total_mb: u32::MAX };
        let event = AuditEvent::by_operator(user, "workspace.create", &id);
        self.store().create_workspace(&new, quota, None, &event).await?;
        self.transitions.announce(&id);
        Ok(id)
    }

    async fn wait_for_all(&self, ids: &[WorkspaceId], is_there: impl Fn(&Lifecycle) -> bool) -> Result<()> {
        let deadline = Instant::now() + TIMEOUT;
        for id in ids {
            loop {
                let workspace = self.store().workspace(id).await?.with_context(|| format!("{id} is gone"))?;
                if is_there(&workspace.lifecycle) {
                    break;
                }
                let status = workspace.lifecycle.status;
                anyhow::ensure!(Instant::now() < deadline, "{id} is still {status}");
                tokio::time::sleep(POLL_INTERVAL).await;
            }
        }
        Ok(())
    }
}
