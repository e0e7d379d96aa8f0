//! The control role: the HTTP API, the services behind it, and the reconciler that moves workspaces to where their
//! owners want them. It holds the database, and speaks with the node and guestio over unix sockets.

use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rigbox_core::ids::UserId;
use rigbox_core::plans::Plans;
use rigbox_store::secret::{ApiKey, TokenKey};
use rigbox_store::{Act, NewKey, Store};
use tokio::sync::watch;
use tracing::info;

mod api;
mod auth;
mod changes;
mod clock;
mod feed;
mod guest_client;
mod node_client;
mod rates;
mod reconciler;
mod service;
mod unix;

pub use rigbox_core::lifecycle::Timeouts;

/// After a signal to end, answers under way get this long.
const DRAIN: Duration = Duration::from_secs(3);

/// What the control role needs to know.
#[derive(Debug, Clone)]
pub struct Config {
    /// The SQLite file; made where there is none.
    pub database: PathBuf,
    /// File of the key that tokens are hashed with; made where there is none.
    pub token_key: PathBuf,
    /// Where the HTTP API listens.
    pub api_listen: SocketAddr,
    /// How clients reach it, e.g. `http://localhost:7070`.
    pub public_api_url: String,
    /// The node's socket.
    pub node_socket: PathBuf,
    /// guestio's socket.
    pub guestio_socket: PathBuf,
    /// How long transient states may last.
    pub timeouts: Timeouts,
    /// What the plans are, where it is not the default.
    pub plans: Plans,
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
    /// The installation has its first user already.
    #[error("there is a first user already; `rigboxd admin-key` prints a further key of theirs")]
    UserExists,
    /// The installation has no user yet.
    #[error("there is no user yet: bootstrap first")]
    NoUser,
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
    let hosts = api::AllowedHosts::new(&config.public_api_url, config.api_listen)
        .ok_or_else(|| Error::PublicUrl(config.public_api_url.clone()))?;
    let token_key = TokenKey::load_or_create(&config.token_key)?;
    let store = Store::open(&config.database, &token_key).await?;
    let listener = tokio::net::TcpListener::bind(config.api_listen)
        .await
        .map_err(|problem| Error::Listen { address: config.api_listen, problem })?;

    let lives = changes::Lives::new(store.clone());
    let node = node_client::NodeClient::new(&config.node_socket);
    let guests = guest_client::GuestClient::new(&config.guestio_socket);
    let reconciler = reconciler::Reconciler::new(
        lives.clone(),
        node.clone(),
        config.timeouts,
        config.public_api_url.clone(),
    );
    let rates = Arc::new(rates::Rates::new(config.plans));
    let app = api::App(Arc::new(api::Parts {
        rates: rates.clone(),
        auth: auth::Auth::new(store.clone(), token_key.clone()),
        audit: service::audit::Audit::new(store.clone()),
        keys: service::api_keys::ApiKeys::new(store.clone(), token_key),
        users: service::users::Users::new(store.clone(), node.clone(), config.plans),
        workspaces: service::workspaces::Workspaces::new(lives.clone(), node.clone(), config.plans),
        guests: service::guests::Guests::new(lives, guests),
        machine: service::machine::Machine::new(node),
        health: service::health::Health::new(store.clone(), reconciler.synced()),
        hosts,
    }));

    let (end, ended) = watch::channel(false);
    let work = tokio::spawn(async move { tokio::join!(reconciler.run(), rates.keep_small()) });
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

/// What [`bootstrap`] made.
#[derive(Debug, Clone)]
pub struct Bootstrap {
    /// The first user.
    pub user_id: UserId,
    /// The user's key: shown once, stored as a hash.
    pub api_key: ApiKey,
}

/// Makes the installation's first user, its administrator, with one API key.
pub async fn bootstrap(database: &Path, token_key: &Path, email: &str) -> Result<Bootstrap, Error> {
    let token_key = TokenKey::load_or_create(token_key)?;
    let store = Store::open(database, &token_key).await?;
    let api_key = ApiKey::mint()?;
    let record = NewKey::of(&api_key, "bootstrap", &token_key);
    let made = store.create_first_user(email, &record, clock::now()).await;
    store.close().await;
    match made {
        Ok(user_id) => Ok(Bootstrap { user_id, api_key }),
        Err(rigbox_store::Error::UserExists) => Err(Error::UserExists),
        Err(other) => Err(other.into()),
    }
}

/// Follows the audit log's chain: how many entries it has, or the first that does not fit.
pub async fn verify_audit(database: &Path, token_key: &Path) -> Result<Result<u64, i64>, Error> {
    let store = Store::open(database, &TokenKey::load_or_create(token_key)?).await?;
    let verdict = store.verify_audit().await?;
    store.close().await;
    Ok(verdict)
}

/// A further key of the first user, for when the saved one was lost. Whoever can read the database may do this.
pub async fn mint_key(database: &Path, token_key: &Path, name: &str) -> Result<Bootstrap, Error> {
    let token_key = TokenKey::load_or_create(token_key)?;
    let store = Store::open(database, &token_key).await?;
    let api_key = ApiKey::mint()?;
    let record = NewKey::of(&api_key, name, &token_key);
    let user = store.first_user().await?.ok_or(Error::NoUser)?;
    let act = Act::on_machine(&user.id, "key.create", "");
    store.add_key(&user.id, &record, u32::MAX, None, act, clock::now()).await?;
    store.close().await;
    Ok(Bootstrap { user_id: user.id, api_key })
}
