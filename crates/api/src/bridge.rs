//! `/rig/v1` on the bridge: the API's routes for the workspace at the other end. Requests that a browser page in the VM, or a forwarding
//! program, would make are refused: neither is the workspace's owner.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures_util::StreamExt;
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, StatusCode};
use rigbox_proto::bridge_requests;
use rigbox_proto::handover::GuestPeer;
use tokio::net::UnixStream;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::io::ReaderStream;

use crate::context::ApiContext;
use crate::error::{self, ApiError};
use crate::middleware::{finish, in_force};
use crate::routes;
use crate::server::{self, Transport, WorkspacePeer};

/// Returns the routes that a VM reaches. `rig` is the packed program for use in it.
pub fn router(context: ApiContext, rig: PathBuf) -> Router {
    let rig: Arc<Path> = rig.into();
    Router::new()
        .nest("/rig/v1", routes::bridge(&context))
        // For any code in a VM, as it would be if it were on its disk.
        .route("/rig/program", get(async move || program(&rig).await))
        .fallback(route_not_found)
        .method_not_allowed_fallback(error::method_not_allowed)
        .layer(middleware::from_fn_with_state(context.clone(), in_force::await_gateways))
        .layer(middleware::from_fn(finish::run))
        .layer(middleware::from_fn(check))
        .with_state(context)
}

/// Serves the connections from VMs, each passed on by the AI proxy, until `shutdown` is true.
///
/// # Errors
/// Failures of the runtime.
pub async fn serve(
    connections: mpsc::Receiver<(UnixStream, GuestPeer)>,
    router: Router,
    shutdown: watch::Receiver<bool>,
) -> std::io::Result<()> {
    let connections = ReceiverStream::new(connections).filter_map(async |(stream, peer)| {
        let workspace = peer.workspace_id.parse().ok()?;
        // It has its place already.
        let peer = WorkspacePeer { workspace, _permit: peer };
        Some((stream, peer, server::ConnectionControl::default(), ()))
    });
    server::serve_all(connections, Transport::default(), router, server::CONNECTION_LIMITS, shutdown).await
}

async fn route_not_found(request: Request) -> ApiError {
    let path: String = request.uri().path().chars().take(200).collect();
    ApiError::new(
        StatusCode::NOT_FOUND,
        "not_found",
        format!("Route {path} not found. The bridge serves /rig/v1, which `rig` uses."),
    )
}

/// Sends the program, piece by piece.
async fn program(path: &Path) -> Result<Response, ApiError> {
    let opened = async {
        let file = tokio::fs::File::open(path).await?;
        let length = file.metadata().await?.len();
        Ok::<_, std::io::Error>((file, length))
    };
    let (file, length) = opened.await.map_err(|error| {
        tracing::error!(path = %path.display(), %error, "failed to read the program for VMs");
        ApiError::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "not_ready",
            "The host has no `rig` for this VM. Try again.",
        )
    })?;
    Ok(([(CONTENT_LENGTH, length)], Body::from_stream(ReaderStream::new(file))).into_response())
}

async fn check(request: Request, next: Next) -> Response {
    match refusal(request.headers(), request.uri()) {
        Some(message) => ApiError::new(StatusCode::FORBIDDEN, "not_from_here", message).into_response(),
        None => next.run(request).await,
    }
}

fn refusal(headers: &HeaderMap, uri: &http::Uri) -> Option<&'static str> {
    bridge_requests::refusal(headers, uri, |name| name.as_str().starts_with("sec-fetch-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST_NAME: &str = "172.16.0.1:9090";

    #[test]
    fn requests_of_pages_and_proxies_are_refused() {
        let refusal_of = |pairs: &[(&'static str, &'static str)], uri: &str| {
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                headers.append(*name, http::HeaderValue::from_static(value));
            }
            refusal(&headers, &uri.parse().unwrap())
        };
        let host = ("host", HOST_NAME);
        assert_eq!(refusal_of(&[host], "/rig/v1/workspaces"), None);
        for more in [
            ("origin", "http://172.16.0.1:9090"),
            ("sec-fetch-site", "none"),
            ("sec-fetch-mode", "cors"),
            ("x-forwarded-for", "1.2.3.4"),
            ("forwarded", "for=1.2.3.4"),
            ("via", "1.1 x"),
            ("host", HOST_NAME),
        ] {
            assert!(refusal_of(&[host, more], "/").is_some(), "{more:?}");
        }
        for other in ["localhost:9090", "172.16.0.1", "evil.example:9090", "172.16.0.1:9091"] {
            let headers = [("host", other)];
            assert!(refusal_of(&headers, "/").is_some(), "{other}");
        }
        assert!(refusal_of(&[], "/").is_some());
        assert!(refusal_of(&[host], "http://evil.example/").is_some());
        assert_eq!(refusal_of(&[host], "http://172.16.0.1:9090/"), None);
    }
}
