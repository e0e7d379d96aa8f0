//! `/quick-deploy`: a workspace with environment and apps, created and started in one request.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use rigbox_core::authz::{CreateWorkspace, Target};
use rigbox_core::resources::ResourceRequest;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::apps::schema::App;
use super::workspaces::schema::{Vm, check_unsupported};
use crate::context::ApiContext;
use crate::error::{ApiError, ApiErrorBody};
use crate::extract::{Caller, JsonBody};
use crate::openapi::formats;
use rigbox_service::quick_deploy::Deployment;
use rigbox_service::workspaces::NewWorkspace;

/// Specification of the workspace to create and start.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct QuickDeployRequest {
    /// See `GET /templates`.
    #[schema(value_type = formats::TemplateId)]
    template_id: String,
    /// Generated if omitted.
    #[schema(value_type = Option<formats::WorkspaceName>)]
    name: Option<String>,
    /// Raised to the template's minimum.
    #[schema(minimum = 1, maximum = 2_147_483_647)]
    ram_mb: Option<u32>,
    /// Raised to the template's minimum.
    #[schema(minimum = 1, maximum = 2_147_483_647)]
    vcpu_count: Option<u32>,
    /// Raised to the template's minimum.
    #[schema(minimum = 1, maximum = 2_147_483_647)]
    disk_size_mb: Option<u32>,
    /// Environment of the workspace.
    #[schema(value_type = Option<formats::EnvVars>)]
    env_vars: Option<BTreeMap<String, SecretString>>,
    /// Parameters of the template's apps, by their names in the template.
    #[schema(value_type = Option<formats::TemplateParams>)]
    app_params: Option<BTreeMap<String, BTreeMap<String, String>>>,
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

/// Starting workspace and its apps.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct QuickDeployResponse {
    workspace: Vm,
    expected_apps: Vec<App>,
    installed_apps: Vec<String>,
    message: String,
}

/// Create a workspace with its template's apps, and start it
#[utoipa::path(
    post, path = "/quick-deploy", operation_id = "quick_deploy", tag = "workspaces", request_body = QuickDeployRequest,
    responses(
        (status = 200, body = QuickDeployResponse),
        (status = 400, body = ApiErrorBody),
        (status = 402, body = ApiErrorBody, description = "A limit of the plan or the machine; the message names it"),
        (status = 409, body = ApiErrorBody, description = "The name is taken"),
        (status = 413, body = ApiErrorBody),
    ),
)]
pub(crate) async fn deploy(
    State(context): State<ApiContext>,
    caller: Caller<CreateWorkspace>,
    JsonBody(body): JsonBody<QuickDeployRequest>,
) -> Result<Json<QuickDeployResponse>, ApiError> {
    check_unsupported([
        ("catalog_ids", &body.catalog_ids),
        ("service_spec_ids", &body.service_spec_ids),
        ("setup_script_ids", &body.setup_script_ids),
    ])?;
    let name = match body.name {
        Some(name) => name,
        None => generated_name()?,
    };
    let deployment = Deployment {
        workspace: NewWorkspace {
            name,
            template_id: Some(body.template_id),
            image: None,
            resources: ResourceRequest {
                ram_mb: body.ram_mb,
                vcpu_count: body.vcpu_count,
                disk_size_mb: body.disk_size_mb,
            },
        },
        environment: body.env_vars.unwrap_or_default(),
        params: body.app_params.unwrap_or_default(),
    };
    let (workspace, apps) =
        context.quick_deploy.deploy(&caller.authorize(Target::Account)?, deployment).await?;
    let message = format!("Workspace {} is starting.", workspace.name);
    let installed_apps = apps.iter().map(|created| created.app.name.to_string()).collect();
    let expected_apps = apps.into_iter().map(|created| context.render_app(created)).collect();
    Ok(Json(QuickDeployResponse { workspace: (&workspace).into(), expected_apps, installed_apps, message }))
}

/// Returns a random name.
fn generated_name() -> Result<String, ApiError> {
    let mut random = [0; 4];
    getrandom::fill(&mut random).map_err(|error| ApiError::internal(&error))?;
    Ok(format!("box-{:08x}", u32::from_ne_bytes(random)))
}
