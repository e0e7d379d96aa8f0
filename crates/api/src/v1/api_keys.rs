//! `/api-keys`: API keys of the account.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode};
use rigbox_core::authz::{ListKeys, ManageKeys, Target};
use rigbox_core::time::Timestamp;
use rigbox_service::records::KeyRecord;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;

use crate::context::ApiContext;
use crate::error::{ApiError, ApiErrorBody};
use crate::extract::{Caller, JsonBody, PathParams, idempotency_key};
use crate::openapi::formats;
use crate::schema::{deserialize_time, role_and_workspaces, to_date};
use rigbox_service::identity::api_keys::NewApiKey;

/// Specification of a new key.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CreateApiKeyRequest {
    /// 1 to 64 printable characters.
    #[schema(pattern = r"^[^\u0000-\u001f\u007f-\u009f]{1,64}$")]
    name: String,
    /// Expiry, in the future; never if omitted.
    #[serde(
        default,
        serialize_with = "time::serde::rfc3339::option::serialize",
        deserialize_with = "deserialize_time"
    )]
    expires_at: Option<OffsetDateTime>,
    /// Ids of the workspaces that the key is limited to; the whole account if omitted.
    #[schema(nullable = false, min_items = 1, max_items = 100)]
    workspaces: Option<Vec<String>>,
    /// Role in these workspaces: `read` (default) or `operate`; requires `workspaces`.
    #[schema(nullable = false, value_type = Option<formats::KeyRole>)]
    role: Option<String>,
}

/// Rotation of a key.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RotateApiKeyRequest {
    /// Seconds for which the previous secret stays valid: 0 (default) to 604,800.
    #[schema(maximum = 604_800)]
    grace_s: Option<u32>,
}

/// API key without its secret.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ApiKey {
    id: String,
    name: String,
    /// First characters of the secret.
    preview: String,
    /// Role in `workspaces`, `read` or `operate`; absent for the whole account.
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
    /// End of the previous secret's validity after a rotation.
    #[serde(with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    old_secret_until: Option<OffsetDateTime>,
}

impl From<&KeyRecord> for ApiKey {
    fn from(key: &KeyRecord) -> Self {
        let (role, workspaces) = role_and_workspaces(&key.scope);
        Self {
            id: key.id.to_string(),
            name: key.name.clone(),
            preview: key.preview.clone(),
            role,
            workspaces,
            created_at: to_date(key.created_at),
            expires_at: key.expires_at.map(to_date),
            last_used_at: key.last_used_at.map(to_date),
            old_secret_until: key.old_secret_until.map(to_date),
        }
    }
}

/// API keys of the account.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ListApiKeysResponse {
    api_keys: Vec<ApiKey>,
}

/// API key with its secret, which is shown only once.
#[derive(Serialize, ToSchema)]
pub(crate) struct ShowApiKeyResponse {
    api_key: ApiKey,
    /// `rb_` and 43 letters and digits.
    key: String,
}

fn show(status: StatusCode, record: &KeyRecord, key: &rigbox_service::records::ApiKey) -> Response {
    let body = ShowApiKeyResponse { api_key: record.into(), key: key.reveal().to_owned() };
    // Never cached.
    (status, [(http::header::CACHE_CONTROL, "no-store")], Json(body)).into_response()
}

/// Revocation of a key.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct RevokeApiKeyResponse {
    message: String,
}

/// List the account's API keys, oldest first
#[utoipa::path(
    get, path = "/api-keys", operation_id = "list_api_keys", tag = "api-keys",
    responses((status = 200, body = ListApiKeysResponse), (status = 403, body = ApiErrorBody)),
)]
pub(crate) async fn list(
    State(context): State<ApiContext>,
    caller: Caller<ListKeys>,
) -> Result<Json<ListApiKeysResponse>, ApiError> {
    let keys = context.keys.list(&caller.authorize(Target::Account)?).await?;
    Ok(Json(ListApiKeysResponse { api_keys: keys.iter().map(Into::into).collect() }))
}

