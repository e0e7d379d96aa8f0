//! `/rig/v1` on the bridge: the same routes, for the workspace at the other end. What a page in a VM, or a program that forges requests
//! for others, would send along is refused: neither is the workspace's owner.

use axum::Router;
use axum::extract::Request;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use http::header::{HOST, ORIGIN};
use http::{HeaderMap, StatusCode};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;

use super::error::{self, ApiError};
use super::{App, connections, guard, routes};
use crate::bridge::Bridged;

/// What a VM knows its bridge by.
const HOST_NAME: &str = "172.16.0.1:9090";

/// The routes that a VM reaches.
pub(crate) fn router(app: App) -> Router {
    let (api, _) = routes::all(&app);
    Router::new()
        .nest("/rig/v1", api)
        .fallback(no_route)
        .method_not_allowed_fallback(error::no_method)
        .layer(middleware::from_fn_with_state(app.clone(), guard::settle))
        .layer(middleware::from_fn(check))
        .with_state(app)
}

/// Serves the connections that come until `ended` is true.
pub(crate) async fn serve(
    connections: mpsc::Receiver<(TcpStream, Bridged)>,
    router: Router,
    ended: watch::Receiver<bool>,
) -> std::io::Result<()> {
    connections::serve_all(ReceiverStream::new(connections), router, connections::BOUNDS, ended).await
}

async fn no_route(request: Request) -> ApiError {
    let path: String = request.uri().path().chars().take(200).collect();
    ApiError::new(
        StatusCode::NOT_FOUND,
        "not_found",
        format!(
            "{path} not found: this bridge answers /rig/v1, which `rig` uses; there is no AI proxy on it yet"
        ),
    )
}

async fn check(request: Request, next: Next) -> Response {
    match refusal(request.headers(), request.uri()) {
        Some(message) => ApiError::new(StatusCode::FORBIDDEN, "not_from_here", message).into_response(),
        None => next.run(request).await,
    }
}

fn refusal(headers: &HeaderMap, uri: &http::Uri) -> Option<&'static str> {
    let mut hosts = headers.get_all(HOST).iter();
    let named =
        matches!((hosts.next(), hosts.next()), (Some(host), None) if host.as_bytes() == HOST_NAME.as_bytes());
    if !named || uri.authority().is_some_and(|authority| authority != HOST_NAME) {
        return Some("this bridge answers to the Host 172.16.0.1:9090 only");
    }
    if headers.contains_key(ORIGIN) || headers.keys().any(|name| name.as_str().starts_with("sec-fetch-")) {
        return Some("a page of a browser has no business with this bridge");
    }
    if ["x-forwarded-for", "forwarded", "via"].iter().any(|name| headers.contains_key(*name)) {
        return Some("this bridge answers programs in the workspace, not what they pass on for others");
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_page_or_a_proxy_would_send_is_refused() {
        let requested = |pairs: &[(&'static str, &'static str)], uri: &str| {
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                headers.append(*name, http::HeaderValue::from_static(value));
            }
            refusal(&headers, &uri.parse().unwrap())
        };
        let host = ("host", HOST_NAME);
        assert_eq!(requested(&[host], "/rig/v1/workspaces"), None);
        for more in [
            ("origin", "http://172.16.0.1:9090"),
            ("sec-fetch-site", "none"),
            ("sec-fetch-mode", "cors"),
            ("x-forwarded-for", "1.2.3.4"),
            ("forwarded", "for=1.2.3.4"),
            ("via", "1.1 x"),
            ("host", HOST_NAME),
        ] {
            assert!(requested(&[host, more], "/").is_some(), "{more:?}");
        }
        for other in ["localhost:9090", "172.16.0.1", "evil.example:9090", "172.16.0.1:9091"] {
            let headers = [("host", other)];
            assert!(requested(&headers, "/").is_some(), "{other}");
        }
        assert!(requested(&[], "/").is_some());
        assert!(requested(&[host], "http://evil.example/").is_some());
        assert_eq!(requested(&[host], "http://172.16.0.1:9090/"), None);
    }
}
