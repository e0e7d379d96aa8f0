//! `/apps`: ports of workspaces, published under a name.

use axum::Json;
use axum::extract::State;
use http::{HeaderMap, StatusCode};
use rigbox_core::authz::{ListApps, ManageApp, ReadApp, Target};
use rigbox_core::ids::WorkspaceId;
use rigbox_service::records::{AppPage, AppWithWorkspace};

use crate::context::ApiContext;
use crate::error::{ApiError, ApiErrorBody};
use crate::extract::{Caller, JsonBody, PathParams, QueryParams, idempotency_key};
use crate::schema::{cursor, page_size, parse_cursor};
use rigbox_service::apps::AppChange;

pub(crate) mod schema;
pub(crate) mod services;

use schema::{
    App, AppMessageResponse, AppParamsResponse, CreateAppRequest, GetAppResponse, ListAppsQuery,
    ListAppsResponse, SetVisibilityRequest, SetVisibilityResponse, UpdateAppParamsRequest, UpdateAppRequest,
    VerifyDomainResponse,
};

impl ApiContext {
    /// Renders an app.
    pub(crate) fn render_app(&self, found: AppWithWorkspace) -> App {
        let url = self.apps.url(&found.app);
        App::new(found, url)
    }
}

/// List the apps of the caller's workspaces, oldest first
#[utoipa::path(
    get, path = "/apps", operation_id = "list_apps", tag = "apps", params(ListAppsQuery),
    responses((status = 200, body = ListAppsResponse), (status = 400, body = ApiErrorBody)),
)]
pub(crate) async fn list(
    State(context): State<ApiContext>,
    caller: Caller<ListApps>,
    QueryParams(query): QueryParams<ListAppsQuery>,
) -> Result<Json<ListAppsResponse>, ApiError> {
    let limit = page_size(query.limit)?;
    let after = query.cursor.as_deref().map(parse_cursor).transpose()?;
    let workspace = match query.workspace_id.as_deref().map(str::parse::<WorkspaceId>) {
        // An invalid id has no apps.
        Some(Err(_)) => return Ok(Json(ListAppsResponse { apps: Vec::new(), next_cursor: None })),
        Some(Ok(id)) => Some(id),
        None => None,
    };
    // One more than requested, which shows whether there is a next page.
    let page = AppPage { workspace, name: query.name, after, limit: limit + 1 };
    let mut found = context.apps.list(&caller.authorize(Target::Account)?, &page)?;
    let limit = limit as usize;
    let more = found.len() > limit;
    found.truncate(limit);
    let last = found.last().filter(|_| more);
    let next_cursor = last.map(|last| cursor(last.app.created_at, last.app.id.as_str()));
    Ok(Json(ListAppsResponse {
        apps: found.into_iter().map(|app| context.render_app(app)).collect(),
        next_cursor,
    }))
}

/// Publish a port of a workspace as an app, private at first
#[utoipa::path(
    post, path = "/apps", operation_id = "create_app", tag = "apps",
    request_body(content = CreateAppRequest, example = json!({"name": "my-site", "workspace_id": "ws-abcdefgh", "port": 8080})),
    params(("Idempotency-Key" = Option<String>, Header, nullable = false, pattern = "^[!-~](?:[ -~]{0,253}[!-~])?$", description = "A repeated request with the same key and body gets the same app")),
    responses(
        (status = 201, body = GetAppResponse),
        (status = 400, body = ApiErrorBody),
        (status = 402, body = ApiErrorBody, description = "The workspace has the maximum number of apps"),
        (status = 404, body = ApiErrorBody),
        (status = 409, body = ApiErrorBody, description = "The name is taken, or the Idempotency-Key was used for another request"),
        (status = 413, body = ApiErrorBody),
    ),
)]
pub(crate) async fn create(
    State(context): State<ApiContext>,
    caller: Caller<ManageApp>,
    headers: HeaderMap,
    JsonBody(body): JsonBody<CreateAppRequest>,
) -> Result<(StatusCode, Json<GetAppResponse>), ApiError> {
    let idempotency_key = idempotency_key(&headers, "POST /apps", &body)?;
    let permit = caller.workspace(&context, &body.workspace_id).await?;
    let created = context.apps.create(&permit, body.into_spec(), idempotency_key.as_ref()).await?;
    Ok((StatusCode::CREATED, Json(GetAppResponse { app: context.render_app(created) })))
}

/// Get an app
#[utoipa::path(
    get, path = "/apps/{id}", operation_id = "get_app", tag = "apps", params(("id" = String, Path)),
    responses((status = 200, body = GetAppResponse), (status = 404, body = ApiErrorBody)),
)]
pub(crate) async fn get(
    State(context): State<ApiContext>,
    caller: Caller<ReadApp>,
    PathParams(id): PathParams<String>,
) -> Result<Json<GetAppResponse>, ApiError> {
    let (_, found) = caller.app(&context, &id)?;
    Ok(Json(GetAppResponse { app: context.render_app(found) }))
}

/// Change an app, effective with the next request to it
#[utoipa::path(
    patch, path = "/apps/{id}", operation_id = "update_app", tag = "apps", params(("id" = String, Path)), request_body = UpdateAppRequest,
    responses(
        (status = 200, body = GetAppResponse),
        (status = 400, body = ApiErrorBody),
        (status = 403, body = ApiErrorBody, description = "An app cannot be shared more widely from inside its workspace"),
        (status = 404, body = ApiErrorBody),
        (status = 409, body = ApiErrorBody, description = "The name or domain is taken"),
        (status = 413, body = ApiErrorBody),
    ),
)]
pub(crate) async fn update(
    State(context): State<ApiContext>,
    caller: Caller<ManageApp>,
    PathParams(id): PathParams<String>,
    JsonBody(body): JsonBody<UpdateAppRequest>,
) -> Result<Json<GetAppResponse>, ApiError> {
    let (permit, found) = caller.app(&context, &id)?;
    let change: AppChange = body.into();
    // The log says who changed who sees an app, by whichever route.
    let widens = change.visibility.is_some() || change.shared_with.is_some();
    let action = if widens { "app.visibility" } else { "app.update" };
    let changed = context.apps.change(&permit, &found.app.id, &change, action).await?;
    Ok(Json(GetAppResponse { app: context.render_app(changed) }))
}

