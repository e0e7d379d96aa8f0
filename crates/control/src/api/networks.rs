//! `/workspaces/{id}/network`: what a workspace's VM may reach, and what code in it may decide about its apps.

use axum::Json;
use axum::extract::{Path, State};
use rigbox_core::permit::{ReadNetwork, WriteNetwork};
use rigbox_store::{EgressMode, EgressSettings, NetworkSettings};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::App;
use super::error::{ApiError, ApiErrorBody};
use super::extract::{Caller, JsonBody};
use crate::service::networks::NetworkChange;

/// In which way egress is limited.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum Mode {
    /// The public internet.
    Internet,
    /// What is listed.
    List,
    /// Nothing.
    None,
}

/// Who decides to whom apps show themselves, for code in the workspace.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum AppsFromInside {
    /// It may show them to fewer people, not to more.
    Narrow,
    /// It decides.
    Any,
}

/// What a VM may reach.
#[derive(Debug, Serialize, ToSchema)]
struct Egress {
    mode: Mode,
    /// For `list`.
    domains: Vec<String>,
    /// For `list`.
    cidrs: Vec<String>,
    /// Entries of `domains` that cover names which others choose: whoever has one can carry data out in it.
    can_tunnel: Vec<String>,
}

/// What passes between a workspace and the rest of the world.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct WorkspaceNetworkResponse {
    egress: Egress,
    apps_from_inside: AppsFromInside,
    /// Whether it is in force; `false` only while the node does not answer.
    live: bool,
}

impl WorkspaceNetworkResponse {
    fn new(settings: NetworkSettings, live: bool) -> Self {
        let EgressSettings { mode, domains, cidrs } = settings.egress;
        let mode = match mode {
            EgressMode::Internet => Mode::Internet,
            EgressMode::List => Mode::List,
            EgressMode::None => Mode::None,
        };
        let can_tunnel = domains.iter().filter(|domain| domain.starts_with("*.")).cloned().collect();
        let inside = settings.apps_from_inside_any;
        Self {
            egress: Egress { mode, domains, cidrs, can_tunnel },
            apps_from_inside: if inside { AppsFromInside::Any } else { AppsFromInside::Narrow },
            live,
        }
    }
}

/// What a VM is to reach, in place of what it did before.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct WantedEgress {
    mode: Mode,
    /// For `list`: `example.org`, or `*.example.org` for the names below it. At most 64.
    #[serde(default)]
    domains: Vec<String>,
    /// For `list`: public IPv4 networks, such as `93.184.216.0/24`. At most 64.
    #[serde(default)]
    cidrs: Vec<String>,
}

/// What is to change; what is left out stays.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct UpdateWorkspaceNetworkRequest {
    egress: Option<WantedEgress>,
    apps_from_inside: Option<AppsFromInside>,
}

/// What passes between a workspace and the rest of the world
#[utoipa::path(
    get, path = "/workspaces/{id}/network", tag = "network", params(("id" = String, Path)),
    responses((status = 200, body = WorkspaceNetworkResponse), (status = 404, body = ApiErrorBody)),
)]
pub(super) async fn get(
    State(app): State<App>,
    caller: Caller<ReadNetwork>,
    Path(id): Path<String>,
) -> Result<Json<WorkspaceNetworkResponse>, ApiError> {
    let permit = caller.workspace(&app, &id).await?;
    let (settings, live) = app.networks.read(&permit)?;
    Ok(Json(WorkspaceNetworkResponse::new(settings, live)))
}

/// Change what a workspace may reach; it counts at once, for open connections too
#[utoipa::path(
    patch, path = "/workspaces/{id}/network", tag = "network", params(("id" = String, Path)),
    request_body = UpdateWorkspaceNetworkRequest,
    responses(
        (status = 200, body = WorkspaceNetworkResponse),
        (status = 400, body = ApiErrorBody),
        (status = 404, body = ApiErrorBody),
        (status = 413, body = ApiErrorBody),
    ),
)]
pub(super) async fn update(
    State(app): State<App>,
    caller: Caller<WriteNetwork>,
    Path(id): Path<String>,
    JsonBody(body): JsonBody<UpdateWorkspaceNetworkRequest>,
) -> Result<Json<WorkspaceNetworkResponse>, ApiError> {
    let permit = caller.workspace(&app, &id).await?;
    let egress = body.egress.map(|wanted| EgressSettings {
        mode: match wanted.mode {
            Mode::Internet => EgressMode::Internet,
            Mode::List => EgressMode::List,
            Mode::None => EgressMode::None,
        },
        domains: wanted.domains,
        cidrs: wanted.cidrs,
    });
    let apps_from_inside_any = body.apps_from_inside.map(|inside| matches!(inside, AppsFromInside::Any));
    let (settings, live) =
        app.networks.change(&permit, NetworkChange { egress, apps_from_inside_any }).await?;
    Ok(Json(WorkspaceNetworkResponse::new(settings, live)))
}
