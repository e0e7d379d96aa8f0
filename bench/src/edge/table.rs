//! Control's service for gateways, answering from a table: apps by their names, and one key.

use std::path::Path;
use std::pin::Pin;
use std::time::Duration;

use rigbox_proto::gateway::gateway_server::{Gateway, GatewayServer};
use rigbox_proto::gateway::identify_request::Credential;
use rigbox_proto::gateway::watch_event::Event;
use rigbox_proto::gateway::{
    AppState, IdentifyRequest, Identity, IdentityKind, Lease, RedeemRequest, RedeemResponse, ResolveRequest,
    Route, Visibility, WatchAck, WatchEvent,
};
use rigbox_proto::transport::unix;
use tokio_stream::wrappers::IntervalStream;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

/// One of the public apps `app-<n>`.
pub(super) const HOST: &str = "app-1.rigbox.localhost";
pub(super) const PRIVATE_HOST: &str = "private.rigbox.localhost";
/// Public app with WebSockets.
pub(super) const SOCKETS_HOST: &str = "sockets.rigbox.localhost";
/// The key of the apps' owner.
pub(super) const KEY: &str = "rb_0000000000000000000000000000000000000000000";
pub(super) const WORKSPACE: &str = "ws-aaaaaaaa";
pub(super) const BOOT: &str = "boot";
pub(super) const HTTP_PORT: u32 = 1;
pub(super) const SOCKETS_PORT: u32 = 2;
const OWNER: &str = "us-aaaaaaaa";
const LEASE_MS: u32 = 10_000;

/// Gateway service with a fixed table of apps.
struct Table;

/// Serves the table at `socket` on the current runtime.
pub(super) fn serve(socket: &Path) -> std::io::Result<()> {
    let incoming = unix::listen(socket, vec![rustix::process::geteuid().as_raw()])?;
    let server = tonic::transport::Server::builder().add_service(GatewayServer::new(Table));
    tokio::spawn(server.serve_with_incoming(incoming));
    Ok(())
}

fn route(host: &str) -> Option<Route> {
    let name = host.strip_suffix(".rigbox.localhost")?;
    let (visibility, port) = match name {
        "private" => (Visibility::Private, HTTP_PORT),
        "sockets" => (Visibility::Public, SOCKETS_PORT),
        _ => (name.starts_with("app-").then_some(Visibility::Public)?, HTTP_PORT),
    };
    Some(Route {
        app_id: "ap-aaaaaaaa".to_owned(),
        app_name: name.to_owned(),
        workspace_id: WORKSPACE.to_owned(),
        owner_id: OWNER.to_owned(),
        visibility: visibility.into(),
        state: AppState::Available.into(),
        boot_id: BOOT.to_owned(),
        port,
        sign_in_url: "http://console.localhost/".to_owned(),
        origin: format!("http://{host}"),
        ..Route::default()
    })
}

#[tonic::async_trait]
impl Gateway for Table {
    async fn resolve(&self, request: Request<ResolveRequest>) -> Result<Response<Route>, Status> {
        route(&request.into_inner().host).map(Response::new).ok_or_else(|| Status::not_found("no app"))
    }

    async fn identify(&self, request: Request<IdentifyRequest>) -> Result<Response<Identity>, Status> {
        let is_owner = matches!(request.into_inner().credential, Some(Credential::Key(key)) if key == KEY);
        let kind = if is_owner { IdentityKind::User } else { IdentityKind::Invalid };
        Ok(Response::new(Identity {
            kind: kind.into(),
            user_id: OWNER.to_owned(),
            email: "bench@rigbox.invalid".to_owned(),
            email_verified: true,
            in_scope: true,
            // As long as a real assertion.
            assertion: "a".repeat(500),
            ..Identity::default()
        }))
    }

    async fn redeem(&self, _: Request<RedeemRequest>) -> Result<Response<RedeemResponse>, Status> {
        Err(Status::permission_denied("sign-in is not supported"))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<WatchEvent, Status>> + Send>>;

    async fn watch(&self, _: Request<Streaming<WatchAck>>) -> Result<Response<Self::WatchStream>, Status> {
        let ticks = IntervalStream::new(tokio::time::interval(Duration::from_secs(1)));
        let notices = ticks.map(|_| {
            let lease = Lease { lease_ms: LEASE_MS, assertion_keys: String::new() };
            Ok(WatchEvent { sequence: 1, event: Some(Event::Lease(lease)) })
        });
        Ok(Response::new(Box::pin(notices)))
    }
}
