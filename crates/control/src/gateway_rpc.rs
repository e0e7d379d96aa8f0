//! gRPC services for gateways: changes for each of them, over [`Gateways`], and what `edge` asks, over [`AppVisitors`].

use std::pin::Pin;
use std::str::FromStr;

use futures_util::{Stream, StreamExt};
use rigbox_core::app_access;
use rigbox_core::ids::InvalidId;
use rigbox_core::status::Status as WorkspaceStatus;
use rigbox_proto::gateway::changes_server::{Changes, ChangesServer};
use rigbox_proto::gateway::gateway_server::{Gateway, GatewayServer};
use rigbox_proto::gateway::identify_request::Credential;
use rigbox_proto::gateway::{
    AppState, IdentifyRequest, Identity, IdentityKind, RedeemRequest, RedeemResponse, ResolveRequest, Route,
    Visibility, WatchAck, WatchEvent,
};
use rigbox_service::records::AppWithWorkspace;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;
use tonic::transport::server::Router;
use tonic::{Request, Response, Status, Streaming};

use crate::{Error, GatewaysConfig};
use rigbox_service::apps::visitors::{AppVisitors, PresentedCredential, Visitor};
use rigbox_service::gateways::Gateways;

struct Service {
    visitors: AppVisitors,
}

/// Stream of changes.
struct ChangesService(Gateways);

/// Serves gateways for as long as the future is polled.
pub(crate) fn listen(
    config: &GatewaysConfig,
    gateways: Gateways,
    visitors: AppVisitors,
) -> Result<impl Future<Output = ()> + Send + use<>, Error> {
    let own = Server::builder().add_service(GatewayServer::new(Service { visitors }));
    serve(config, gateways, own)
}

/// Serves what one kind of gateway asks, and changes, for as long as the future is polled.
pub(crate) fn serve(
    config: &GatewaysConfig,
    gateways: Gateways,
    own: Router,
) -> Result<impl Future<Output = ()> + Send + use<>, Error> {
    let GatewaysConfig { socket, uids } = config.clone();
    let incoming = rigbox_proto::transport::unix::listen(&socket, uids)
        .map_err(|problem| Error::Socket { path: socket.clone(), problem })?;
    let services = own.add_service(ChangesServer::new(ChangesService(gateways)));
    Ok(async move {
        if let Err(error) = services.serve_with_incoming(incoming).await {
            tracing::error!(%error, socket = %socket.display(), "failed to serve gateways");
        }
    })
}

#[tonic::async_trait]
impl Gateway for Service {
    async fn resolve(&self, request: Request<ResolveRequest>) -> Result<Response<Route>, Status> {
        let host = request.into_inner().host;
        let found = self.visitors.app_at(&host).map_err(unavailable)?;
        let found = found.ok_or_else(|| Status::not_found("no app has this host"))?;
        Ok(Response::new(self.route(found)))
    }

    async fn identify(&self, request: Request<IdentifyRequest>) -> Result<Response<Identity>, Status> {
        let IdentifyRequest { credential, app_id, client_address } = request.into_inner();
        // A review has no client.
        let from = client_address.parse().ok();
        let app = id(&app_id)?;
        let credential = match credential {
            Some(Credential::Key(key)) => PresentedCredential::Key(key.into()),
            Some(Credential::AppSession(session)) => PresentedCredential::Session(session.into()),
            None => return Err(Status::invalid_argument("no credential")),
        };
        let identity = match self.visitors.identify(&app, &credential, from).await.map_err(unavailable)? {
            Visitor::Unknown => Identity { kind: IdentityKind::Invalid.into(), ..Identity::default() },
            Visitor::Workspace => Identity { kind: IdentityKind::Workspace.into(), ..Identity::default() },
            Visitor::User(visitor) => Identity {
                kind: IdentityKind::User.into(),
                user_id: visitor.user.id.to_string(),
                email: visitor.user.email,
                email_verified: visitor.user.email_verified,
                in_scope: visitor.user.in_scope,
                expires_unix_ms: visitor.until.unix_ms(),
                assertion: visitor.assertion,
                assertion_until_unix_ms: visitor.assertion_until.unix_ms(),
            },
        };
        Ok(Response::new(identity))
    }

