//! `/workspaces`: creation, reading, and changes of state.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, StatusCode};
use rigbox_core::authz::{
    CreateWorkspace, DeleteWorkspace, ListWorkspaces, OperateWorkspace, ReadWorkspace, Target,
};
use rigbox_core::status::Status;
use rigbox_service::records::{Page, Workspace};

use crate::context::ApiContext;
use crate::error::{ApiError, ApiErrorBody};
use crate::extract::{Caller, JsonBody, PathParams, QueryParams, idempotency_key};
use crate::schema::{cursor, page_size, parse_cursor};

pub(crate) mod logs;
pub(crate) mod schema;

use schema::{
    CreateWorkspaceRequest, GetQuery, GetWorkspaceResponse, ListQuery, ListWorkspacesResponse,
    MessageResponse, Vm,
};

const DEFAULT_WAIT_S: u32 = 30;
const MAX_WAIT_S: u32 = 120;

/// List the caller's workspaces, oldest first
#[utoipa::path(
    get, path = "/workspaces", operation_id = "list_workspaces", tag = "workspaces", params(ListQuery),
    responses((status = 200, body = ListWorkspacesResponse), (status = 400, body = ApiErrorBody)),
)]
pub(crate) async fn list(
    State(context): State<ApiContext>,
    caller: Caller<ListWorkspaces>,
    QueryParams(query): QueryParams<ListQuery>,
) -> Result<Json<ListWorkspacesResponse>, ApiError> {
    let limit = page_size(query.limit)?;
    let status = query.status.as_deref().map(parse_status).transpose()?;
    let after = query.cursor.as_deref().map(parse_cursor).transpose()?;
    // One more than requested, which shows whether there is a next page.
    let page = Page { name: query.name, status, after, limit: limit + 1 };
    let mut found = context.workspaces.list(&caller.authorize(Target::Account)?, &page).await?;
    let limit = limit as usize;
    let more = found.len() > limit;
    found.truncate(limit);
    let next_cursor = found.last().filter(|_| more).map(|last| cursor(last.created_at, last.id.as_str()));
    let vm =
        |workspace| Vm::from(workspace).with_queue_position(context.workspaces.queue_position(workspace));
    Ok(Json(ListWorkspacesResponse { vms: found.iter().map(vm).collect(), next_cursor }))
}

/// Create a workspace, without starting it
#[utoipa::path(
    post, path = "/workspaces", operation_id = "create_workspace", tag = "workspaces",
    request_body(content = CreateWorkspaceRequest, example = json!({"name": "web", "template_id": "base", "ram_mb": 1024})),
    params(("Idempotency-Key" = Option<String>, Header, nullable = false, pattern = "^[!-~](?:[ -~]{0,253}[!-~])?$", description = "A repeated request with the same key and body gets the same response")),
    responses(
        (status = 201, body = GetWorkspaceResponse),
        (status = 400, body = ApiErrorBody),
        (status = 402, body = ApiErrorBody, description = "A limit of the plan or the machine; the message names it"),
        (status = 409, body = ApiErrorBody, description = "The name is taken, or the Idempotency-Key was used for another request"),
        (status = 413, body = ApiErrorBody),
    ),
)]
pub(crate) async fn create(
    State(context): State<ApiContext>,
    caller: Caller<CreateWorkspace>,
    headers: HeaderMap,
    JsonBody(body): JsonBody<CreateWorkspaceRequest>,
) -> Result<Response, ApiError> {
    let idempotency_key = idempotency_key(&headers, "POST /workspaces", &body)?;
    let spec = body.into_spec()?;
    let permit = caller.authorize(Target::Account)?;
    let render = |created: &Workspace| {
        serde_json::to_string(&GetWorkspaceResponse::from(created)).unwrap_or_else(|_| "{}".to_owned())
    };
    let response = context.workspaces.create(&permit, &spec, idempotency_key.as_ref(), render).await?;
    Ok((StatusCode::CREATED, [(CONTENT_TYPE, "application/json")], response).into_response())
}

