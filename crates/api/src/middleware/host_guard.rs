//! What every request must pass before anything looks at it: the host it was sent to, and no key in its URL.

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::header::HOST;
use http::{HeaderMap, StatusCode, Uri};
use rigbox_core::tokens;
use tracing::warn;

use crate::allowed_hosts::AllowedHosts;
use crate::context::ApiContext;
use crate::error::ApiError;

pub(crate) async fn check(State(app): State<ApiContext>, request: Request, next: Next) -> Response {
    // Whoever probes for lifecycle may use an address.
    let probe = matches!(request.uri().path(), "/healthz" | "/readyz");
    if !probe && !host_fits(&app.hosts, request.uri(), request.headers()) {
        return ApiError::new(
            StatusCode::MISDIRECTED_REQUEST,
            "unknown_host",
            "this server does not answer to that Host: use the API's own URL",
        )
        .into_response();
    }
    if request.uri().path_and_query().is_some_and(|text| holds_key(text.as_str())) {
        return ApiError::new(
            StatusCode::BAD_REQUEST,
            "key_in_url",
            "there is a key in the URL, where logs and histories keep it: send it as `Authorization: Bearer`, and revoke this one",
        )
        .into_response();
    }
    next.run(request).await
}

/// Whoever is told that something is revoked may rely on it: no answer to a change before gateways know.
pub(crate) async fn await_gateways(State(app): State<ApiContext>, request: Request, next: Next) -> Response {
    let changes = !request.method().is_safe();
    let response = next.run(request).await;
    if changes && let Err(error) = app.gateways.wait_in_force().await {
        warn!(%error, "cannot read whether credentials have changed; gateways hear of it later");
    }
    response
}

fn host_fits(hosts: &AllowedHosts, uri: &Uri, headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(HOST).iter();
    let (Some(host), None) = (values.next(), values.next()) else { return false };
    let target = uri.authority().is_none_or(|authority| hosts.has(authority.as_str()));
    target && host.to_str().is_ok_and(|host| hosts.has(host))
}

/// Whether an address has a token in it. Only that of a link to sign in has its place there.
fn holds_key(address: &str) -> bool {
    tokens::find_embedded(address.as_bytes()).any(|kind| kind != tokens::TokenKind::Link)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_found_wherever_they_stand() {
        let secret = "a".repeat(43);
        for prefix in ["rb_", "rb_ws_", "rbd_", "rbs_", "rbv_"] {
            assert!(holds_key(&format!("/v1/workspaces?key={prefix}{secret}")));
            assert!(holds_key(&format!("/v1/workspaces?key=x{prefix}{secret}x")));
        }
        assert!(!holds_key("/v1/workspaces?name=rb_short"));
        // A link to sign in has to stand in a URL.
        assert!(!holds_key(&format!("/sign-in/link?token=rbl_{secret}")));
    }
}
