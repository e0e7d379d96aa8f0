//! Fixture of the tests.

pub(crate) mod backend;
pub(crate) mod http;
pub(crate) mod http2;

use std::io::Write;
use std::net::SocketAddr;
use std::time::Duration;

use rigbox_edge::{Config, Limits, Tls};
use rigbox_proto::gateway::{Route, Visibility};
use tempfile::TempDir;
use tokio::sync::oneshot;

use backend::Backend;
use rigbox_testkit::dial::Node;
pub(crate) use rigbox_testkit::eventually;
use rigbox_testkit::gateway::{self, Gateway};
pub(crate) use rigbox_testkit::gateway::{BOOT, OWNER, WORKSPACE};

pub(crate) const HOST: &str = "web.rigbox.localhost";
pub(crate) const ORIGIN: &str = "http://web.rigbox.localhost:7080";
pub(crate) const SIBLING: &str = "http://evil.rigbox.localhost:7080";
pub(crate) const PORT: u32 = 3000;
/// Idle time of an app that closes no connection during a test.
pub(crate) const NEVER_IDLE: Duration = Duration::from_secs(60);
const LEASE: Duration = Duration::from_secs(2);

/// Edge with everything around it, running.
pub(crate) struct World {
    pub(crate) edge: SocketAddr,
    pub(crate) tls: Option<SocketAddr>,
    pub(crate) gateway: Gateway,
    pub(crate) backend: Backend,
    pub(crate) node: Node,
    _folder: TempDir,
    stop: Option<oneshot::Sender<()>>,
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::with(Limits::default()).await
    }

    pub(crate) async fn with(limits: Limits) -> Self {
        Self::start(limits, None, 2).await
    }

    /// Starts edge with one worker, which accepts connections in the order in which they arrive.
    pub(crate) async fn with_one_worker(limits: Limits) -> Self {
        Self::start(limits, None, 1).await
    }

    /// Starts edge with TLS and the certificates in this folder.
    pub(crate) async fn with_tls(folder: &std::path::Path) -> Self {
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        Self::start(Limits::default(), Some(Tls { listen, folder: folder.to_owned() }), 2).await
    }

    async fn start(limits: Limits, tls: Option<Tls>, workers: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let gateway = Gateway::start(&folder.path().join("gateway.sock"), LEASE);
        let backend = Backend::start().await;
        let node = Node::start(&folder.path().join("dial.sock"));
        node.listens(WORKSPACE, BOOT, PORT, backend.address);
        let config = Config {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            domain: "rigbox.localhost".to_owned(),
            gateway_socket: folder.path().join("gateway.sock"),
            dial_socket: folder.path().join("dial.sock"),
            workers: std::num::NonZeroUsize::new(workers),
            limits,
            tls,
        };
        let bound = rigbox_edge::bind(config).unwrap();
        let (edge, tls) = (bound.address(), bound.tls_address());
        let (stop, stopped) = oneshot::channel::<()>();
        tokio::spawn(async move {
            let shutdown = async move { drop(stopped.await) };
            // A failed test ends its runtime, and this with it.
            drop(bound.run(shutdown).await);
        });
        let world = Self { edge, tls, gateway, backend, node, _folder: folder, stop: Some(stop) };
        world.app(Visibility::Private);
        world
    }

    /// Starts edge in front of a public app that is scripted.
    pub(crate) async fn scripted(
        limits: Limits,
        idle: Duration,
        reply: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static,
    ) -> (Self, backend::Scripted) {
        let world = Self::with(limits).await;
        let app = backend::Scripted::start(idle, reply).await;
        world.node.listens(WORKSPACE, BOOT, PORT, app.address);
        world.app(Visibility::Public);
        world.gateway.workspace_changed().await;
        (world, app)
    }

    /// Sets the visibility of the app at [`HOST`], and announces the app as new.
    pub(crate) fn app(&self, visibility: Visibility) {
        self.gateway.set_route(HOST, Some(route(visibility)));
    }
}

impl Drop for World {
    fn drop(&mut self) {
        drop(self.stop.take());
    }
}

pub(crate) fn route(visibility: Visibility) -> Route {
    Route {
        shared_with: vec!["friend@example.org".to_owned()],
        cors_origins: vec!["https://front.example".to_owned()],
        ..gateway::route("web", ORIGIN, visibility, PORT)
    }
}

/// Says that a test is skipped, even if its output is captured; `cargo xtask test` counts it.
pub(crate) fn skipped(why: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "skipped: {why}").unwrap();
}

/// Gives a future ten seconds.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(10), future)
        .await
        .unwrap_or_else(|_| panic!("{what}: not within 10 s"))
}
