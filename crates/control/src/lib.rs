//! The control role: the HTTP API, the services behind it, and the reconciler that moves workspaces to where their
//! owners want them. It holds the database, and speaks with the node and guestio over unix sockets.

use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use app_tokens::Tokens;
use apps_domain::AppsDomain;
use domains::Domains;
use gateways::Gateways;
use rigbox_core::ids::UserId;
use rigbox_core::plans::Plans;
use rigbox_store::Store;
use rigbox_store::tokens::TokenKey;
use service::networks::Networks;
use service::visitors::Visitors;
use tokio::sync::watch;
use tracing::info;

pub mod admin;
mod api;
mod app_tokens;
mod apps_domain;
mod auth;
mod bridge;
mod changes;
mod clock;
mod console;
mod deliveries;
mod domains;
mod feed;
mod gateways;
mod guest_client;
mod mail;
mod node_client;
mod rates;
mod reconciler;
mod service;
mod unix;

pub use mail::{MailConfig, MailError};
pub use rigbox_core::lifecycle::Timeouts;
pub use rigbox_store::{KeySource, Rotation};

/// After a signal to end, answers under way get this long.
const DRAIN: Duration = Duration::from_secs(3);

/// What the control role needs to know.
#[derive(Debug, Clone)]
pub struct Config {
    /// The SQLite file; made where there is none.
    pub database: PathBuf,
    /// File of the key that tokens are hashed with; made where there is none.
    pub token_key: PathBuf,
    /// Where the master keys come from that secrets in the database are encrypted with.
    pub master_key: KeySource,
    /// Where the HTTP API listens.
    pub api_listen: SocketAddr,
    /// How clients reach it, e.g. `http://localhost:7070`.
    pub public_api_url: String,
    /// Where people sign in, e.g. `http://console.localhost:7070`; an origin, without a path.
    pub console_url: String,
    /// How letters are sent; into the log when there is none.
    pub mail: Option<MailConfig>,
    /// The node's socket.
    pub node_socket: PathBuf,
    /// guestio's socket.
    pub guestio_socket: PathBuf,
    /// The origin below which apps live, e.g. `http://rigbox.localhost:7080`.
    pub apps_url: String,
    /// DNS servers that are requested whose a domain is; none: those that the system asks.
    pub dns: Vec<SocketAddr>,
    /// Where gateways call; none: there are no gateways.
    pub gateways: Option<GatewaysConfig>,
    /// Where the node brings the connections of VMs, and its uid; none: nowhere.
    pub bridge: Option<BridgeConfig>,
    /// How long transient states may last.
    pub timeouts: Timeouts,
    /// What the plans are, where it is not the default.
    pub plans: Plans,
}

/// Where the node brings the connections of VMs.
#[derive(Debug, Clone)]
pub struct BridgeConfig {
    /// The socket.
    pub socket: PathBuf,
    /// The node's uid.
    pub uid: u32,
}

/// Where gateways call, and which do.
#[derive(Debug, Clone)]
pub struct GatewaysConfig {
    /// The socket.
    pub socket: PathBuf,
    /// Uids of the gateways' roles.
    pub uids: Vec<u32>,
}

/// Why the control role cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database, or a file beside it.
    #[error("{0}")]
    Store(#[from] rigbox_store::Error),
    /// The API's address.
    #[error("cannot listen on {address}: {problem}; is another rigboxd running?")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why not.
        problem: std::io::Error,
    },
    /// The public URL is none.
    #[error("public_api_url `{0}` is not a URL: expected e.g. http://localhost:7070")]
    PublicUrl(String),
    /// The console's URL is none.
    #[error("console_url `{0}` is not an origin: expected e.g. http://console.localhost:7070")]
    ConsoleUrl(String),
    /// The origin of apps is none.
    #[error("apps url `{0}` is not an origin: expected e.g. http://rigbox.localhost:7080")]
    AppsUrl(String),
    /// The socket of gateways, or of the bridge.
    #[error("cannot listen at {}: {problem}", path.display())]
    Socket {
        /// Where.
        path: PathBuf,
        /// Why not.
        problem: std::io::Error,
    },
    /// DNS servers.
    #[error("no DNS resolver: {0}")]
    Dns(String),
    /// The keys of assertions.
    #[error("the key that vouches for apps' visitors cannot be made: {0}")]
    Assertions(String),
    /// How letters are to be sent.
    #[error(transparent)]
    Mail(#[from] MailError),
    /// The installation has its first user already.
    #[error("there is a first user already; `rigboxd admin key` prints a further key of theirs")]
    UserExists,
    /// The installation has no user yet.
    #[error("there is no user yet: bootstrap first")]
    NoUser,
    /// Not an e-mail address.
    #[error("`{0}` is no e-mail address: expected e.g. ada@example.org")]
    InvalidEmail(String),
    /// There is a user with the address already.
    #[error("there is a user with the address {0} already")]
    EmailTaken(String),
    /// There is no user with the address.
    #[error("no user with the address {0}: not found; `rigboxd admin user ls` lists them")]
    UnknownUser(String),
    /// Nothing of the user's opens anything.
    #[error("the user {0} is disabled: `rigboxd admin user enable {0}` first")]
    Disabled(String),
    /// The first user is the one who can let others in.
    #[error("the installation's administrator cannot be disabled or get another plan")]
    Administrator,
    /// Serving ended.
    #[error("the API ended: {0}")]
    Serve(std::io::Error),
}

/// Serves until `shutdown` is done, then drains.
pub async fn run(config: Config, shutdown: impl Future<Output = ()> + Send + 'static) -> Result<(), Error> {
    serve(config, api::router, shutdown).await
}

