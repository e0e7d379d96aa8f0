//! JSON schema of workspaces.

use std::collections::BTreeMap;

use rigbox_core::environment::MASKED_VALUE;
use rigbox_core::resources::ResourceRequest;
use rigbox_core::status::Status;
use rigbox_core::system;
use rigbox_service::records::{EnvironmentNames, Workspace};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::{IntoParams, ToSchema};

use crate::error::ApiError;
use crate::openapi::formats;
use crate::schema::to_date;
use rigbox_service::workspaces::NewWorkspace;

/// Status of a workspace.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum VmStatus {
    Provisioned,
    Provisioning,
    Starting,
    Running,
    Stopping,
    Stopped,
    Deleting,
    Failed,
}

impl From<Status> for VmStatus {
    fn from(status: Status) -> Self {
        match status {
            Status::Provisioned => Self::Provisioned,
            Status::Provisioning => Self::Provisioning,
            Status::Starting => Self::Starting,
            Status::Running => Self::Running,
            Status::Stopping => Self::Stopping,
            Status::Stopped => Self::Stopped,
            Status::Deleting => Self::Deleting,
            Status::Failed => Self::Failed,
        }
    }
}

/// State of the system in a workspace, in systemd's words.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum SystemState {
    /// Services are being started.
    Starting,
    /// All services have been started.
    Running,
    /// The start is over, and a service failed: see `systemctl --failed`.
    Degraded,
}

impl From<system::SystemState> for SystemState {
    fn from(state: system::SystemState) -> Self {
        match state {
            system::SystemState::Starting => Self::Starting,
            system::SystemState::Running => Self::Running,
            system::SystemState::Degraded => Self::Degraded,
        }
    }
}

/// Workspace.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Vm {
    id: String,
    user_id: String,
    node_id: String,
    name: String,
    status: VmStatus,
    image: String,
    template_id: String,
    ram_mb: u32,
    vcpu_count: u32,
    disk_size_mb: u32,
    /// Environment of the workspace: each name with `***` in place of its value. Absent if empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    env_vars: Option<BTreeMap<String, String>>,
    /// `lost` while the agent of a running workspace does not answer: stop and start the workspace.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    agent: Option<String>,
    /// State of the system in a running workspace. Commands run as soon as the workspace is `running`; services may still be starting.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    system: Option<SystemState>,
    /// Number of boots that have to end before this one begins, in a workspace that is `starting` while too many others boot.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    queue_position: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    failure_code: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    failure_reason: Option<String>,
    #[serde(with = "time::serde::rfc3339")]
    created_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    updated_at: OffsetDateTime,
}

impl From<&Workspace> for Vm {
    fn from(workspace: &Workspace) -> Self {
        let (lifecycle, failure) = (&workspace.lifecycle, workspace.lifecycle.failure.as_ref());
        Self {
            id: workspace.id.to_string(),
            user_id: workspace.user_id.to_string(),
            node_id: workspace.node_id.to_string(),
            name: workspace.name.to_string(),
            status: lifecycle.status.into(),
            image: workspace.image.clone(),
            template_id: workspace.template_id.clone(),
            ram_mb: workspace.resources.ram_mb(),
            vcpu_count: workspace.resources.vcpu_count(),
            disk_size_mb: workspace.resources.disk_size_mb(),
            env_vars: Some(masked_variables(&workspace.environment)).filter(|env_vars| !env_vars.is_empty()),
            agent: lifecycle.agent_lost().then(|| "lost".to_owned()),
            system: (lifecycle.status == Status::Running).then(|| lifecycle.system().into()),
            queue_position: None,
            failure_code: failure.map(|failure| failure.code.clone()),
            failure_reason: failure.map(|failure| failure.message.clone()),
            created_at: to_date(workspace.created_at),
            updated_at: to_date(workspace.updated_at),
        }
    }
}

impl Vm {
    /// Adds the place in the queue of boots.
    pub(crate) fn with_queue_position(self, queue_position: Option<u32>) -> Self {
        Self { queue_position, ..self }
    }
}

/// Returns the names of an environment, each with a placeholder for its value.
pub(crate) fn masked_variables(environment: &EnvironmentNames) -> BTreeMap<String, String> {
    environment.names.iter().map(|name| (name.to_string(), MASKED_VALUE.to_owned())).collect()
}

/// Reason that a workspace is in `failed`.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct WorkspaceFailure {
    code: String,
    message: String,
    /// True if `retry` may help.
    retryable: bool,
    attempts: u32,
    #[serde(with = "time::serde::rfc3339")]
    occurred_at: OffsetDateTime,
}

