//! Simulated control for gateways: the service of `gateway.proto`, which responds from a table.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use rigbox_proto::gateway::changes_server::{Changes, ChangesServer};
use rigbox_proto::gateway::gateway_server::{Gateway as Service, GatewayServer};
use rigbox_proto::gateway::identify_request::Credential;
use rigbox_proto::gateway::watch_event::Event;
use rigbox_proto::gateway::{
    AppState, GrantsChanged, IdentifyRequest, Identity, Lease, RedeemRequest, RedeemResponse, Reset,
    ResolveRequest, Route, Visibility, WatchAck, WatchEvent,
};
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::eventually;

/// Workspace of every app in [`route`].
pub const WORKSPACE: &str = "ws-aaaaaaaa";
/// Running boot of [`WORKSPACE`].
pub const BOOT: &str = "boot-1";
/// App whose sign-in codes [`Table::codes`] holds.
pub const APP: &str = "ap-aaaaaaaa";
/// Owner of every app in [`route`].
pub const OWNER: &str = "us-aaaaaaaa";
/// User with whom apps may be shared.
pub const FRIEND: &str = "us-bbbbbbbb";
/// User with whom nothing is shared.
pub const STRANGER: &str = "us-cccccccc";

/// Time between two leases.
const RENEWAL_INTERVAL: Duration = Duration::from_millis(300);

/// Handle on the service.
#[derive(Clone)]
pub struct Gateway {
    table: Arc<Mutex<Table>>,
    path: Arc<PathBuf>,
    lease: Duration,
}

/// State of the service.
#[derive(Default)]
pub struct Table {
    /// Routes by host.
    pub routes: HashMap<String, Route>,
    /// Identities by credential.
    pub identities: HashMap<String, Identity>,
    /// State and session by code.
    pub codes: HashMap<String, (String, String)>,
    /// Number of routes and identities that were requested.
    pub asked: u64,
    /// Number of codes that were redeemed.
    pub redeemed: u64,
    /// Host that the last of them came to.
    pub redeemed_at: String,
    watchers: Vec<mpsc::Sender<Result<WatchEvent, Status>>>,
    sequence: u64,
    acknowledged: u64,
    silent: bool,
    delay: Duration,
    server: Option<tokio::task::JoinHandle<()>>,
}

impl Gateway {
    /// Serves at the socket `path` on the current runtime. The table has identities of the owner, the friend, the
    /// stranger and the workspace, and no route.
    pub fn start(path: &Path, lease: Duration) -> Self {
        let gateway = Self { table: Arc::default(), path: Arc::new(path.to_owned()), lease };
        {
            let mut table = gateway.table();
            for (name, id) in [("owner", OWNER), ("friend", FRIEND), ("stranger", STRANGER)] {
                for kind in ["key", "cookie"] {
                    table.identities.insert(shown(kind, name), user(id, name));
                }
            }
            let workspace = Identity {
                kind: rigbox_proto::gateway::IdentityKind::Workspace.into(),
                ..Identity::default()
            };
            table.identities.insert(shown("key", "workspace"), workspace);
            let mut unverified = user(FRIEND, "friend");
            unverified.email_verified = false;
            table.identities.insert(shown("key", "unverified"), unverified);
            let mut elsewhere = user(OWNER, "owner");
            elsewhere.in_scope = false;
            table.identities.insert(shown("key", "elsewhere"), elsewhere);
        }
        gateway.serve();
        let renewing = gateway.clone();
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(RENEWAL_INTERVAL).await;
                if !renewing.table().silent {
                    renewing.tell(Event::Lease(renewing.lease()));
                }
            }
        });
        gateway
    }

    /// Listens, again if it did before.
    pub fn serve(&self) {
        let incoming =
            rigbox_proto::transport::unix::listen(&self.path, vec![rustix::process::geteuid().as_raw()])
                .unwrap();
        let (service, changes) = (GatewayServer::new(self.clone()), ChangesServer::new(self.clone()));
        let server = tokio::spawn(async move {
            tonic::transport::Server::builder()
                .add_service(service)
                .add_service(changes)
                .serve_with_incoming(incoming)
                .await
                .unwrap();
        });
        self.table().server = Some(server);
    }

    /// Locks the table.
    pub fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap()
    }

    /// Stops responding, but keeps listening.
    pub fn fall_silent(&self) {
        self.table().silent = true;
    }

    /// From now on, every event counts as sent this long ago.
    pub fn delay(&self, delay: Duration) {
        self.table().delay = delay;
    }

    /// Responds again.
    pub fn speak(&self) {
        self.table().silent = false;
    }

    fn lease(&self) -> Lease {
        let lease_ms = self.lease.as_millis().try_into().unwrap();
        Lease { lease_ms, assertion_keys: r#"{"keys":[{"kid":"test"}]}"#.to_owned() }
    }

    fn tell(&self, event: Event) -> u64 {
        let mut table = self.table();
        table.sequence += 1;
        let mut notice = WatchEvent::now(table.sequence, event);
        notice.sent_ms = notice.sent_ms.saturating_sub(table.delay.as_millis().try_into().unwrap());
        table.watchers.retain(|watcher| watcher.try_send(Ok(notice.clone())).is_ok());
        table.sequence
    }

    /// Changes the app at a host, without a notification.
    pub fn set_route(&self, host: &str, route: Option<Route>) {
        match route {
            Some(route) => self.table().routes.insert(host.to_owned(), route),
            None => self.table().routes.remove(host),
        };
    }

    /// Announces a change of the workspace, and waits until it is in force.
    pub async fn workspace_changed(&self) {
        let sequence = self.tell(Event::WorkspaceChanged(WORKSPACE.to_owned()));
        self.in_force(sequence).await;
    }

    /// Announces a change of grants, and waits until it is in force.
    pub async fn grants_changed(&self) {
        let sequence = self.tell(Event::GrantsChanged(GrantsChanged {}));
        self.in_force(sequence).await;
    }

    /// Announces that everything may have changed, and waits until that is in force.
    pub async fn everything_changed(&self) {
        let sequence = self.tell(Event::Reset(Reset {}));
        self.in_force(sequence).await;
    }

    async fn in_force(&self, sequence: u64) {
        eventually("the change is acknowledged", async || self.table().acknowledged >= sequence).await;
    }
}