/// Create an API key; only this response contains its secret
#[utoipa::path(
    post, path = "/api-keys", operation_id = "create_api_key", tag = "api-keys", request_body = CreateApiKeyRequest,
    params(("Idempotency-Key" = Option<String>, Header, nullable = false, pattern = "^[!-~](?:[ -~]{0,253}[!-~])?$", description = "A repeated request with the same key and body creates no second key; it gets 409, because the secret is shown only once")),
    responses(
        (status = 201, body = ShowApiKeyResponse),
        (status = 400, body = ApiErrorBody),
        (status = 402, body = ApiErrorBody, description = "The account has the maximum number of keys"),
        (status = 403, body = ApiErrorBody),
        (status = 404, body = ApiErrorBody, description = "No such workspace"),
        (status = 409, body = ApiErrorBody, description = "The Idempotency-Key was already used"),
        (status = 413, body = ApiErrorBody),
    ),
)]
pub(crate) async fn create(
    State(context): State<ApiContext>,
    caller: Caller<ManageKeys>,
    headers: HeaderMap,
    JsonBody(body): JsonBody<CreateApiKeyRequest>,
) -> Result<Response, ApiError> {
    let idempotency_key = idempotency_key(&headers, "POST /api-keys", &body)?;
    let spec = NewApiKey {
        name: body.name,
        expires_at: body.expires_at.map(timestamp).transpose()?,
        workspaces: body.workspaces,
        role: body.role,
    };
    let (record, key) =
        context.keys.create(&caller.authorize(Target::Account)?, spec, idempotency_key.as_ref()).await?;
    Ok(show(StatusCode::CREATED, &record, &key))
}

/// Rotate an API key's secret; the previous one stays valid for `grace_s` seconds
#[utoipa::path(
    post, path = "/api-keys/{id}/rotate", operation_id = "rotate_api_key", tag = "api-keys", params(("id" = String, Path)),
    request_body(content = Option<RotateApiKeyRequest>, description = "Without a body, the previous secret is invalid at once"),
    responses(
        (status = 200, body = ShowApiKeyResponse),
        (status = 400, body = ApiErrorBody),
        (status = 403, body = ApiErrorBody),
        (status = 404, body = ApiErrorBody),
        (status = 413, body = ApiErrorBody),
    ),
)]
pub(crate) async fn rotate(
    State(context): State<ApiContext>,
    caller: Caller<ManageKeys>,
    PathParams(id): PathParams<String>,
    JsonBody(body): JsonBody<Option<RotateApiKeyRequest>>,
) -> Result<Response, ApiError> {
    let grace = Duration::from_secs(body.and_then(|body| body.grace_s).unwrap_or(0).into());
    let (record, key) = context.keys.rotate(&caller.authorize(Target::Account)?, &id, grace).await?;
    Ok(show(StatusCode::OK, &record, &key))
}

/// Revoke an API key, effective with the next request
#[utoipa::path(
    delete, path = "/api-keys/{id}", operation_id = "revoke_api_key", tag = "api-keys", params(("id" = String, Path)),
    responses(
        (status = 200, body = RevokeApiKeyResponse),
        (status = 403, body = ApiErrorBody),
        (status = 404, body = ApiErrorBody),
    ),
)]
pub(crate) async fn revoke(
    State(context): State<ApiContext>,
    caller: Caller<ManageKeys>,
    PathParams(id): PathParams<String>,
) -> Result<Json<RevokeApiKeyResponse>, ApiError> {
    let id = context.keys.revoke(&caller.authorize(Target::Account)?, &id).await?;
    Ok(Json(RevokeApiKeyResponse { message: format!("API key {id} revoked.") }))
}

fn timestamp(date: OffsetDateTime) -> Result<Timestamp, ApiError> {
    let ms = date.unix_timestamp_nanos() / 1_000_000;
    let ms = i64::try_from(ms).map_err(|_| {
        ApiError::bad_request("expires_at: The time is too far in the future. Use an earlier one.")
    })?;
    Ok(Timestamp::from_unix_ms(ms))
}
