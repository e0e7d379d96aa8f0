//! `/ssh-keys`: SSH keys of the account, and which of them log in to a workspace.

use axum::Json;
use axum::extract::State;
use http::{HeaderMap, StatusCode};
use rigbox_core::authz::{ListSshKeys, ManageSshKeys, ReadAuthorizedKeys, SyncAuthorizedKeys, Target};
use rigbox_core::ids::UserId;
use rigbox_service::records;
use rigbox_service::ssh_keys::AuthorizedKey;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;

use crate::context::ApiContext;
use crate::error::{ApiError, ApiErrorBody};
use crate::extract::{Caller, JsonBody, PathParams, idempotency_key};
use crate::openapi::formats;
use crate::schema::to_date;

/// Registration of a key.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct AddSshKeyRequest {
    /// 1 to 64 printable characters.
    #[schema(pattern = r"^[^\u0000-\u001f\u007f-\u009f]{1,64}$")]
    name: String,
    #[schema(value_type = formats::PublicKeyLine)]
    public_key: String,
}

/// SSH key.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SshKey {
    id: String,
    user_id: String,
    name: String,
    /// Line as in `authorized_keys`, without options.
    public_key: String,
    /// `SHA256:` and base64, as `ssh-keygen -l` shows it.
    fingerprint: String,
    /// True if signatures count that were made without a touch of the hardware token.
    no_touch_required: bool,
    #[serde(with = "time::serde::rfc3339")]
    created_at: OffsetDateTime,
    /// Time of the last log-in.
    #[serde(with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    last_used_at: Option<OffsetDateTime>,
}

impl SshKey {
    fn new(user: &UserId, key: records::SshKey) -> Self {
        Self {
            id: key.id.to_string(),
            user_id: user.to_string(),
            name: key.name,
            public_key: key.public_key,
            fingerprint: key.fingerprint,
            no_touch_required: key.no_touch_required,
            created_at: to_date(key.created_at),
            last_used_at: key.last_used_at.map(to_date),
        }
    }
}

/// SSH keys of the account.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SshKeysResponse {
    ssh_keys: Vec<SshKey>,
}

/// Removal of a key.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct RemoveSshKeyResponse {
    message: String,
}

/// SSH key that logs in to a workspace.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SshKeyEntry {
    /// `SHA256:` and base64, as `ssh-keygen -l` shows it.
    fingerprint: String,
    /// Type, such as `ssh-ed25519`.
    key_type: String,
    /// Comment of the key; may be empty.
    comment: String,
}

impl From<AuthorizedKey> for SshKeyEntry {
    fn from(key: AuthorizedKey) -> Self {
        let AuthorizedKey { fingerprint, key_type, comment } = key;
        Self { fingerprint, key_type, comment }
    }
}

/// SSH keys that log in to a workspace.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ListWorkspaceSshKeysResponse {
    keys: Vec<SshKeyEntry>,
}

/// List the account's SSH keys, oldest first
#[utoipa::path(
    get, path = "/ssh-keys", operation_id = "list_ssh_keys", tag = "ssh-keys",
    responses((status = 200, body = SshKeysResponse), (status = 403, body = ApiErrorBody)),
)]
pub(crate) async fn list(
    State(context): State<ApiContext>,
    caller: Caller<ListSshKeys>,
) -> Result<Json<SshKeysResponse>, ApiError> {
    let permit = caller.authorize(Target::Account)?;
    let keys = context.ssh_keys.list(&permit).await?;
    let user = &permit.principal().user;
    Ok(Json(SshKeysResponse { ssh_keys: keys.into_iter().map(|key| SshKey::new(user, key)).collect() }))
}

