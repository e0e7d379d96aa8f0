//! Workspaces: made, read, and requested to be something else. The doing is the reconciler's.

use std::time::Duration;

use rigbox_core::authz::{
    Action, CreateWorkspace, DeleteWorkspace, Denied, ListWorkspaces, OperateWorkspace, Permit, Principal,
    ReadWorkspace, Target, authorize,
};
use rigbox_core::environment::InvalidVariable;
use rigbox_core::ids::{InvalidId, NodeId, WorkspaceId};
use rigbox_core::lifecycle::{IllegalTransition, Lifecycle};
use rigbox_core::names::{InvalidName, WorkspaceName};
use rigbox_core::plans::Plans;
use rigbox_core::resources::{ResourceError, ResourceLimits, ResourceRequest, Resources};
use rigbox_core::status::{Request, Status};
use rigbox_core::templates::{self, Template};
use rigbox_store::{AuditEvent, EnvironmentNames, IdempotencyKey, Page, Quota, Replay, Workspace};
use tokio::sync::broadcast::error::RecvError;
use tokio::time::Instant;

use super::machine_of;
use crate::changes::Lives;
use crate::clock;
use crate::node_client::{NodeClient, NodeError};

/// How often a random id is drawn again when it is taken.
const DRAWS: usize = 4;

#[derive(Clone)]
pub(crate) struct Workspaces {
    lives: Lives,
    node: NodeClient,
    plans: Plans,
}

/// What a new workspace is to be.
pub(crate) struct Wanted {
    pub(crate) name: String,
    pub(crate) template_id: Option<String>,
    pub(crate) image: Option<String>,
    pub(crate) resources: ResourceRequest,
}

/// Why not.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Problem {
    #[error("no workspace `{0}`: not found")]
    NotFound(String),
    #[error("{0}")]
    Denied(Denied),
    #[error(transparent)]
    InvalidName(#[from] InvalidName),
    #[error(transparent)]
    ResourceError(#[from] ResourceError),
    #[error("{0}")]
    InvalidValue(String),
    #[error(transparent)]
    Illegal(#[from] IllegalTransition),
    #[error("you have a workspace named `{0}` already: choose another name or delete it")]
    NameTaken(String),
    #[error(
        "the limit {limit_name} of {limit} would be exceeded: remove what is not needed, or ask for less"
    )]
    Quota { limit_name: &'static str, limit: u64 },
    #[error("env_vars: {0}")]
    InvalidVariable(#[from] InvalidVariable),
    #[error("the workspace has no variable `{0}`: not found")]
    NoVariable(String),
    #[error(
        "the limit {limit_name} of {limit} would be exceeded: remove variables, or put large values into files"
    )]
    EnvironmentTooLarge { limit_name: &'static str, limit: u64 },
    #[error("this Idempotency-Key was used for another request: use a new one")]
    KeyReused,
    #[error("no API key `{0}`: not found")]
    NoKey(String),
    #[error(
        "this was done before and made the key `{0}`, whose secret was shown then: rotate it for another"
    )]
    ShownOnce(String),
    #[error(transparent)]
    Node(#[from] NodeError),
    #[error(transparent)]
    Store(rigbox_store::Error),
    #[error("{0}")]
    Internal(String),
}

impl From<rigbox_store::Error> for Problem {
    fn from(error: rigbox_store::Error) -> Self {
        match error {
            rigbox_store::Error::Quota { limit_name, limit } => Self::Quota { limit_name, limit },
            rigbox_store::Error::KeyReused => Self::KeyReused,
            rigbox_store::Error::NoWorkspace(id) => Self::NotFound(id.to_string()),
            other => Self::Store(other),
        }
    }
}

impl Workspaces {
    pub(crate) fn new(lives: Lives, node: NodeClient, plans: Plans) -> Self {
        Self { lives, node, plans }
    }

    /// The permit for `A` on the workspace that a path names; whose it is not may not learn that it exists.
    pub(crate) async fn permit<A: Action>(
        &self,
        principal: &Principal,
        id: &str,
    ) -> Result<Permit<A>, Problem> {
        let missing = || Problem::NotFound(id.chars().take(64).collect());
        let id: WorkspaceId = id.parse().map_err(|_: InvalidId| missing())?;
        let workspace = self.lives.store().workspace(&id).await?.ok_or_else(missing)?;
        match authorize(principal, Target::Workspace { id, owner: workspace.user_id }) {
            Err(Denied::NotFound) => Err(missing()),
            other => other.map_err(Problem::Denied),
        }
    }

