//! `/apps`: ports of workspaces with a name in the world.

use axum::Json;
use axum::extract::{Path, State};
use http::{HeaderMap, StatusCode};
use rigbox_core::authz::{ListApps, ManageApp, ReadApp, Target};
use rigbox_core::ids::WorkspaceId;
use rigbox_service::records::{AppPage, AppWithWorkspace};

use crate::context::ApiContext as Server;
use crate::error::{ApiError, ApiErrorBody};
use crate::extract::{Caller, JsonBody, QueryParams, idempotency_key};
use crate::schema::{cursor, page_size, read_cursor};
use rigbox_service::apps::Change;

pub(crate) mod schema;
pub(crate) mod services;

use schema::{
    App, AppMessageResponse, AppParamsResponse, CreateAppRequest, GetAppResponse, ListAppsQuery,
    ListAppsResponse, SetVisibilityRequest, UpdateAppParamsRequest, UpdateAppRequest, VerifyDomainResponse,
};

impl Server {
    /// An app as clients see it.
    pub(crate) fn shown(&self, found: AppWithWorkspace) -> App {
        let url = self.apps.url(&found.app);
        App::new(found, url)
    }
}

/// The apps of the caller's workspaces, oldest first
#[utoipa::path(
    get, path = "/apps", tag = "apps", params(ListAppsQuery),
    responses((status = 200, body = ListAppsResponse), (status = 400, body = ApiErrorBody)),
)]
pub(crate) async fn list(
    State(server): State<Server>,
    caller: Caller<ListApps>,
    QueryParams(query): QueryParams<ListAppsQuery>,
) -> Result<Json<ListAppsResponse>, ApiError> {
    let limit = page_size(query.limit)?;
    let after = query.cursor.as_deref().map(read_cursor).transpose()?;
    let workspace = match query.workspace_id.as_deref().map(str::parse::<WorkspaceId>) {
        // It has no apps.
        Some(Err(_)) => return Ok(Json(ListAppsResponse { apps: Vec::new(), next_cursor: None })),
        Some(Ok(id)) => Some(id),
        None => None,
    };
    // One more than requested tells whether there is a next page.
    let page = AppPage { workspace, name: query.name, after, limit: limit + 1 };
    let mut found = server.apps.list(&caller.authorize(Target::Account)?, &page)?;
    let wanted = limit as usize;
    let more = found.len() > wanted;
    found.truncate(wanted);
    let last = found.last().filter(|_| more);
    let next_cursor = last.map(|last| cursor(last.app.created_at, last.app.id.as_str()));
    Ok(Json(ListAppsResponse { apps: found.into_iter().map(|app| server.shown(app)).collect(), next_cursor }))
}

/// Give a port of a workspace a name in the world; only its owner sees it at first
#[utoipa::path(
    post, path = "/apps", tag = "apps", request_body = CreateAppRequest,
    params(("Idempotency-Key" = Option<String>, Header, description = "A repeated request with the same key and body gets the same app")),
    responses(
        (status = 201, body = GetAppResponse),
        (status = 400, body = ApiErrorBody),
        (status = 402, body = ApiErrorBody, description = "The workspace has as many apps as the plan allows"),
        (status = 404, body = ApiErrorBody),
        (status = 409, body = ApiErrorBody, description = "The name is taken, or the Idempotency-Key was used for another request"),
        (status = 413, body = ApiErrorBody),
    ),
)]
pub(crate) async fn create(
    State(server): State<Server>,
    caller: Caller<ManageApp>,
    headers: HeaderMap,
    JsonBody(body): JsonBody<CreateAppRequest>,
) -> Result<(StatusCode, Json<GetAppResponse>), ApiError> {
    let idempotency_key = idempotency_key(&headers, "POST /apps", &body)?;
    let permit = caller.workspace(&server, &body.workspace_id).await?;
    let made = server.apps.create(&permit, body.wanted(), idempotency_key.as_ref()).await?;
    Ok((StatusCode::CREATED, Json(GetAppResponse { app: server.shown(made) })))
}

/// One app
#[utoipa::path(
    get, path = "/apps/{id}", tag = "apps", params(("id" = String, Path)),
    responses((status = 200, body = GetAppResponse), (status = 404, body = ApiErrorBody)),
)]
pub(crate) async fn get(
    State(server): State<Server>,
    caller: Caller<ReadApp>,
    Path(id): Path<String>,
) -> Result<Json<GetAppResponse>, ApiError> {
    let (_, found) = caller.app(&server, &id)?;
    Ok(Json(GetAppResponse { app: server.shown(found) }))
}

/// Change an app; the change counts from the next request to it
#[utoipa::path(
    patch, path = "/apps/{id}", tag = "apps", params(("id" = String, Path)), request_body = UpdateAppRequest,
    responses(
        (status = 200, body = GetAppResponse),
        (status = 400, body = ApiErrorBody),
        (status = 403, body = ApiErrorBody, description = "A workspace shows its apps to fewer people by itself, not to more"),
        (status = 404, body = ApiErrorBody),
        (status = 409, body = ApiErrorBody, description = "The name or domain is taken"),
        (status = 413, body = ApiErrorBody),
    ),
)]
pub(crate) async fn update(
    State(server): State<Server>,
    caller: Caller<ManageApp>,
    Path(id): Path<String>,
    JsonBody(body): JsonBody<UpdateAppRequest>,
) -> Result<Json<GetAppResponse>, ApiError> {
    let (permit, found) = caller.app(&server, &id)?;
    let changed = server.apps.change(&permit, &found.app.id, &body.into(), "app.update").await?;
    Ok(Json(GetAppResponse { app: server.shown(changed) }))
}

