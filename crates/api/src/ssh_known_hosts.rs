//! `/.well-known/ssh-known-hosts`: where the SSH gateway is, and by which keys it is known.

use axum::extract::State;
use http::StatusCode;

use crate::context::ApiContext;
use crate::error::{ApiError, ApiErrorBody};

/// Get the lines of `known_hosts` for the SSH gateway
///
/// Each line has the host, with its port in the form `[host]:port` unless that is 22, and a host key. The first key is the current one.
#[utoipa::path(
    get, path = "/.well-known/ssh-known-hosts", operation_id = "get_ssh_known_hosts", tag = "ssh-keys",
    responses(
        (status = 200, content_type = "text/plain", body = String),
        (status = 404, body = ApiErrorBody, description = "There is no SSH gateway"),
    ),
)]
pub(crate) async fn known_hosts(State(context): State<ApiContext>) -> Result<String, ApiError> {
    let known_hosts = context.known_hosts.as_ref();
    let known_hosts = known_hosts.ok_or_else(no_gateway)?;
    Ok(known_hosts.lines().await?.iter().map(|line| format!("{line}\n")).collect())
}

fn no_gateway() -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, "not_found", "This installation has no SSH gateway.")
}