    /// Makes a workspace; `render` is what a repeated request is answered with.
    pub(crate) async fn create(
        &self,
        permit: &Permit<CreateWorkspace>,
        wanted: &Wanted,
        once: Option<&IdempotencyKey>,
        render: impl Fn(&Workspace) -> String,
    ) -> Result<String, Problem> {
        let owner = permit.principal();
        let name: WorkspaceName = wanted.name.parse()?;
        let template = template_of(wanted)?;
        let node = self.node.describe().await?;
        let limits = self.plans.entitlements(owner.plan, owner.limits).limits(machine_of(&node));
        let ceiling = ResourceLimits {
            ram_mb: limits.max_ram_per_vm_mb,
            vcpu_count: limits.max_vcpu_per_vm,
            disk_size_mb: limits.max_disk_per_vm_mb,
        };
        let quota = Quota {
            max_vms: limits.max_vms,
            max_ram_total_mb: limits.max_ram_total_mb,
            max_disk_total_mb: limits.max_disk_total_mb,
        };
        let now = clock::now();
        let node_id: NodeId =
            node.node_id.parse().map_err(|error: InvalidId| Problem::Internal(error.to_string()))?;
        let mut new = Workspace {
            id: WorkspaceId::from_random(random()?),
            user_id: owner.user.clone(),
            node_id,
            name,
            template_id: template.id.to_owned(),
            image: template.image.to_owned(),
            resources: Resources::resolve(wanted.resources, template, ceiling)?,
            revision: 1,
            lifecycle: Lifecycle::created(now),
            environment: EnvironmentNames::default(),
            created_at: now,
            updated_at: now,
        };
        for _ in 0..DRAWS {
            let answer = render(&new);
            let event = AuditEvent::by(owner, CreateWorkspace::NAME, &new.id);
            let once = once.map(|once| (once, answer.as_str()));
            match self.lives.store().create_workspace(&new, quota, once, &event).await {
                Ok(Replay::Fresh(())) => {
                    self.lives.announce(&new.id);
                    return Ok(answer);
                }
                Ok(Replay::Repeated(answer)) => return Ok(answer),
                // The name's or, once in a blue moon, the id's.
                Err(rigbox_store::Error::NameTaken) => {
                    if self.lives.store().workspace(&new.id).await?.is_none() {
                        return Err(Problem::NameTaken(new.name.to_string()));
                    }
                    new.id = WorkspaceId::from_random(random()?);
                }
                Err(other) => return Err(other.into()),
            }
        }
        Err(Problem::Internal("no free id".to_owned()))
    }

    pub(crate) async fn list(
        &self,
        permit: &Permit<ListWorkspaces>,
        page: &Page,
    ) -> Result<Vec<Workspace>, Problem> {
        Ok(self.lives.store().workspaces_of(permit.principal(), page).await?)
    }

    pub(crate) async fn get(&self, permit: &Permit<ReadWorkspace>) -> Result<Workspace, Problem> {
        self.load(permit).await
    }

    /// The workspace as soon as its status is not `status` any more, or after `limit`.
    pub(crate) async fn wait_until_not(
        &self,
        permit: &Permit<ReadWorkspace>,
        status: Status,
        limit: Duration,
    ) -> Result<Workspace, Problem> {
        let deadline = Instant::now() + limit;
        let mut changed = self.lives.subscribe();
        loop {
            let workspace = self.load(permit).await?;
            if workspace.lifecycle.status != status {
                return Ok(workspace);
            }
            loop {
                match tokio::time::timeout_at(deadline, changed.recv()).await {
                    Err(_) => return Ok(workspace),
                    Ok(Ok(id)) if id == workspace.id => break,
                    Ok(Ok(_)) => {}
                    Ok(Err(RecvError::Lagged(_))) => break,
                    Ok(Err(RecvError::Closed)) => return Ok(workspace),
                }
            }
        }
    }

    pub(crate) async fn start(&self, permit: &Permit<OperateWorkspace>) -> Result<Workspace, Problem> {
        self.request(permit, Request::Start).await
    }

    pub(crate) async fn stop(&self, permit: &Permit<OperateWorkspace>) -> Result<Workspace, Problem> {
        self.request(permit, Request::Stop).await
    }

    pub(crate) async fn cancel(&self, permit: &Permit<OperateWorkspace>) -> Result<Workspace, Problem> {
        self.request(permit, Request::Cancel).await
    }

    pub(crate) async fn retry(&self, permit: &Permit<OperateWorkspace>) -> Result<Workspace, Problem> {
        self.request(permit, Request::Retry).await
    }

    pub(crate) async fn delete(&self, permit: &Permit<DeleteWorkspace>) -> Result<Workspace, Problem> {
        self.request(permit, Request::Delete).await
    }

    async fn request<A: Action>(&self, permit: &Permit<A>, request: Request) -> Result<Workspace, Problem> {
        let id = id_of(permit)?;
        let event = AuditEvent::by(permit.principal(), format!("workspace.{}", request.as_str()), id);
        self.lives
            .change(id, Some(&event), |workspace, now| {
                Ok::<_, Problem>(Some(workspace.lifecycle.request(request, now)?))
            })
            .await?
            .ok_or_else(|| Problem::NotFound(id.to_string()))
    }

    async fn load<A: Action>(&self, permit: &Permit<A>) -> Result<Workspace, Problem> {
        let id = id_of(permit)?;
        self.lives.store().workspace(id).await?.ok_or_else(|| Problem::NotFound(id.to_string()))
    }
}

pub(super) fn id_of<A: Action>(permit: &Permit<A>) -> Result<&WorkspaceId, Problem> {
    permit.workspace().ok_or_else(|| Problem::Internal(format!("{} names no workspace", A::NAME)))
}

fn template_of(wanted: &Wanted) -> Result<&'static Template, Problem> {
    let id = wanted.template_id.as_deref().unwrap_or(templates::DEFAULT);
    let known = || templates::ALL.map(|template| template.id).join(", ");
    let template = templates::find(id).ok_or_else(|| {
        let id: String = id.chars().take(64).collect();
        Problem::InvalidValue(format!("template_id: there is no template `{id}`; there are {}", known()))
    })?;
    match wanted.image.as_deref() {
        Some(image) if image != template.image => Err(Problem::InvalidValue(format!(
            "image: template `{}` has the image `{}`; leave `image` out or name that one",
            template.id, template.image
        ))),
        _ => Ok(template),
    }
}

/// What a new id is made of.
pub(super) fn random() -> Result<[u8; 5], Problem> {
    let mut random = [0; 5];
    getrandom::fill(&mut random).map_err(|error| Problem::Internal(error.to_string()))?;
    Ok(random)
}