/// The yardstick of the bench, which no Rigbox runs: lists the workspaces of `user` to anybody, by the same handler without what
/// guards it (key, limits, host).
pub async fn run_bare(
    config: Config,
    user: UserId,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), Error> {
    serve(config, |app| api::bare_router(app, user), shutdown).await
}

async fn serve(
    config: Config,
    router: impl FnOnce(api::App) -> axum::Router,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), Error> {
    let console = console(&config)?;
    let mailer = mail::Mailer::new(config.mail.as_ref())?;
    let hosts = api::AllowedHosts::new(&config.public_api_url, console.host(), config.api_listen)
        .ok_or_else(|| Error::PublicUrl(config.public_api_url.clone()))?;
    let token_key = TokenKey::load_or_create(&config.token_key)?;
    let store = Store::open(&config.database, &token_key).await?;
    let store = store.unlock(config.master_key, clock::now()).await?;
    let listener = tokio::net::TcpListener::bind(config.api_listen)
        .await
        .map_err(|problem| Error::Listen { address: config.api_listen, problem })?;

    let lives = changes::Lives::new(store.clone());
    let node = node_client::NodeClient::new(&config.node_socket);
    let guests = guest_client::GuestClient::new(&config.guestio_socket);
    let deliveries = deliveries::Deliveries::new(store.clone(), token_key.clone(), guests.clone());
    let domain = AppsDomain::new(&config.apps_url).ok_or_else(|| Error::AppsUrl(config.apps_url.clone()))?;
    let tokens = Tokens::new(&token_key, &config.public_api_url).map_err(Error::Assertions)?;
    let gateways = Gateways::new(store.clone(), tokens.key_set(), config.gateways.is_some())?;
    let networks = Networks::new(store.clone(), node.clone());
    let visitors = Visitors::new(store.clone(), token_key.clone(), tokens, domain.clone(), console.clone());
    let reconciler = reconciler::Reconciler::new(
        lives.clone(),
        node.clone(),
        deliveries.clone(),
        networks.clone(),
        config.timeouts,
        config.public_api_url.clone(),
    );
    let rates = Arc::new(rates::RateLimiter::new(config.plans));
    let domains = Domains::new(&token_key, &config.dns).map_err(Error::Dns)?;
    let apps = service::apps::Apps::new(
        store.clone(),
        gateways.clone(),
        networks.clone(),
        domain,
        domains,
        config.plans,
    );
    let environments = service::environment::Environments::new(lives.clone(), deliveries);
    let workspaces = service::workspaces::Workspaces::new(lives.clone(), node.clone(), config.plans);
    let app = api::App(Arc::new(api::Parts {
        rates: rates.clone(),
        auth: auth::Auth::new(store.clone(), token_key.clone(), console.clone()),
        devices: service::devices::Devices::new(store.clone(), token_key.clone()),
        sign_in: service::sign_in::SignIn::new(store.clone(), token_key.clone(), mailer, console.clone()),
        console,
        networks: networks.clone(),
        quick_deploy: service::quick_deploy::QuickDeploy::new(
            workspaces.clone(),
            environments.clone(),
            apps.clone(),
        ),
        app_services: service::app_services::AppServices::new(store.clone(), guests.clone(), apps.clone()),
        apps,
        gateways: gateways.clone(),
        visitors: visitors.clone(),
        audit: service::audit::Audit::new(store.clone()),
        environments,
        keys: service::api_keys::ApiKeys::new(store.clone(), token_key),
        users: service::users::Users::new(store.clone(), node.clone(), config.plans),
        workspace_logs: lives.logs().clone(),
        workspaces,
        guests: service::guests::Guests::new(lives.clone(), guests),
        machine: service::machine::Machine::new(node),
        health: service::health::Health::new(store.clone(), reconciler.synced()),
        hosts,
    }));

    let told = lives;
    let (end, ended) = watch::channel(false);
    let for_gateways = match &config.gateways {
        Some(config) => Some(gateways::service::listen(config, gateways.clone(), visitors)?),
        None => None,
    };
    let from_vms = match &config.bridge {
        Some(config) => Some(
            bridge::listen(&config.socket, config.uid)
                .map_err(|problem| Error::Socket { path: config.socket.clone(), problem })?,
        ),
        None => None,
    };
    let (bridge_app, bridge_ended) = (app.clone(), ended.clone());
    let synced = reconciler.synced();
    let work = tokio::spawn(async move {
        tokio::join!(
            reconciler.run(),
            networks.run(synced),
            gateways.run(&told),
            async {
                if let Some(serving) = for_gateways {
                    serving.await;
                }
            },
            async {
                if let Some(connections) = from_vms {
                    let router = api::bridge::router(bridge_app);
                    let _ = api::bridge::serve(connections, router, bridge_ended).await;
                }
            },
            rates.keep_small(),
        )
    });
    let serving = tokio::spawn(api::serve(listener, router(app), ended));
    info!(address = %config.api_listen, url = config.public_api_url, "the API answers");
    let stop = serving.abort_handle();
    tokio::pin!(serving);
    let outcome = tokio::select! {
        outcome = &mut serving => outcome,
        () = shutdown => {
            let _ = end.send(true);
            match tokio::time::timeout(DRAIN, &mut serving).await {
                Ok(outcome) => outcome,
                Err(_) => Ok(Ok(())),
            }
        }
    };
    stop.abort();
    work.abort();
    let _ = work.await;
    store.close().await;
    match outcome {
        Ok(served) => served.map_err(Error::Serve),
        Err(join) => Err(Error::Serve(std::io::Error::other(join))),
    }
}

fn console(config: &Config) -> Result<console::Console, Error> {
    console::Console::new(&config.console_url).ok_or_else(|| Error::ConsoleUrl(config.console_url.clone()))
}
