//! Workspaces: creation, reading, and requests for another state. The reconciler carries them out.

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
use rigbox_core::system::SystemState;
use rigbox_core::templates::{self, Template};
use rigbox_proto::node::NodeDescription;
use rigbox_store::{
    Admission, AuditEvent, EnvironmentNames, IdempotencyKey, Page, Quota, Replay, Step, Workspace,
};
use tokio::sync::broadcast::error::RecvError;
use tokio::time::Instant;

use crate::error::{ServiceError, id_of, random_id};
use crate::nodes::client::NodeClient;
use crate::nodes::machine_capacity;
use crate::transitions::WorkspaceTransitions;

/// Memory of a VMM beside its VM's in MiB: the translation cache under emulation, and its own.
const VM_OVERHEAD_MB: u64 = 128;
/// Attempts to draw a random id that is not taken.
const MAX_ATTEMPTS: usize = 4;

/// Service for workspaces.
#[derive(Clone)]
pub struct Workspaces {
    transitions: WorkspaceTransitions,
    node: NodeClient,
    plans: Plans,
}

/// Specification of a new workspace.
pub struct NewWorkspace {
    /// Name, unique among the user's workspaces.
    pub name: String,
    /// Template; `None` means the default one.
    pub template_id: Option<String>,
    /// Image; if given, it must be the template's.
    pub image: Option<String>,
    /// Requested resources.
    pub resources: ResourceRequest,
}

impl Workspaces {
    /// Creates the service.
    pub fn new(transitions: WorkspaceTransitions, node: NodeClient, plans: Plans) -> Self {
        Self { transitions, node, plans }
    }

    /// Authorizes `A` on the workspace with this id. Callers without access get the same error as for a
    /// workspace that does not exist.
    pub async fn authorize<A: Action>(
        &self,
        principal: &Principal,
        id: &str,
    ) -> Result<Permit<A>, ServiceError> {
        let not_an_id = |_: InvalidId| ServiceError::NotAnId(id.chars().take(64).collect());
        let id: WorkspaceId = id.parse().map_err(not_an_id)?;
        let missing = || ServiceError::NotFound(id.to_string());
        let workspace = self.transitions.store().workspace(&id).await?.ok_or_else(missing)?;
        match authorize(principal, Target::Workspace { id: id.clone(), owner: workspace.user_id }) {
            Err(Denied::NotFound) => Err(missing()),
            other => other.map_err(ServiceError::Denied),
        }
    }