    async fn redeem(&self, request: Request<RedeemRequest>) -> Result<Response<RedeemResponse>, Status> {
        let RedeemRequest { code, app_id, state, host } = request.into_inner();
        let redeemed = self.visitors.redeem(&id(&app_id)?, &code, &state, &host).await;
        let redeemed = redeemed.map_err(unavailable)?;
        let (session, until) =
            redeemed.ok_or_else(|| Status::permission_denied("the code is invalid or expired"))?;
        Ok(Response::new(RedeemResponse { app_session: session, expires_unix_ms: until.unix_ms() }))
    }
}

#[tonic::async_trait]
impl Changes for ChangesService {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<WatchEvent, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<Streaming<WatchAck>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let (session, events) = self.0.join();
        let mut acks = request.into_inner();
        let mut events = ReceiverStream::new(events).map(Ok);
        // Both directions end together, and the session with them.
        let stream = task_stream(move |sender| async move {
            loop {
                tokio::select! {
                    event = events.next() => match event {
                        Some(event) => if sender.send(event).await.is_err() { return },
                        None => return,
                    },
                    ack = acks.message() => match ack {
                        Ok(Some(ack)) => session.acknowledge(ack.sequence),
                        Ok(None) | Err(_) => return,
                    },
                }
            }
        });
        Ok(Response::new(Box::pin(stream)))
    }
}

/// Returns a stream of what a task sends. The task ends when the stream is dropped.
pub(crate) fn task_stream<T: Send + 'static, F>(
    task: impl FnOnce(tokio::sync::mpsc::Sender<T>) -> F,
) -> impl Stream<Item = T> + Send
where
    F: Future<Output = ()> + Send + 'static,
{
    #[expect(
        clippy::disallowed_methods,
        reason = "bound: one event on its way, per call of a gateway or node"
    )]
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    let closed = sender.clone();
    let work = task(sender);
    tokio::spawn(async move {
        tokio::select! {
            () = work => {}
            () = closed.closed() => {}
        }
    });
    ReceiverStream::new(receiver)
}

impl Service {
    fn route(&self, found: AppWithWorkspace) -> Route {
        let origin = self.visitors.origin(&found.app);
        let sign_in_url = self.visitors.sign_in_url(&found.app);
        let state = match (found.app.stopped, found.status) {
            (true, _) => AppState::AppStopped,
            (false, WorkspaceStatus::Running) => AppState::Available,
            (false, _) => AppState::WorkspaceNotRunning,
        };
        let visibility = match found.app.visibility {
            app_access::Visibility::Private => Visibility::Private,
            app_access::Visibility::Privileged => Visibility::Privileged,
            app_access::Visibility::Public => Visibility::Public,
        };
        Route {
            app_id: found.app.id.to_string(),
            app_name: found.app.name.to_string(),
            workspace_id: found.app.workspace_id.to_string(),
            owner_id: found.app.user_id.to_string(),
            visibility: visibility.into(),
            shared_with: found.app.shared_with,
            cors_origins: found.app.cors_origins,
            state: state.into(),
            boot_id: found.boot.filter(|_| state == AppState::Available).unwrap_or_default(),
            port: found.app.port.unwrap_or_default().into(),
            sign_in_url,
            origin,
        }
    }
}

/// Reads an id that a gateway has sent.
pub(crate) fn id<T: FromStr<Err = InvalidId>>(text: &str) -> Result<T, Status> {
    text.parse().map_err(|error: InvalidId| Status::invalid_argument(error.to_string()))
}

pub(crate) fn unavailable(error: rigbox_service::records::StoreError) -> Status {
    tracing::error!(%error, "database failed for a gateway");
    Status::unavailable("the database does not answer")
}
