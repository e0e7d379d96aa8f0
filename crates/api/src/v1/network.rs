//! `/workspaces/{id}/network`: what a workspace's VM may reach, and what code in it may decide about its apps.

use axum::Json;
use axum::extract::{Path, State};
use rigbox_core::authz::{ReadNetwork, WriteNetwork};
use rigbox_core::egress;
use rigbox_service::records::NetworkSettings;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::context::ApiContext;
use crate::error::{ApiError, ApiErrorBody};
use crate::extract::{Caller, JsonBody};
use rigbox_service::network::NetworkChange;

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
pub(crate) struct WorkspaceNetworkResponse {
    egress: Egress,
    apps_from_inside: AppsFromInside,
    /// Whether it is in force; `false` only while the node does not answer.
    live: bool,
}

impl WorkspaceNetworkResponse {
    fn new(settings: NetworkSettings, live: bool) -> Self {
        let (mode, domains, cidrs) = match settings.egress {
            egress::Egress::Internet => (Mode::Internet, Vec::new(), Vec::new()),
            egress::Egress::List { domains, cidrs } => (Mode::List, domains, cidrs),
            egress::Egress::None => (Mode::None, Vec::new(), Vec::new()),
        };
        let can_tunnel =
            domains.iter().filter(|domain| domain.is_wildcard()).map(ToString::to_string).collect();
        let domains = domains.into_iter().map(Into::into).collect();
        let cidrs = cidrs.into_iter().map(Into::into).collect();
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

impl WantedEgress {
    /// A list that says nothing, and entries without a list, are refused: they would be taken for another thing.
    fn checked(self) -> Result<egress::Egress, ApiError> {
        let bad = |problem: &dyn std::fmt::Display| ApiError::bad_request(format!("egress: {problem}"));
        let nothing = self.domains.is_empty() && self.cidrs.is_empty();
        let without_list = |egress| {
            if nothing { Ok(egress) } else { Err(bad(&"domains and cidrs are for the mode `list`")) }
        };
        match self.mode {
            Mode::Internet => without_list(egress::Egress::Internet),
            Mode::None => without_list(egress::Egress::None),
            Mode::List if nothing => {
                Err(bad(&"the mode `list` needs domains or cidrs; `none` is for a VM that reaches nothing"))
            }
            Mode::List => {
                let (domains, cidrs) = (self.domains.iter(), self.cidrs.iter());
                egress::Egress::list(domains.map(String::as_str), cidrs.map(String::as_str))
                    .map_err(|error| bad(&error))
            }
        }
    }
}

/// What is to change; what is left out stays.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct UpdateWorkspaceNetworkRequest {
    egress: Option<WantedEgress>,
    apps_from_inside: Option<AppsFromInside>,
}

/// What passes between a workspace and the rest of the world
#[utoipa::path(
    get, path = "/workspaces/{id}/network", tag = "network", params(("id" = String, Path)),
    responses((status = 200, body = WorkspaceNetworkResponse), (status = 404, body = ApiErrorBody)),
)]
pub(crate) async fn get(
    State(app): State<ApiContext>,
    caller: Caller<ReadNetwork>,
    Path(id): Path<String>,
) -> Result<Json<WorkspaceNetworkResponse>, ApiError> {
    let permit = caller.workspace(&app, &id).await?;
    let (settings, live) = app.networks.read(&permit)?;
    Ok(Json(WorkspaceNetworkResponse::new(settings, live)))
}

/// Change what a workspace may reach; it counts at idempotency_key, for open connections too
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
pub(crate) async fn update(
    State(app): State<ApiContext>,
    caller: Caller<WriteNetwork>,
    Path(id): Path<String>,
    JsonBody(body): JsonBody<UpdateWorkspaceNetworkRequest>,
) -> Result<Json<WorkspaceNetworkResponse>, ApiError> {
    let permit = caller.workspace(&app, &id).await?;
    let egress = body.egress.map(WantedEgress::checked).transpose()?;
    let apps_from_inside_any = body.apps_from_inside.map(|inside| matches!(inside, AppsFromInside::Any));
    let (settings, live) =
        app.networks.change(&permit, NetworkChange { egress, apps_from_inside_any }).await?;
    Ok(Json(WorkspaceNetworkResponse::new(settings, live)))
}
