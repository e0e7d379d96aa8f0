//! `/users/me/proxied-secrets`: credentials that stay outside of the caller's workspaces, and that the proxy adds to requests for one host.

use axum::Json;
use axum::extract::State;
use rigbox_core::authz::{ManageSecrets, ReadSecrets, Target};
use rigbox_service::proxied_secrets::NewProxiedSecret;
use rigbox_service::records;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;

use crate::context::ApiContext;
use crate::error::{ApiError, ApiErrorBody};
use crate::extract::{Caller, JsonBody, PathParams};
use crate::schema::to_date;

/// Proxied secret without its value.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ProxiedSecret {
    name: String,
    /// Host that gets it by HTTPS, with a port other than 443.
    host: String,
    /// Header that carries it, in lower case.
    header: String,
    /// Text of the header, with `{}` in the secret's place.
    format: String,
    /// Workspace that alone may use it; absent: all of yours.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    workspace_id: Option<String>,
    /// Address of the host in a workspace.
    url: String,
    #[serde(with = "time::serde::rfc3339")]
    updated_at: OffsetDateTime,
}

/// Proxied secrets of the account.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ProxiedSecretsResponse {
    proxied_secrets: Vec<ProxiedSecret>,
}

/// Proxied secret to store.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SetProxiedSecretRequest {
    /// Name of one host, such as `api.example.org`, or with a port `api.example.org:8443`.
    #[schema(max_length = 261)]
    host: String,
    /// Header that carries the secret.
    #[serde(default = "authorization")]
    #[schema(default = "Authorization", max_length = 64)]
    header: String,
    /// Text of the header, with `{}` in the secret's place. Default: `Bearer {}` for `Authorization`, else `{}`.
    #[serde(default)]
    #[schema(max_length = 128)]
    format: Option<String>,
    /// Workspace that alone may use it; without: all of yours.
    #[serde(default)]
    workspace_id: Option<String>,
    /// The secret. It is stored encrypted, is never returned, and enters no workspace.
    #[schema(value_type = String, pattern = "^[!-~]{8,4096}$", write_only)]
    secret: SecretString,
}

/// Removal of a proxied secret.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct RemoveProxiedSecretResponse {
    message: String,
}

fn authorization() -> String {
    "Authorization".to_owned()
}

impl From<records::ProxiedSecret> for ProxiedSecret {
    fn from(secret: records::ProxiedSecret) -> Self {
        Self {
            url: secret.name.url(),
            name: secret.name.to_string(),
            host: secret.host.to_string(),
            header: secret.header.name().to_owned(),
            format: secret.header.format().to_owned(),
            workspace_id: secret.workspace.map(|id| id.to_string()),
            updated_at: to_date(secret.updated_at),
        }
    }
}

/// List the account's proxied secrets, without their values
#[utoipa::path(
    get, path = "/users/me/proxied-secrets", operation_id = "list_proxied_secrets", tag = "secrets",
    responses((status = 200, body = ProxiedSecretsResponse), (status = 403, body = ApiErrorBody)),
)]
pub(crate) async fn list(
    State(context): State<ApiContext>,
    caller: Caller<ReadSecrets>,
) -> Result<Json<ProxiedSecretsResponse>, ApiError> {
    let permit = caller.authorize(Target::Account)?;
    let secrets = context.proxied_secrets.list(&permit).await?;
    Ok(Json(ProxiedSecretsResponse { proxied_secrets: secrets.into_iter().map(Into::into).collect() }))
}

/// Store a proxied secret, in place of another one of its name; the next request has it
#[utoipa::path(
    put, path = "/users/me/proxied-secrets/{name}", operation_id = "set_proxied_secret", tag = "secrets",
    params(("name" = String, Path, description = "1 to 64 characters: a-z, 0-9, `-` and `_`")), request_body = SetProxiedSecretRequest,
    responses(
        (status = 200, body = ProxiedSecret),
        (status = 400, body = ApiErrorBody),
        (status = 402, body = ApiErrorBody),
        (status = 403, body = ApiErrorBody),
        (status = 404, body = ApiErrorBody),
        (status = 413, body = ApiErrorBody),
    ),
)]
pub(crate) async fn set(
    State(context): State<ApiContext>,
    caller: Caller<ManageSecrets>,
    PathParams(name): PathParams<String>,
    JsonBody(body): JsonBody<SetProxiedSecretRequest>,
) -> Result<Json<ProxiedSecret>, ApiError> {
    let permit = caller.authorize(Target::Account)?;
    let SetProxiedSecretRequest { host, header, format, workspace_id: workspace, secret } = body;
    let new = NewProxiedSecret { host, header, format, workspace, secret };
    Ok(Json(context.proxied_secrets.set(&permit, &name, new).await?.into()))
}

/// Remove a proxied secret; no later request has it
#[utoipa::path(
    delete, path = "/users/me/proxied-secrets/{name}", operation_id = "remove_proxied_secret", tag = "secrets",
    params(("name" = String, Path)),
    responses(
        (status = 200, body = RemoveProxiedSecretResponse),
        (status = 403, body = ApiErrorBody),
        (status = 404, body = ApiErrorBody),
    ),
)]
pub(crate) async fn remove(
    State(context): State<ApiContext>,
    caller: Caller<ManageSecrets>,
    PathParams(name): PathParams<String>,
) -> Result<Json<RemoveProxiedSecretResponse>, ApiError> {
    let permit = caller.authorize(Target::Account)?;
    context.proxied_secrets.remove(&permit, &name).await?;
    let message = "Removed. Requests that are being made keep it to their end.".to_owned();
    Ok(Json(RemoveProxiedSecretResponse { message }))
}