/// One workspace.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct GetWorkspaceResponse {
    pub(crate) vm: Vm,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    failure: Option<WorkspaceFailure>,
}

impl From<&Workspace> for GetWorkspaceResponse {
    fn from(workspace: &Workspace) -> Self {
        let failure = workspace.lifecycle.failure.as_ref().map(|failure| WorkspaceFailure {
            code: failure.code.clone(),
            message: failure.message.clone(),
            retryable: failure.retryable,
            attempts: workspace.lifecycle.attempts,
            occurred_at: to_date(failure.occurred_at),
        });
        Self { vm: workspace.into(), failure }
    }
}

/// Page of workspaces.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ListWorkspacesResponse {
    pub(crate) vms: Vec<Vm>,
    /// Present if there are more.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub(crate) next_cursor: Option<String>,
}

/// Operation in progress.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct MessageResponse {
    pub(crate) message: String,
    pub(crate) status: VmStatus,
}

/// Specification of a new workspace.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CreateWorkspaceRequest {
    /// 1 to 40 characters of a-z, 0-9 and `-`; unique among your workspaces.
    #[schema(value_type = formats::WorkspaceName)]
    name: String,
    /// `base` if omitted; see `GET /templates`.
    #[schema(value_type = Option<formats::TemplateId>)]
    template_id: Option<String>,
    /// Omitted, or the template's image.
    #[schema(value_type = Option<formats::TemplateImage>)]
    image: Option<String>,
    /// Raised to the template's minimum.
    #[schema(minimum = 1, maximum = 2_147_483_647)]
    ram_mb: Option<u32>,
    /// Raised to the template's minimum.
    #[schema(minimum = 1, maximum = 2_147_483_647)]
    vcpu_count: Option<u32>,
    /// Raised to the template's minimum.
    #[schema(minimum = 1, maximum = 2_147_483_647)]
    disk_size_mb: Option<u32>,
    /// Not available yet: empty or omitted.
    #[schema(max_items = 0)]
    catalog_ids: Option<Vec<String>>,
    /// Not available yet: empty or omitted.
    #[schema(max_items = 0)]
    service_spec_ids: Option<Vec<String>>,
    /// Not available yet: empty or omitted.
    #[schema(max_items = 0)]
    setup_script_ids: Option<Vec<String>>,
}

/// Refuses ids of kinds that do not exist yet.
pub(crate) fn check_unsupported<const N: usize>(
    fields: [(&'static str, &Option<Vec<String>>); N],
) -> Result<(), ApiError> {
    for (field, ids) in fields {
        if let Some(id) = ids.as_ref().and_then(|ids| ids.first()) {
            let id: String = id.chars().take(64).collect();
            return Err(ApiError::bad_request(format!("{field}: `{id}` does not exist. Omit the field."))
                .with_details(serde_json::json!({"field": field})));
        }
    }
    Ok(())
}

impl CreateWorkspaceRequest {
    pub(crate) fn into_spec(self) -> Result<NewWorkspace, ApiError> {
        check_unsupported([
            ("catalog_ids", &self.catalog_ids),
            ("service_spec_ids", &self.service_spec_ids),
            ("setup_script_ids", &self.setup_script_ids),
        ])?;
        Ok(NewWorkspace {
            name: self.name,
            template_id: self.template_id,
            image: self.image,
            resources: ResourceRequest {
                ram_mb: self.ram_mb,
                vcpu_count: self.vcpu_count,
                disk_size_mb: self.disk_size_mb,
            },
        })
    }
}

/// Filter and page of the list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ListQuery {
    /// Only the workspace with this name.
    pub(crate) name: Option<String>,
    /// Only workspaces in this status.
    #[param(value_type = Option<VmStatus>)]
    pub(crate) status: Option<String>,
    /// 100 if omitted, at most 1,000.
    #[param(minimum = 1, maximum = 1_000)]
    pub(crate) limit: Option<u32>,
    /// `next_cursor` of the previous page.
    #[param(pattern = r"^[0-9]{1,18}\.[a-z0-9-]+$")]
    pub(crate) cursor: Option<String>,
}

/// Waiting for a change.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct GetQuery {
    /// Wait until the status differs from this one.
    #[param(value_type = Option<VmStatus>)]
    pub(crate) wait_until_not: Option<String>,
    /// Wait until the workspace is not running, or the state of its system differs from this one.
    #[param(value_type = Option<SystemState>)]
    pub(crate) wait_until_system_not: Option<String>,
    /// Maximum seconds to wait; 30 if omitted.
    #[param(maximum = 120)]
    pub(crate) timeout_s: Option<u32>,
}