/// Register an SSH key, which opens all workspaces of the account
#[utoipa::path(
    post, path = "/ssh-keys", operation_id = "add_ssh_key", tag = "ssh-keys",
    request_body(content = AddSshKeyRequest, example = json!({"name": "laptop", "public_key": formats::PUBLIC_KEY_EXAMPLE})),
    params(("Idempotency-Key" = Option<String>, Header, nullable = false, pattern = "^[!-~](?:[ -~]{0,253}[!-~])?$", description = "A repeated request with the same key and body gets the same SSH key")),
    responses(
        (status = 201, body = SshKey),
        (status = 400, body = ApiErrorBody, description = "It is not a public key, or not of a type that is supported; the message says what would be right"),
        (status = 402, body = ApiErrorBody, description = "The account has the maximum number of SSH keys"),
        (status = 403, body = ApiErrorBody),
        (status = 404, body = ApiErrorBody, description = "The key of the repeated request was removed"),
        (status = 409, body = ApiErrorBody, description = "The account has this key, or the Idempotency-Key was used for another request"),
        (status = 413, body = ApiErrorBody),
        (status = 422, body = ApiErrorBody, description = "The key is too weak: DSA, or RSA with less than 3,072 bits"),
    ),
)]
pub(crate) async fn add(
    State(context): State<ApiContext>,
    caller: Caller<ManageSshKeys>,
    headers: HeaderMap,
    JsonBody(body): JsonBody<AddSshKeyRequest>,
) -> Result<(StatusCode, Json<SshKey>), ApiError> {
    let idempotency_key = idempotency_key(&headers, "POST /ssh-keys", &body)?;
    let permit = caller.authorize(Target::Account)?;
    let added = context.ssh_keys.add(&permit, body.name, &body.public_key, idempotency_key.as_ref()).await?;
    Ok((StatusCode::CREATED, Json(SshKey::new(&permit.principal().user, added))))
}

/// Remove an SSH key, effective at once
#[utoipa::path(
    delete, path = "/ssh-keys/{id}", operation_id = "remove_ssh_key", tag = "ssh-keys", params(("id" = String, Path)),
    responses(
        (status = 200, body = RemoveSshKeyResponse),
        (status = 403, body = ApiErrorBody),
        (status = 404, body = ApiErrorBody),
    ),
)]
pub(crate) async fn remove(
    State(context): State<ApiContext>,
    caller: Caller<ManageSshKeys>,
    PathParams(id): PathParams<String>,
) -> Result<Json<RemoveSshKeyResponse>, ApiError> {
    let id = context.ssh_keys.remove(&caller.authorize(Target::Account)?, &id).await?;
    Ok(Json(RemoveSshKeyResponse { message: format!("SSH key {id} removed.") }))
}

/// List the SSH keys that log in to a workspace
#[utoipa::path(
    get, path = "/workspaces/{id}/ssh-keys", operation_id = "list_workspace_ssh_keys", tag = "ssh-keys", params(("id" = String, Path)),
    responses((status = 200, body = ListWorkspaceSshKeysResponse)),
)]
pub(crate) async fn of_workspace(
    State(context): State<ApiContext>,
    caller: Caller<ReadAuthorizedKeys>,
    PathParams(id): PathParams<String>,
) -> Result<Json<ListWorkspaceSshKeysResponse>, ApiError> {
    let permit = caller.workspace(&context, &id).await?;
    let keys = context.ssh_keys.of_workspace(&permit).await?;
    Ok(Json(ListWorkspaceSshKeysResponse { keys: keys.into_iter().map(Into::into).collect() }))
}

/// Keys that were written into a workspace.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SyncSshKeysResponse {
    /// Number of keys.
    synced: usize,
    keys: Vec<SshKeyEntry>,
}

/// Write the SSH keys that log in to a running workspace into its `authorized_keys`, which also happens by itself
#[utoipa::path(
    post, path = "/workspaces/{id}/ssh-keys/sync", operation_id = "sync_ssh_keys", tag = "ssh-keys", params(("id" = String, Path)),
    responses(
        (status = 200, body = SyncSshKeysResponse),
        (status = 400, body = ApiErrorBody, description = "The workspace's own file cannot be changed"),
        (status = 403, body = ApiErrorBody),
        (status = 404, body = ApiErrorBody),
        (status = 409, body = ApiErrorBody, description = "The workspace is not running"),
        (status = 429, body = ApiErrorBody),
        (status = 503, body = ApiErrorBody),
    ),
)]
pub(crate) async fn sync(
    State(context): State<ApiContext>,
    caller: Caller<SyncAuthorizedKeys>,
    PathParams(id): PathParams<String>,
) -> Result<Json<SyncSshKeysResponse>, ApiError> {
    let permit = caller.workspace(&context, &id).await?;
    let (lines, keys) = context.ssh_keys.to_sync(&permit).await?;
    context.guests.sync_ssh_keys(&permit, lines).await?;
    Ok(Json(SyncSshKeysResponse { synced: keys.len(), keys: keys.into_iter().map(Into::into).collect() }))
}
