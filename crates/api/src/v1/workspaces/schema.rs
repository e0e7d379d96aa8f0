//! JSON shapes of workspaces.

use std::collections::BTreeMap;

use rigbox_core::environment::MASKED_VALUE;
use rigbox_core::resources::ResourceRequest;
use rigbox_core::status::Status;
use rigbox_service::records::{EnvironmentNames, Workspace};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::{IntoParams, ToSchema};

use crate::error::ApiError;
use crate::schema::date;
use rigbox_service::workspaces::NewWorkspace;

/// What a workspace is doing.
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

/// A workspace.
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
    /// The workspace's environment: names, each with `***` in place of its value. Absent when it is empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    env_vars: Option<BTreeMap<String, String>>,
    /// `lost` while the agent of a running workspace does not answer: stop and start it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    agent: Option<String>,
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
            env_vars: Some(hidden(&workspace.environment)).filter(|env_vars| !env_vars.is_empty()),
            agent: lifecycle.agent_lost.then(|| "lost".to_owned()),
            failure_code: failure.map(|failure| failure.code.clone()),
            failure_reason: failure.map(|failure| failure.message.clone()),
            created_at: date(workspace.created_at),
            updated_at: date(workspace.updated_at),
        }
    }
}

/// The names of an environment, each with what stands for its value.
pub(crate) fn hidden(environment: &EnvironmentNames) -> BTreeMap<String, String> {
    environment.names.iter().map(|name| (name.to_string(), MASKED_VALUE.to_owned())).collect()
}

/// Why a workspace is in `failed`.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct WorkspaceFailure {
    code: String,
    message: String,
    /// Whether `retry` may help.
    retryable: bool,
    attempts: u32,
    #[serde(with = "time::serde::rfc3339")]
    occurred_at: OffsetDateTime,
}

/// One workspace.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct GetWorkspaceResponse {
    vm: Vm,
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
            occurred_at: date(failure.occurred_at),
        });
        Self { vm: workspace.into(), failure }
    }
}

/// A page of workspaces.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ListWorkspacesResponse {
    pub(crate) vms: Vec<Vm>,
    /// Present when there is more.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub(crate) next_cursor: Option<String>,
}

/// What is being done now.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct MessageResponse {
    pub(crate) message: String,
    pub(crate) status: VmStatus,
}

/// A workspace to be made.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CreateWorkspaceRequest {
    /// 1 to 40 characters of a-z, 0-9 and `-`; unique among your workspaces.
    name: String,
    /// `base` when left out; `GET /templates` lists them.
    template_id: Option<String>,
    /// The template's image, or left out.
    image: Option<String>,
    /// Raised to the template's floor.
    ram_mb: Option<u32>,
    /// Raised to the template's floor.
    vcpu_count: Option<u32>,
    /// Raised to the template's floor.
    disk_size_mb: Option<u32>,
    /// Not available yet: empty or left out.
    catalog_ids: Option<Vec<String>>,
    /// Not available yet: empty or left out.
    service_spec_ids: Option<Vec<String>>,
    /// Not available yet: empty or left out.
    setup_script_ids: Option<Vec<String>>,
}

/// Refuses ids of what there is none of yet.
pub(crate) fn none_of<const N: usize>(
    fields: [(&'static str, &Option<Vec<String>>); N],
) -> Result<(), ApiError> {
    for (field, ids) in fields {
        if let Some(id) = ids.as_ref().and_then(|ids| ids.first()) {
            let id: String = id.chars().take(64).collect();
            return Err(ApiError::bad_request(format!("{field}: there is no `{id}`: leave the field out"))
                .with_details(serde_json::json!({"field": field})));
        }
    }
    Ok(())
}

impl CreateWorkspaceRequest {
    pub(crate) fn wanted(self) -> Result<NewWorkspace, ApiError> {
        none_of([
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

/// Which part of the list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ListQuery {
    /// Only the workspace of this name.
    pub(crate) name: Option<String>,
    /// Only workspaces in this status.
    pub(crate) status: Option<String>,
    /// 100 when left out, 1,000 at most.
    #[param(minimum = 1, maximum = 1_000)]
    pub(crate) limit: Option<u32>,
    /// `next_cursor` of the page before.
    pub(crate) cursor: Option<String>,
}

/// Whether to wait.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct GetQuery {
    /// Answer when the status is not this one any more.
    pub(crate) wait_until_not: Option<String>,
    /// Answer after so many seconds at the latest; 30 when left out.
    #[param(maximum = 120)]
    pub(crate) timeout_s: Option<u32>,
}
