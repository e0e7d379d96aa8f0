//! Control's service for gateways, which replies from a table.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use rigbox_proto::gateway::gateway_server::{Gateway as Service, GatewayServer};
use rigbox_proto::gateway::identify_request::Credential;
use rigbox_proto::gateway::watch_event::Event;
use rigbox_proto::gateway::{
    GrantsChanged, IdentifyRequest, Identity, Lease, RedeemRequest, RedeemResponse, Reset, ResolveRequest,
    Route, WatchAck, WatchEvent,
};
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{FRIEND, OWNER, STRANGER, WORKSPACE, eventually};

pub(crate) const LEASE_MS: u32 = 2_000;

/// Handle on the service.
#[derive(Clone)]
pub(crate) struct Gateway {
    table: Arc<Mutex<Table>>,
    path: Arc<PathBuf>,
}

#[derive(Default)]
pub(crate) struct Table {
    pub(crate) routes: HashMap<String, Route>,
    /// Identities by credential.
    pub(crate) identities: HashMap<String, Identity>,
    /// State and session by code.
    pub(crate) codes: HashMap<String, (String, String)>,
    pub(crate) asked: u64,
    pub(crate) redeemed: u64,
    watchers: Vec<mpsc::Sender<Result<WatchEvent, Status>>>,
    sequence: u64,
    acknowledged: u64,
    silent: bool,
    server: Option<tokio::task::JoinHandle<()>>,
}

impl Gateway {
    pub(crate) fn start(path: &Path) -> Self {
        let gateway = Self { table: Arc::default(), path: Arc::new(path.to_owned()) };
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
        let living = gateway.clone();
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(Duration::from_millis(300)).await;
                if !living.table().silent {
                    living.tell(Event::Lease(lease()));
                }
            }
        });
        gateway
    }

    /// Listens, again if it did before.
    pub(crate) fn serve(&self) {
        let incoming =
            rigbox_proto::transport::unix::listen(&self.path, vec![rustix::process::geteuid().as_raw()])
                .unwrap();
        let service = GatewayServer::new(self.clone());
        let server = tokio::spawn(async move {
            tonic::transport::Server::builder()
                .add_service(service)
                .serve_with_incoming(incoming)
                .await
                .unwrap();
        });
        self.table().server = Some(server);
    }

    pub(crate) fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap()
    }

    /// Stops responding, but keeps listening.
    pub(crate) fn fall_silent(&self) {
        self.table().silent = true;
    }

    pub(crate) fn speak(&self) {
        self.table().silent = false;
    }

    fn tell(&self, event: Event) -> u64 {
        let mut table = self.table();
        table.sequence += 1;
        let notice = WatchEvent { sequence: table.sequence, event: Some(event) };
        table.watchers.retain(|watcher| watcher.try_send(Ok(notice.clone())).is_ok());
        table.sequence
    }

    /// Changes the app at a host, without a notification.
    pub(crate) fn set_route(&self, host: &str, route: Option<Route>) {
        match route {
            Some(route) => self.table().routes.insert(host.to_owned(), route),
            None => self.table().routes.remove(host),
        };
    }

    /// Announces a change of the workspace, and waits until it is in force.
    pub(crate) async fn workspace_changed(&self) {
        let sequence = self.tell(Event::WorkspaceChanged(WORKSPACE.to_owned()));
        self.in_force(sequence).await;
    }

    pub(crate) async fn grants_changed(&self) {
        let sequence = self.tell(Event::GrantsChanged(GrantsChanged {}));
        self.in_force(sequence).await;
    }

    pub(crate) async fn everything_changed(&self) {
        let sequence = self.tell(Event::Reset(Reset {}));
        self.in_force(sequence).await;
    }

    async fn in_force(&self, sequence: u64) {
        eventually("the change is acknowledged", async || self.table().acknowledged >= sequence).await;
    }
}

/// Returns the text of a credential: a key of the right form, or the value of a cookie.
pub(crate) fn shown(kind: &str, name: &str) -> String {
    match (kind, name) {
        ("key", "workspace") => format!("rb_ws_{name:0<43}"),
        ("key", _) => format!("rb_{name:0<43}"),
        _ => format!("session-of-{name}"),
    }
}

pub(crate) fn user(id: &str, name: &str) -> Identity {
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

fn lease() -> Lease {
    Lease { lease_ms: LEASE_MS, assertion_keys: r#"{"keys":[{"kid":"test"}]}"#.to_owned() }
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
        let (state, session) =
            table.codes.remove(&request.code).ok_or_else(|| Status::permission_denied("no such code"))?;
        if state != request.state || request.app_id != super::APP {
            return Err(Status::permission_denied("another browser's"));
        }
        let now =
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as i64;
        Ok(Response::new(RedeemResponse { app_session: session, expires_unix_ms: now + 3_600_000 }))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<WatchEvent, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<Streaming<WatchAck>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let (watcher, notices) = mpsc::channel(256);
        {
            let mut table = self.table();
            if table.silent {
                return Err(Status::unavailable("silent"));
            }
            table.sequence += 1;
            let first = WatchEvent { sequence: table.sequence, event: Some(Event::Lease(lease())) };
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
