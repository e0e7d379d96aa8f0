//! Checks before any other: the host of a request, and no token in its URL.

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::header::HOST;
use http::{HeaderMap, StatusCode, Uri};
use rigbox_core::tokens;

use crate::allowed_hosts::AllowedHosts;
use crate::context::ApiContext;
use crate::error::ApiError;

pub(crate) async fn check(State(context): State<ApiContext>, request: Request, next: Next) -> Response {
    // Health probes may use an IP address.
    let probe = matches!(request.uri().path(), "/healthz" | "/readyz");
    if !probe && !is_known_host(&context.hosts, request.uri(), request.headers()) {
        return ApiError::new(
            StatusCode::MISDIRECTED_REQUEST,
            "unknown_host",
            "Unknown host. Use the URL of the API.",
        )
        .into_response();
    }
    if request.uri().path_and_query().is_some_and(|text| contains_token(text.as_str())) {
        return ApiError::new(
            StatusCode::BAD_REQUEST,
            "key_in_url",
            "The URL contains a key, which logs and browser histories store. Revoke this key, and send keys as `Authorization: Bearer`.",
        )
        .into_response();
    }
    next.run(request).await
}

fn is_known_host(hosts: &AllowedHosts, uri: &Uri, headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(HOST).iter();
    let (Some(host), None) = (values.next(), values.next()) else { return false };
    let target = uri.authority().is_none_or(|authority| hosts.contains(authority.as_str()));
    target && host.to_str().is_ok_and(|host| hosts.contains(host))
}

/// Returns whether a URL contains a token. Only the token of a sign-in link belongs there.
fn contains_token(url: &str) -> bool {
    tokens::find_embedded(url.as_bytes()).any(|kind| kind != tokens::TokenKind::Link)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_found_anywhere_in_a_url() {
        let secret = "a".repeat(43);
        for prefix in ["rb_", "rb_ws_", "rbd_", "rbs_", "rbv_"] {
            assert!(contains_token(&format!("/v1/workspaces?key={prefix}{secret}")));
            assert!(contains_token(&format!("/v1/workspaces?key=x{prefix}{secret}x")));
        }
        assert!(!contains_token("/v1/workspaces?name=rb_short"));
        // A sign-in link's token belongs in a URL.
        assert!(!contains_token(&format!("/sign-in/link?token=rbl_{secret}")));
    }
}