    /// Creates a workspace. `render` returns the response that is stored for a repeated request.
    pub async fn create(
        &self,
        permit: &Permit<CreateWorkspace>,
        spec: &NewWorkspace,
        idempotency_key: Option<&IdempotencyKey>,
        render: impl Fn(&Workspace) -> String,
    ) -> Result<String, ServiceError> {
        let owner = permit.principal();
        let name = WorkspaceName::for_new(&spec.name)?;
        let template = template_of(spec)?;
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
        let now = self.transitions.store().now();
        let node_id: NodeId =
            node.node_id.parse().map_err(|error: InvalidId| ServiceError::Internal(error.to_string()))?;
        let mut new = Workspace {
            id: WorkspaceId::from_random(random_id()?),
            user_id: owner.user.clone(),
            node_id,
            name,
            template_id: template.id.to_owned(),
            image: template.image.to_owned(),
            resources: Resources::resolve(spec.resources, template, ceiling)?,
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
            let store = self.transitions.store();
            let created = store.create_workspace(&new, quota, once, &event);
            match store.perform(Step::Create, created).await {
                Ok(Replay::Fresh(())) => {
                    self.transitions.announce(&new.id);
                    return Ok(response);
                }
                Ok(Replay::Repeated(response)) => return Ok(response),
                // The name is taken or, very rarely, the id.
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

    /// Returns how many boots have to end before that of a starting workspace begins. `None` if it is not in the queue of boots.
    pub fn queue_position(&self, workspace: &Workspace) -> Option<u32> {
        let is_starting = workspace.lifecycle.status == Status::Starting;
        is_starting.then(|| self.node.queue_position(&workspace.id)).flatten()
    }

    /// Lists a page of the caller's workspaces.
    pub async fn list(
        &self,
        permit: &Permit<ListWorkspaces>,
        page: &Page,
    ) -> Result<Vec<Workspace>, ServiceError> {
        Ok(self.transitions.store().workspaces_of(permit.principal(), page).await?)
    }

    /// Returns a workspace.
    pub async fn get(&self, permit: &Permit<ReadWorkspace>) -> Result<Workspace, ServiceError> {
        self.load(permit).await
    }

    /// Returns the workspace as soon as its status is not `status`, or after `limit`.
    pub async fn wait_until_not(
        &self,
        permit: &Permit<ReadWorkspace>,
        status: Status,
        limit: Duration,
    ) -> Result<Workspace, ServiceError> {
        self.wait_while(permit, |lifecycle| lifecycle.status == status, limit).await
    }

    /// Returns the workspace as soon as it is not running with its system in this state, or after `limit`.
    pub async fn wait_until_system_not(
        &self,
        permit: &Permit<ReadWorkspace>,
        system: SystemState,
        limit: Duration,
    ) -> Result<Workspace, ServiceError> {
        let is_in =
            |lifecycle: &Lifecycle| lifecycle.status == Status::Running && lifecycle.system() == system;
        self.wait_while(permit, is_in, limit).await
    }

    async fn wait_while(
        &self,
        permit: &Permit<ReadWorkspace>,
        condition: impl Fn(&Lifecycle) -> bool,
        limit: Duration,
    ) -> Result<Workspace, ServiceError> {
        let deadline = Instant::now() + limit;
        let mut changed = self.transitions.subscribe();
        loop {
            let workspace = self.load(permit).await?;
            if !condition(&workspace.lifecycle) {
                return Ok(workspace);
            }
            loop {
                match tokio::time::timeout_at(deadline, changed.recv()).await {
                    Err(_) => return Ok(workspace),
                    Ok(Ok(change)) if change.id == workspace.id => break,
                    Ok(Ok(_)) => {}
                    Ok(Err(RecvError::Lagged(_))) => break,
                    Ok(Err(RecvError::Closed)) => return Ok(workspace),
                }
            }
        }
    }

    /// Requests a start.
    pub async fn start(&self, permit: &Permit<OperateWorkspace>) -> Result<Workspace, ServiceError> {
        self.request(permit, Request::Start).await
    }

    /// Requests a stop.
    pub async fn stop(&self, permit: &Permit<OperateWorkspace>) -> Result<Workspace, ServiceError> {
        self.request(permit, Request::Stop).await
    }

    /// Cancels the operation in progress.
    pub async fn cancel(&self, permit: &Permit<OperateWorkspace>) -> Result<Workspace, ServiceError> {
        self.request(permit, Request::Cancel).await
    }

    /// Retries the failed operation.
    pub async fn retry(&self, permit: &Permit<OperateWorkspace>) -> Result<Workspace, ServiceError> {
        self.request(permit, Request::Retry).await
    }

    /// Requests deletion.
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
        let admission = match request {
            Request::Start | Request::Retry => Some(admission(&*self.node.describe_or_last().await?)),
            Request::Stop | Request::Cancel | Request::Delete => None,
        };
        let changed = self.transitions.change_within(admission, id, Some(&event), |workspace, now| {
            Ok::<_, ServiceError>(Some(workspace.lifecycle.request(request, now)?))
        });
        let store = self.transitions.store();
        store.perform(Step::Request, changed).await?.ok_or_else(|| ServiceError::NotFound(id.to_string()))
    }

    async fn load<A: Action>(&self, permit: &Permit<A>) -> Result<Workspace, ServiceError> {
        let id = id_of(permit)?;
        self.transitions.store().workspace(id).await?.ok_or_else(|| ServiceError::NotFound(id.to_string()))
    }
}

/// Returns the memory of a node for running VMs. Its processes and the host have the rest.
fn admission(node: &NodeDescription) -> Admission {
    Admission { max_ram_mb: node.ram_mb / 8 * 7, overhead_mb: VM_OVERHEAD_MB }
}

fn template_of(spec: &NewWorkspace) -> Result<&'static Template, ServiceError> {
    let id = spec.template_id.as_deref().unwrap_or(templates::DEFAULT);
    let all = || templates::ALL.map(|template| template.id).join(", ");
    let template = templates::find(id).ok_or_else(|| {
        let id: String = id.chars().take(64).collect();
        ServiceError::InvalidValue(format!(
            "template_id: Template `{id}` does not exist. Use one of {}.",
            all()
        ))
    })?;
    match spec.image.as_deref() {
        Some(image) if image != template.image => Err(ServiceError::InvalidValue(format!(
            "image: Template `{}` has the image `{}`. Omit `image`, or use that one.",
            template.id, template.image
        ))),
        _ => Ok(template),
    }
}
