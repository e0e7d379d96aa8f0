//! `/workspaces/{id}/network`: egress of a workspace's VM, and the sharing of apps by code in it.

use axum::Json;
use axum::extract::State;
use rigbox_core::authz::{ReadNetwork, WriteNetwork};
use rigbox_core::egress;
use rigbox_service::records::NetworkSettings;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::context::ApiContext;
use crate::error::{ApiError, ApiErrorBody};
use crate::extract::{Caller, JsonBody, PathParams};
use crate::openapi::formats;
use rigbox_service::network::NetworkChange;

/// Egress mode.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum Mode {
    /// The public internet.
    Internet,
    /// Listed destinations only.
    List,
    /// Nothing.
    None,
}

/// True if code in the workspace may change who can open its apps.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum AppsFromInside {
    /// It may share apps less widely, not more.
    Narrow,
    /// It may share apps with anyone.
    Any,
}

/// Egress of a VM.
#[derive(Debug, Serialize, ToSchema)]
struct Egress {
    mode: Mode,
    /// For `list`.
    domains: Vec<String>,
    /// For `list`.
    cidrs: Vec<String>,
    /// For `list`, if TLS handshakes with an encrypted server name are allowed.
    #[serde(skip_serializing_if = "Option::is_none")]
    allow_ech: Option<bool>,
    /// Entries of `domains` with names that others control, through which data can be exfiltrated.
    can_tunnel: Vec<String>,
}

/// Network settings of a workspace.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct WorkspaceNetworkResponse {
    egress: Egress,
    apps_from_inside: AppsFromInside,
    /// True if the settings are in force; `false` only while the node does not answer.
    live: bool,
}

impl WorkspaceNetworkResponse {
    fn new(settings: NetworkSettings, live: bool) -> Self {
        let (mode, domains, cidrs, allow_ech) = match settings.egress {
            egress::Egress::Internet => (Mode::Internet, Vec::new(), Vec::new(), false),
            egress::Egress::List { domains, cidrs, allow_ech } => (Mode::List, domains, cidrs, allow_ech),
            egress::Egress::None => (Mode::None, Vec::new(), Vec::new(), false),
        };
        let can_tunnel =
            domains.iter().filter(|domain| domain.is_wildcard()).map(ToString::to_string).collect();
        let domains = domains.into_iter().map(Into::into).collect();
        let cidrs = cidrs.into_iter().map(Into::into).collect();
        let inside = settings.apps_from_inside_any;
        Self {
            egress: Egress { mode, domains, cidrs, allow_ech: allow_ech.then_some(true), can_tunnel },
            apps_from_inside: if inside { AppsFromInside::Any } else { AppsFromInside::Narrow },
            live,
        }
    }
}

/// New egress, replacing the current one.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct EgressUpdate {
    mode: Mode,
    /// For `list`: `example.org`, or `*.example.org` for the names below it, at ports 443 (by the server name in TLS) and 80 (by the
    /// request's host); `example.org:5432` for this port only, where no name is checked. At most 64.
    #[serde(default)]
    #[schema(value_type = Vec<formats::EgressDomain>, max_items = 64)]
    domains: Vec<String>,
    /// For `list`: public IPv4 networks, such as `93.184.216.0/24`. At most 64.
    #[serde(default)]
    #[schema(value_type = Vec<formats::EgressNetwork>, max_items = 64)]
    cidrs: Vec<String>,
    /// For `list`: allow TLS handshakes with an encrypted server name (ECH) beside a listed one. Browsers send such handshakes to every
    /// server. Where several sites share a server, the encrypted name can be that of a site that is not listed.
    #[serde(default)]
    allow_ech: bool,
}

impl EgressUpdate {
    /// Validates the egress. An empty list, and entries without mode `list`, are refused because they could
    /// be misunderstood.
    fn validate(self) -> Result<egress::Egress, ApiError> {
        let invalid = |problem: &dyn std::fmt::Display| ApiError::bad_request(format!("egress: {problem}"));
        let is_empty = self.domains.is_empty() && self.cidrs.is_empty();
        let without_list = |egress| {
            if is_empty && !self.allow_ech {
                return Ok(egress);
            }
            Err(invalid(&"Domains, cidrs and allow_ech require the mode `list`."))
        };
        match self.mode {
            Mode::Internet => without_list(egress::Egress::Internet),
            Mode::None => without_list(egress::Egress::None),
            Mode::List if is_empty => {
                Err(invalid(&"The mode `list` requires domains or cidrs. Use `none` to block everything."))
            }
            Mode::List => {
                let (domains, cidrs) = (self.domains.iter(), self.cidrs.iter());
                egress::Egress::list(domains.map(String::as_str), cidrs.map(String::as_str), self.allow_ech)
                    .map_err(|error| invalid(&error))
            }
        }
    }
}

/// Change of network settings; omitted fields stay as they are.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct UpdateWorkspaceNetworkRequest {
    egress: Option<EgressUpdate>,
    apps_from_inside: Option<AppsFromInside>,
}

/// Get a workspace's network settings
#[utoipa::path(
    get, path = "/workspaces/{id}/network", operation_id = "get_workspace_network", tag = "network", params(("id" = String, Path)),
    responses((status = 200, body = WorkspaceNetworkResponse), (status = 404, body = ApiErrorBody)),
)]
pub(crate) async fn get(
    State(context): State<ApiContext>,
    caller: Caller<ReadNetwork>,
    PathParams(id): PathParams<String>,
) -> Result<Json<WorkspaceNetworkResponse>, ApiError> {
    let permit = caller.workspace(&context, &id).await?;
    let (settings, live) = context.networks.read(&permit)?;
    Ok(Json(WorkspaceNetworkResponse::new(settings, live)))
}

/// Change a workspace's network settings, effective at once, also for open connections
#[utoipa::path(
    patch, path = "/workspaces/{id}/network", operation_id = "update_workspace_network", tag = "network", params(("id" = String, Path)),
    request_body = UpdateWorkspaceNetworkRequest,
    responses(
        (status = 200, body = WorkspaceNetworkResponse),
        (status = 400, body = ApiErrorBody),
        (status = 404, body = ApiErrorBody),
        (status = 413, body = ApiErrorBody),
    ),
)]
pub(crate) async fn update(
    State(context): State<ApiContext>,
    caller: Caller<WriteNetwork>,
    PathParams(id): PathParams<String>,
    JsonBody(body): JsonBody<UpdateWorkspaceNetworkRequest>,
) -> Result<Json<WorkspaceNetworkResponse>, ApiError> {
    let permit = caller.workspace(&context, &id).await?;
    let egress = body.egress.map(EgressUpdate::validate).transpose()?;
    let apps_from_inside_any = body.apps_from_inside.map(|inside| matches!(inside, AppsFromInside::Any));
    let (settings, live) =
        context.networks.change(&permit, NetworkChange { egress, apps_from_inside_any }).await?;
    Ok(Json(WorkspaceNetworkResponse::new(settings, live)))
}