/// Say who may see an app; it counts from the next request, and ends what is open and not allowed any more
#[utoipa::path(
    put, path = "/apps/{id}/visibility", tag = "apps", params(("id" = String, Path)),
    request_body = SetVisibilityRequest,
    responses(
        (status = 200, body = GetAppResponse),
        (status = 400, body = ApiErrorBody),
        (status = 403, body = ApiErrorBody, description = "A workspace shows its apps to fewer people by itself, not to more"),
        (status = 404, body = ApiErrorBody),
        (status = 409, body = ApiErrorBody),
        (status = 413, body = ApiErrorBody),
    ),
)]
pub(crate) async fn set_visibility(
    State(server): State<Server>,
    caller: Caller<ManageApp>,
    Path(id): Path<String>,
    JsonBody(body): JsonBody<SetVisibilityRequest>,
) -> Result<Json<GetAppResponse>, ApiError> {
    let (permit, found) = caller.app(&server, &id)?;
    let change = Change {
        visibility: Some(body.visibility.into()),
        shared_with: body.allowed_emails,
        ..Change::default()
    };
    let changed = server.apps.change(&permit, &found.app.id, &change, "app.visibility").await?;
    Ok(Json(GetAppResponse { app: server.shown(changed) }))
}

/// Delete an app; its workspace stays
#[utoipa::path(
    delete, path = "/apps/{id}", tag = "apps", params(("id" = String, Path)),
    responses(
        (status = 200, body = AppMessageResponse),
        (status = 404, body = ApiErrorBody),
        (status = 409, body = ApiErrorBody),
    ),
)]
pub(crate) async fn delete(
    State(server): State<Server>,
    caller: Caller<ManageApp>,
    Path(id): Path<String>,
) -> Result<Json<AppMessageResponse>, ApiError> {
    let (permit, found) = caller.app(&server, &id)?;
    server.apps.delete(&permit, &found.app).await?;
    Ok(Json(AppMessageResponse { message: format!("app {} is deleted", found.app.name) }))
}

/// Look whether an app's own domain has the DNS record that shows it is the owner's; then it leads to the app
#[utoipa::path(
    post, path = "/apps/{id}/verify-domain", tag = "apps", params(("id" = String, Path)),
    responses(
        (status = 200, body = VerifyDomainResponse),
        (status = 400, body = ApiErrorBody, description = "The app has no domain of its own"),
        (status = 404, body = ApiErrorBody),
        (status = 409, body = ApiErrorBody, description = "The domain is another app's"),
        (status = 422, body = ApiErrorBody, description = "The record is not there; the message says which"),
    ),
)]
pub(crate) async fn verify_domain(
    State(server): State<Server>,
    caller: Caller<ManageApp>,
    Path(id): Path<String>,
) -> Result<Json<VerifyDomainResponse>, ApiError> {
    let (permit, found) = caller.app(&server, &id)?;
    let verified = server.apps.verify_domain(&permit, &found.app).await?;
    let domain = verified.app.custom_domain.as_ref().map(ToString::to_string).unwrap_or_default();
    let message = format!("{domain} leads to {}", verified.app.name);
    Ok(Json(VerifyDomainResponse { message, app: server.shown(verified) }))
}

/// An app's parameters
#[utoipa::path(
    get, path = "/apps/{id}/params", tag = "apps", params(("id" = String, Path)),
    responses((status = 200, body = AppParamsResponse), (status = 404, body = ApiErrorBody)),
)]
pub(crate) async fn params(
    State(server): State<Server>,
    caller: Caller<ReadApp>,
    Path(id): Path<String>,
) -> Result<Json<AppParamsResponse>, ApiError> {
    let (_, found) = caller.app(&server, &id)?;
    Ok(Json(AppParamsResponse { params: found.app.params }))
}

/// Change an app's parameters; its service has them when it starts next
#[utoipa::path(
    patch, path = "/apps/{id}/params", tag = "apps", params(("id" = String, Path)),
    request_body = UpdateAppParamsRequest,
    responses(
        (status = 200, body = AppParamsResponse),
        (status = 400, body = ApiErrorBody),
        (status = 404, body = ApiErrorBody),
        (status = 409, body = ApiErrorBody),
        (status = 413, body = ApiErrorBody),
    ),
)]
pub(crate) async fn set_params(
    State(server): State<Server>,
    caller: Caller<ManageApp>,
    Path(id): Path<String>,
    JsonBody(body): JsonBody<UpdateAppParamsRequest>,
) -> Result<Json<AppParamsResponse>, ApiError> {
    let (permit, found) = caller.app(&server, &id)?;
    let change = Change { params: body.params, ..Change::default() };
    let changed = server.apps.change(&permit, &found.app.id, &change, "app.params").await?;
    Ok(Json(AppParamsResponse { params: changed.app.params }))
}