/// Get a workspace; with `wait_until_not` the response waits for a change of status
#[utoipa::path(
    get, path = "/workspaces/{id}", operation_id = "get_workspace", tag = "workspaces", params(("id" = String, Path), GetQuery),
    responses(
        (status = 200, body = GetWorkspaceResponse),
        (status = 400, body = ApiErrorBody),
        (status = 404, body = ApiErrorBody),
    ),
)]
pub(crate) async fn get(
    State(context): State<ApiContext>,
    caller: Caller<ReadWorkspace>,
    PathParams(id): PathParams<String>,
    QueryParams(query): QueryParams<GetQuery>,
) -> Result<Json<GetWorkspaceResponse>, ApiError> {
    let permit = caller.workspace(&context, &id).await?;
    let seconds = query.timeout_s.unwrap_or(DEFAULT_WAIT_S);
    if seconds > MAX_WAIT_S {
        let message =
            format!("timeout_s: {seconds} exceeds the maximum of {MAX_WAIT_S}. Repeat the request instead.");
        return Err(ApiError::bad_request(message));
    }
    let limit = Duration::from_secs(seconds.into());
    let workspaces = &context.workspaces;
    let workspace = match (query.wait_until_not.as_deref(), query.wait_until_system_not.as_deref()) {
        (None, None) => workspaces.get(&permit).await?,
        (Some(status), None) => workspaces.wait_until_not(&permit, parse_status(status)?, limit).await?,
        (None, Some(state)) => {
            let state = state.parse().map_err(|_| {
                let message =
                    "wait_until_system_not: The state is unknown. Use starting, running or degraded.";
                ApiError::bad_request(message)
            })?;
            workspaces.wait_until_system_not(&permit, state, limit).await?
        }
        (Some(_), Some(_)) => {
            let message = "wait_until_system_not: Use it or wait_until_not, not both.";
            return Err(ApiError::bad_request(message));
        }
    };
    let mut response = GetWorkspaceResponse::from(&workspace);
    response.vm = response.vm.with_queue_position(workspaces.queue_position(&workspace));
    Ok(Json(response))
}

/// Delete a workspace and all its data; it is gone when reading it returns 404
#[utoipa::path(
    delete, path = "/workspaces/{id}", operation_id = "delete_workspace", tag = "workspaces", params(("id" = String, Path)),
    responses(
        (status = 200, body = MessageResponse),
        (status = 404, body = ApiErrorBody),
        (status = 409, body = ApiErrorBody),
    ),
)]
pub(crate) async fn delete(
    State(context): State<ApiContext>,
    caller: Caller<DeleteWorkspace>,
    PathParams(id): PathParams<String>,
) -> Result<Json<MessageResponse>, ApiError> {
    let permit = caller.workspace(&context, &id).await?;
    let workspace = context.workspaces.delete(&permit).await?;
    let message = format!("Workspace {} is being deleted.", workspace.id);
    Ok(Json(MessageResponse { message, status: workspace.lifecycle.status.into() }))
}

macro_rules! operations {
    ($($(#[$doc:meta])* $name:ident, $id:literal, $path:literal;)*) => {$(
        $(#[$doc])*
        #[utoipa::path(
            post, path = $path, operation_id = $id, tag = "workspaces", params(("id" = String, Path)),
            responses(
                (status = 200, body = GetWorkspaceResponse),
                (status = 404, body = ApiErrorBody),
                (status = 409, body = ApiErrorBody, description = "Not allowed in this status; the message says what is"),
            ),
        )]
        pub(crate) async fn $name(
            State(context): State<ApiContext>,
            caller: Caller<OperateWorkspace>,
            PathParams(id): PathParams<String>,
        ) -> Result<Json<GetWorkspaceResponse>, ApiError> {
            let permit = caller.workspace(&context, &id).await?;
            Ok(Json((&context.workspaces.$name(&permit).await?).into()))
        }
    )*};
}

operations! {
    /// Start a workspace
    start, "start_workspace", "/workspaces/{id}/start";
    /// Stop a workspace; its disk is kept
    stop, "stop_workspace", "/workspaces/{id}/stop";
    /// Cancel a start (ends in stopped) or a creation (ends in deleting)
    cancel, "cancel_workspace", "/workspaces/{id}/cancel";
    /// Start a failed workspace again
    retry, "retry_workspace", "/workspaces/{id}/retry";
}

fn parse_status(text: &str) -> Result<Status, ApiError> {
    text.parse().map_err(|error: rigbox_core::status::InvalidStatus| ApiError::bad_request(error.to_string()))
}
