//! `/api-keys`: the account's keys.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode};
use rigbox_core::authz::{ListKeys, ManageKeys, Scope, Target};
use rigbox_core::time::Timestamp;
use rigbox_service::records::KeyRecord;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;

use crate::context::ApiContext;
use crate::error::{ApiError, ApiErrorBody};
use crate::extract::{Caller, JsonBody, PathId, idempotency_key};
use crate::schema::date;
use rigbox_service::identity::api_keys::NewApiKey;

/// What a new key is to be.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CreateApiKeyRequest {
    /// 1 to 64 characters.
    name: String,
    /// When it ends; never when left out.
    #[serde(default, with = "time::serde::rfc3339::option")]
    expires_at: Option<OffsetDateTime>,
    /// Ids of the workspaces that it is limited to; the whole account when left out.
    workspaces: Option<Vec<String>>,
    /// What it may do in them: `read` (when left out) or `operate`.
    role: Option<String>,
}

/// How a key is replaced.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RotateApiKeyRequest {
    /// For how long the old secret is good, s: 0 (when left out) to 604,800.
    grace_s: Option<u32>,
}

/// A key without its secret.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ApiKey {
    id: String,
    name: String,
    /// The secret's first characters.
    preview: String,
    /// `read` or `operate` for a key that is limited to `workspaces`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    workspaces: Option<Vec<String>>,
    #[serde(with = "time::serde::rfc3339")]
    created_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    expires_at: Option<OffsetDateTime>,
    /// To the minute.
    #[serde(with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    last_used_at: Option<OffsetDateTime>,
    /// Until when the secret before the last rotation is good.
    #[serde(with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    old_secret_until: Option<OffsetDateTime>,
}

impl From<&KeyRecord> for ApiKey {
    fn from(key: &KeyRecord) -> Self {
        let (role, workspaces) = match &key.scope {
            // The latter is no API key's scope.
            Scope::Account | Scope::OwnWorkspace(_) => (None, None),
            Scope::Workspaces { ids, role } => {
                (Some(role.as_str()), Some(ids.iter().map(ToString::to_string).collect()))
            }
        };
        Self {
            id: key.id.to_string(),
            name: key.name.clone(),
            preview: key.preview.clone(),
            role,
            workspaces,
            created_at: date(key.created_at),
            expires_at: key.expires_at.map(date),
            last_used_at: key.last_used_at.map(date),
            old_secret_until: key.old_secret_until.map(date),
        }
    }
}

/// The account's keys.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ListApiKeysResponse {
    api_keys: Vec<ApiKey>,
}

/// A key with its secret, which is shown this once.
#[derive(Serialize, ToSchema)]
pub(crate) struct ShowApiKeyResponse {
    api_key: ApiKey,
    /// `rb_` and 43 letters and digits.
    key: String,
}

fn show(status: StatusCode, record: &KeyRecord, key: &rigbox_service::records::ApiKey) -> Response {
    let body = ShowApiKeyResponse { api_key: record.into(), key: key.reveal().to_owned() };
    // Kept by nobody on the way.
    (status, [(http::header::CACHE_CONTROL, "no-store")], Json(body)).into_response()
}

/// What a key that was ended is answered with.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct RevokeApiKeyResponse {
    message: String,
}

/// The account's keys, oldest first
#[utoipa::path(
    get, path = "/api-keys", tag = "api-keys",
    responses((status = 200, body = ListApiKeysResponse), (status = 403, body = ApiErrorBody)),
)]
pub(crate) async fn list(
    State(app): State<ApiContext>,
    caller: Caller<ListKeys>,
) -> Result<Json<ListApiKeysResponse>, ApiError> {
    let keys = app.keys.list(&caller.authorize(Target::Account)?).await?;
    Ok(Json(ListApiKeysResponse { api_keys: keys.iter().map(Into::into).collect() }))
}

/// Make a key; its secret is in this answer and in no other
#[utoipa::path(
    post, path = "/api-keys", tag = "api-keys", request_body = CreateApiKeyRequest,
    params(("Idempotency-Key" = Option<String>, Header, description = "A repeated request with the same key and body makes no other key; it is answered 409, because the secret is shown once")),
    responses(
        (status = 201, body = ShowApiKeyResponse),
        (status = 400, body = ApiErrorBody),
        (status = 402, body = ApiErrorBody, description = "The account has as many keys as it may have"),
        (status = 403, body = ApiErrorBody),
        (status = 404, body = ApiErrorBody, description = "There is no such workspace"),
        (status = 409, body = ApiErrorBody, description = "The Idempotency-Key was used before"),
        (status = 413, body = ApiErrorBody),
    ),
)]
pub(crate) async fn create(
    State(app): State<ApiContext>,
    caller: Caller<ManageKeys>,
    headers: HeaderMap,
    JsonBody(body): JsonBody<CreateApiKeyRequest>,
) -> Result<Response, ApiError> {
    let idempotency_key = idempotency_key(&headers, "POST /api-keys", &body)?;
    let wanted = NewApiKey {
        name: body.name,
        expires_at: body.expires_at.map(moment).transpose()?,
        workspaces: body.workspaces,
        role: body.role,
    };
    let (record, key) =
        app.keys.create(&caller.authorize(Target::Account)?, wanted, idempotency_key.as_ref()).await?;
    Ok(show(StatusCode::CREATED, &record, &key))
}

/// Give a key another secret; the old one is good for `grace_s` more
#[utoipa::path(
    post, path = "/api-keys/{id}/rotate", tag = "api-keys", params(("id" = String, Path)),
    request_body = RotateApiKeyRequest,
    responses(
        (status = 200, body = ShowApiKeyResponse),
        (status = 400, body = ApiErrorBody),
        (status = 403, body = ApiErrorBody),
        (status = 404, body = ApiErrorBody),
        (status = 413, body = ApiErrorBody),
    ),
)]
pub(crate) async fn rotate(
    State(app): State<ApiContext>,
    caller: Caller<ManageKeys>,
    PathId(id): PathId,
    JsonBody(body): JsonBody<RotateApiKeyRequest>,
) -> Result<Response, ApiError> {
    let grace = Duration::from_secs(body.grace_s.unwrap_or(0).into());
    let (record, key) = app.keys.rotate(&caller.authorize(Target::Account)?, &id, grace).await?;
    Ok(show(StatusCode::OK, &record, &key))
}

/// End a key; it opens nothing from the next request on
#[utoipa::path(
    delete, path = "/api-keys/{id}", tag = "api-keys", params(("id" = String, Path)),
    responses(
        (status = 200, body = RevokeApiKeyResponse),
        (status = 403, body = ApiErrorBody),
        (status = 404, body = ApiErrorBody),
    ),
)]
pub(crate) async fn revoke(
    State(app): State<ApiContext>,
    caller: Caller<ManageKeys>,
    PathId(id): PathId,
) -> Result<Json<RevokeApiKeyResponse>, ApiError> {
    let id = app.keys.revoke(&caller.authorize(Target::Account)?, &id).await?;
    Ok(Json(RevokeApiKeyResponse { message: format!("API key {id} is revoked") }))
}

fn moment(date: OffsetDateTime) -> Result<Timestamp, ApiError> {
    let ms = date.unix_timestamp_nanos() / 1_000_000;
    let ms = i64::try_from(ms).map_err(|_| ApiError::bad_request("expires_at: too far away"))?;
    Ok(Timestamp::from_unix_ms(ms))
}