/// Returns the text of a credential: a key of the right form, or the value of a cookie.
pub fn shown(kind: &str, name: &str) -> String {
    match (kind, name) {
        ("key", "workspace") => format!("rb_ws_{name:0<43}"),
        ("key", _) => format!("rb_{name:0<43}"),
        _ => format!("session-of-{name}"),
    }
}

/// Returns the route of an app named `name` of [`OWNER`], in [`WORKSPACE`].
pub fn route(name: &str, origin: &str, visibility: Visibility, port: u32) -> Route {
    Route {
        app_id: APP.to_owned(),
        app_name: name.to_owned(),
        workspace_id: WORKSPACE.to_owned(),
        owner_id: OWNER.to_owned(),
        visibility: visibility.into(),
        state: AppState::Available.into(),
        boot_id: BOOT.to_owned(),
        port,
        sign_in_url: format!("http://console.localhost:7070/apps/{name}/sign-in"),
        origin: origin.to_owned(),
        ..Route::default()
    }
}

/// Returns a verified user whose credential covers the app.
pub fn user(id: &str, name: &str) -> Identity {
    Identity {
        kind: rigbox_proto::gateway::IdentityKind::User.into(),
        user_id: id.to_owned(),
        email: format!("{name}@example.org"),
        email_verified: true,
        in_scope: true,
        assertion: format!("assertion.of.{name}"),
        ..Identity::default()
    }
}

#[tonic::async_trait]
impl Service for Gateway {
    async fn resolve(&self, request: Request<ResolveRequest>) -> Result<Response<Route>, Status> {
        let mut table = self.table();
        table.asked += 1;
        let route = table.routes.get(&request.into_inner().host).cloned();
        route.map(Response::new).ok_or_else(|| Status::not_found("no app"))
    }

    async fn identify(&self, request: Request<IdentifyRequest>) -> Result<Response<Identity>, Status> {
        let mut table = self.table();
        table.asked += 1;
        let shown = match request.into_inner().credential {
            Some(Credential::Key(key)) => key,
            Some(Credential::AppSession(session)) => session,
            None => return Err(Status::invalid_argument("no credential")),
        };
        let invalid =
            Identity { kind: rigbox_proto::gateway::IdentityKind::Invalid.into(), ..Identity::default() };
        Ok(Response::new(table.identities.get(&shown).cloned().unwrap_or(invalid)))
    }

    async fn redeem(&self, request: Request<RedeemRequest>) -> Result<Response<RedeemResponse>, Status> {
        let request = request.into_inner();
        let mut table = self.table();
        table.redeemed += 1;
        table.redeemed_at = request.host;
        let (state, session) =
            table.codes.remove(&request.code).ok_or_else(|| Status::permission_denied("no such code"))?;
        if state != request.state || request.app_id != APP {
            return Err(Status::permission_denied("another browser's"));
        }
        let now =
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as i64;
        Ok(Response::new(RedeemResponse { app_session: session, expires_unix_ms: now + 3_600_000 }))
    }
}

#[tonic::async_trait]
impl Changes for Gateway {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<WatchEvent, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<Streaming<WatchAck>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        #[expect(clippy::disallowed_methods, reason = "of one test")]
        let (watcher, notices) = mpsc::channel(256);
        {
            let mut table = self.table();
            if table.silent {
                return Err(Status::unavailable("silent"));
            }
            table.sequence += 1;
            let first = WatchEvent::now(table.sequence, Event::Lease(self.lease()));
            watcher.try_send(Ok(first)).unwrap();
            table.watchers.push(watcher);
        }
        let (mut acknowledged, this) = (request.into_inner(), self.clone());
        tokio::spawn(async move {
            while let Ok(Some(WatchAck { sequence })) = acknowledged.message().await {
                let mut table = this.table();
                table.acknowledged = table.acknowledged.max(sequence);
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(notices))))
    }
}
