//! Workspaces: made, read, and requested to be something else. The doing is the reconciler's.

use std::time::Duration;

use rigbox_core::authz::{
    Action, CreateWorkspace, DeleteWorkspace, Denied, ListWorkspaces, OperateWorkspace, Permit, Principal,
    ReadWorkspace, Target, authorize,
};
use rigbox_core::ids::{InvalidId, NodeId, WorkspaceId};
use rigbox_core::lifecycle::Lifecycle;
use rigbox_core::names::WorkspaceName;
use rigbox_core::plans::Plans;
use rigbox_core::resources::{ResourceLimits, ResourceRequest, Resources};
use rigbox_core::status::{Request, Status};
use rigbox_core::templates::{self, Template};
use rigbox_store::{AuditEvent, EnvironmentNames, IdempotencyKey, Page, Quota, Replay, Workspace};
use tokio::sync::broadcast::error::RecvError;
use tokio::time::Instant;

use crate::clock;
use crate::error::{ServiceError, id_of, random_id};
use crate::nodes::client::NodeClient;
use crate::nodes::machine_capacity;
use crate::transitions::WorkspaceTransitions;

/// How often a random id is drawn again when it is taken.
const MAX_ATTEMPTS: usize = 4;

#[derive(Clone)]
pub struct Workspaces {
    transitions: WorkspaceTransitions,
    node: NodeClient,
    plans: Plans,
}

/// What a new workspace is to be.
pub struct NewWorkspace {
    pub name: String,
    pub template_id: Option<String>,
    pub image: Option<String>,
    pub resources: ResourceRequest,
}

impl Workspaces {
    pub fn new(transitions: WorkspaceTransitions, node: NodeClient, plans: Plans) -> Self {
        Self { transitions, node, plans }
    }

    /// The permit for `A` on the workspace that a path names; whose it is not may not learn that it exists.
    pub async fn authorize<A: Action>(
        &self,
        principal: &Principal,
        id: &str,
    ) -> Result<Permit<A>, ServiceError> {
        let missing = || ServiceError::NotFound(id.chars().take(64).collect());
        let id: WorkspaceId = id.parse().map_err(|_: InvalidId| missing())?;
        let workspace = self.transitions.store().workspace(&id).await?.ok_or_else(missing)?;
        match authorize(principal, Target::Workspace { id, owner: workspace.user_id }) {
            Err(Denied::NotFound) => Err(missing()),
            other => other.map_err(ServiceError::Denied),
        }
    }

    /// Makes a workspace; `render` is what a repeated request is responseed with.
    pub async fn create(
        &self,
        permit: &Permit<CreateWorkspace>,
        wanted: &NewWorkspace,
        idempotency_key: Option<&IdempotencyKey>,
        render: impl Fn(&Workspace) -> String,
    ) -> Result<String, ServiceError> {
        let owner = permit.principal();
        let name: WorkspaceName = wanted.name.parse()?;
        let template = template_of(wanted)?;
        let node = self.node.describe().await?;
        let limits = self.plans.entitlements(owner.plan, owner.limits).limits(machine_capacity(&node));
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
            node.node_id.parse().map_err(|error: InvalidId| ServiceError::Internal(error.to_string()))?;
        let mut new = Workspace {
            id: WorkspaceId::from_random(random_id()?),
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
        for _ in 0..MAX_ATTEMPTS {
            let response = render(&new);
            let event = AuditEvent::by(owner, CreateWorkspace::NAME, &new.id);
            let once = idempotency_key.map(|key| (key, response.as_str()));
            match self.transitions.store().create_workspace(&new, quota, once, &event).await {
                Ok(Replay::Fresh(())) => {
                    self.transitions.announce(&new.id);
                    return Ok(response);
                }
                Ok(Replay::Repeated(response)) => return Ok(response),
                // The name's or, once in a blue moon, the id's.
                Err(rigbox_store::Error::NameTaken) => {
                    if self.transitions.store().workspace(&new.id).await?.is_none() {
                        return Err(ServiceError::NameTaken(new.name.to_string()));
                    }
                    new.id = WorkspaceId::from_random(random_id()?);
                }
                Err(other) => return Err(other.into()),
            }
        }
        Err(ServiceError::Internal("no free id".to_owned()))
    }

    pub async fn list(
        &self,
        permit: &Permit<ListWorkspaces>,
        page: &Page,
    ) -> Result<Vec<Workspace>, ServiceError> {
        Ok(self.transitions.store().workspaces_of(permit.principal(), page).await?)
    }

    pub async fn get(&self, permit: &Permit<ReadWorkspace>) -> Result<Workspace, ServiceError> {
        self.load(permit).await
    }

    /// The workspace as soon as its status is not `status` any more, or after `limit`.
    pub async fn wait_until_not(
        &self,
        permit: &Permit<ReadWorkspace>,
        status: Status,
        limit: Duration,
    ) -> Result<Workspace, ServiceError> {
        let deadline = Instant::now() + limit;
        let mut changed = self.transitions.subscribe();
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

    pub async fn start(&self, permit: &Permit<OperateWorkspace>) -> Result<Workspace, ServiceError> {
        self.request(permit, Request::Start).await
    }

    pub async fn stop(&self, permit: &Permit<OperateWorkspace>) -> Result<Workspace, ServiceError> {
        self.request(permit, Request::Stop).await
    }

    pub async fn cancel(&self, permit: &Permit<OperateWorkspace>) -> Result<Workspace, ServiceError> {
        self.request(permit, Request::Cancel).await
    }

    pub async fn retry(&self, permit: &Permit<OperateWorkspace>) -> Result<Workspace, ServiceError> {
        self.request(permit, Request::Retry).await
    }

    pub async fn delete(&self, permit: &Permit<DeleteWorkspace>) -> Result<Workspace, ServiceError> {
        self.request(permit, Request::Delete).await
    }

    async fn request<A: Action>(
        &self,
        permit: &Permit<A>,
        request: Request,
    ) -> Result<Workspace, ServiceError> {
        let id = id_of(permit)?;
        let event = AuditEvent::by(permit.principal(), format!("workspace.{}", request.as_str()), id);
        self.transitions
            .change(id, Some(&event), |workspace, now| {
                Ok::<_, ServiceError>(Some(workspace.lifecycle.request(request, now)?))
            })
            .await?
            .ok_or_else(|| ServiceError::NotFound(id.to_string()))
    }

    async fn load<A: Action>(&self, permit: &Permit<A>) -> Result<Workspace, ServiceError> {
        let id = id_of(permit)?;
        self.transitions.store().workspace(id).await?.ok_or_else(|| ServiceError::NotFound(id.to_string()))
    }
}

fn template_of(wanted: &NewWorkspace) -> Result<&'static Template, ServiceError> {
    let id = wanted.template_id.as_deref().unwrap_or(templates::DEFAULT);
    let known = || templates::ALL.map(|template| template.id).join(", ");
    let template = templates::find(id).ok_or_else(|| {
        let id: String = id.chars().take(64).collect();
        ServiceError::InvalidValue(format!("template_id: there is no template `{id}`; there are {}", known()))
    })?;
    match wanted.image.as_deref() {
        Some(image) if image != template.image => Err(ServiceError::InvalidValue(format!(
            "image: template `{}` has the image `{}`; leave `image` out or name that one",
            template.id, template.image
        ))),
        _ => Ok(template),
    }
}