/// Set who may open an app, effective with the next request; connections no longer allowed are closed
#[utoipa::path(
    put, path = "/apps/{id}/visibility", operation_id = "set_app_visibility", tag = "apps", params(("id" = String, Path)),
    request_body = SetVisibilityRequest,
    responses(
        (status = 200, body = SetVisibilityResponse),
        (status = 400, body = ApiErrorBody),
        (status = 403, body = ApiErrorBody, description = "An app cannot be shared more widely from inside its workspace"),
        (status = 404, body = ApiErrorBody),
        (status = 409, body = ApiErrorBody),
        (status = 413, body = ApiErrorBody),
    ),
)]
pub(crate) async fn set_visibility(
    State(context): State<ApiContext>,
    caller: Caller<ManageApp>,
    PathParams(id): PathParams<String>,
    JsonBody(body): JsonBody<SetVisibilityRequest>,
) -> Result<Json<SetVisibilityResponse>, ApiError> {
    let (permit, found) = caller.app(&context, &id)?;
    let change = AppChange {
        visibility: Some(body.visibility.into()),
        shared_with: body.allowed_emails,
        ..AppChange::default()
    };
    let changed = context.apps.change(&permit, &found.app.id, &change, "app.visibility").await?;
    let without_account = context.apps.shared_without_account(&permit, &changed.app).await?;
    Ok(Json(SetVisibilityResponse { app: context.render_app(changed), without_account }))
}

/// Delete an app and its service, but not its workspace
///
/// The service is stopped and removed in a running workspace. In one that is stopped it is left, and the message says so.
#[utoipa::path(
    delete, path = "/apps/{id}", operation_id = "delete_app", tag = "apps", params(("id" = String, Path)),
    responses(
        (status = 200, body = AppMessageResponse),
        (status = 404, body = ApiErrorBody),
        (status = 409, body = ApiErrorBody),
    ),
)]
pub(crate) async fn delete(
    State(context): State<ApiContext>,
    caller: Caller<ManageApp>,
    PathParams(id): PathParams<String>,
) -> Result<Json<AppMessageResponse>, ApiError> {
    let (permit, found) = caller.app(&context, &id)?;
    let name = &found.app.name;
    let message = match context.app_services.delete(&permit, &found.app).await? {
        None => format!("App {name} deleted."),
        Some(unit) => format!(
            "App {name} deleted. Its service is still in the workspace: remove it there with `sudo systemctl disable --now {unit}`."
        ),
    };
    Ok(Json(AppMessageResponse { message }))
}

/// Verify an app's custom domain by its DNS record; from then on it serves the app
#[utoipa::path(
    post, path = "/apps/{id}/verify-domain", operation_id = "verify_app_domain", tag = "apps", params(("id" = String, Path)),
    responses(
        (status = 200, body = VerifyDomainResponse),
        (status = 400, body = ApiErrorBody, description = "The app has no custom domain"),
        (status = 404, body = ApiErrorBody),
        (status = 409, body = ApiErrorBody, description = "Another app has the domain"),
        (status = 422, body = ApiErrorBody, description = "The record is missing; the message says which"),
    ),
)]
pub(crate) async fn verify_domain(
    State(context): State<ApiContext>,
    caller: Caller<ManageApp>,
    PathParams(id): PathParams<String>,
) -> Result<Json<VerifyDomainResponse>, ApiError> {
    let (permit, found) = caller.app(&context, &id)?;
    let verified = context.apps.verify_domain(&permit, &found.app).await?;
    let domain = verified.app.custom_domain.as_ref().map(ToString::to_string).unwrap_or_default();
    let message = format!("{domain} now serves {}.", verified.app.name);
    Ok(Json(VerifyDomainResponse { message, app: context.render_app(verified) }))
}

/// Get an app's parameters
#[utoipa::path(
    get, path = "/apps/{id}/params", operation_id = "get_app_params", tag = "apps", params(("id" = String, Path)),
    responses((status = 200, body = AppParamsResponse), (status = 404, body = ApiErrorBody)),
)]
pub(crate) async fn params(
    State(context): State<ApiContext>,
    caller: Caller<ReadApp>,
    PathParams(id): PathParams<String>,
) -> Result<Json<AppParamsResponse>, ApiError> {
    let (_, found) = caller.app(&context, &id)?;
    Ok(Json(AppParamsResponse { params: found.app.params }))
}

/// Change an app's parameters, effective with the next start of its service
#[utoipa::path(
    patch, path = "/apps/{id}/params", operation_id = "update_app_params", tag = "apps", params(("id" = String, Path)),
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
    State(context): State<ApiContext>,
    caller: Caller<ManageApp>,
    PathParams(id): PathParams<String>,
    JsonBody(body): JsonBody<UpdateAppParamsRequest>,
) -> Result<Json<AppParamsResponse>, ApiError> {
    let (permit, found) = caller.app(&context, &id)?;
    let change = AppChange { params: body.params, ..AppChange::default() };
    let changed = context.apps.change(&permit, &found.app.id, &change, "app.params").await?;
    Ok(Json(AppParamsResponse { params: changed.app.params }))
}
