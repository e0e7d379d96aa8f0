//! Client of the providers: connections are pooled, by HTTP/2 where it is offered, to configured hosts only. No proxy, no redirect and no
//! certificate is taken from the environment.

use std::collections::HashMap;
use std::error::Error as StdError;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::ResolverConfig;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::{Builder, Client, Error};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rigbox_core::ids::WorkspaceId;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

use crate::config::Limits;
use crate::connect::{Connector, ProxyConfigError, ProxyError, ReadyProxy};
use crate::setup::{Key, Upstream};

/// Part of an answer that a provider may send over HTTP/2 before its client has read on, in bytes.
const STREAM_WINDOW_BYTES: u32 = 256 << 10;
/// Largest window of HTTP/2.
const MAX_WINDOW_BYTES: u32 = (1 << 31) - 1;
/// Idle connections to one host.
const MAX_IDLE_CONNECTIONS: usize = 64;
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// Time for which a key is not used that the provider has refused.
const REFUSED_KEY_COOL_DOWN: Duration = Duration::from_secs(300);
/// Time for which a key is not used that has reached a limit, unless the provider names one.
const LIMITED_KEY_COOL_DOWN: Duration = Duration::from_secs(30);
/// Longest time that a provider's `Retry-After` keeps a key unused.
const MAX_COOL_DOWN: Duration = Duration::from_secs(900);
/// Workspaces whose organization is remembered.
const MAX_REMEMBERED: usize = 10_000;

/// Error while the client is made.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// A file with certificates cannot be read.
    #[error("cannot read the certificates in {0}: {1}")]
    Certificates(std::path::PathBuf, String),
    /// The proxy's user and password cannot be read.
    #[error(transparent)]
    Proxy(#[from] ProxyConfigError),
    /// The resolver cannot be made.
    #[error("cannot make the resolver: {0}")]
    Resolver(String),
    /// TLS cannot be set up.
    #[error("cannot set up TLS: {0}")]
    Tls(#[from] rustls::Error),
}

/// Certificates of authorities, read before the role's root is changed.
pub(crate) fn authorities(extra: Option<&Path>) -> Result<RootCertStore, ClientError> {
    let mut roots = RootCertStore::empty();
    let system = rustls_native_certs::load_native_certs();
    for problem in system.errors {
        tracing::warn!(%problem, "a certificate of the system cannot be used");
    }
    roots.add_parsable_certificates(system.certs);
    if let Some(path) = extra {
        let failed = |problem: String| ClientError::Certificates(path.to_owned(), problem);
        let file = CertificateDer::pem_file_iter(path).map_err(|problem| failed(problem.to_string()))?;
        for certificate in file {
            let certificate = certificate.map_err(|problem| failed(problem.to_string()))?;
            roots.add(certificate).map_err(|problem| failed(problem.to_string()))?;
        }
    }
    Ok(roots)
}

/// Resolver of the providers' names, made before the role's root is changed, because it reads the host's files.
pub(crate) fn resolver() -> Result<TokioResolver, ClientError> {
    let builder = TokioResolver::builder_tokio().unwrap_or_else(|error| {
        tracing::warn!(%error, "the host's resolvers cannot be read; only upstreams with an address are reached");
        TokioResolver::builder_with_config(ResolverConfig::default(), TokioRuntimeProvider::default())
    });
    builder.build().map_err(|error| ClientError::Resolver(error.to_string()))
}

/// Returns the configuration of TLS with these authorities.
pub(crate) fn tls(roots: RootCertStore) -> Result<ClientConfig, ClientError> {
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let tls = ClientConfig::builder_with_provider(provider.into()).with_safe_default_protocol_versions()?;
    Ok(tls.with_root_certificates(roots).with_no_client_auth())
}

type ProviderClient = Client<HttpsConnector<Connector>, Full<Bytes>>;

/// Client of all providers.
pub(crate) struct Upstreams {
    builder: Builder,
    connector: HttpsConnector<Connector>,
    /// Client of each workspace, and when it was last used. No two share a connection: over HTTP/2 they would share what a provider lets
    /// be open and unread on one.
    of_workspaces: Mutex<HashMap<WorkspaceId, (ProviderClient, Instant)>>,
    /// Client whose connections close after a request: the buffers of those that stay would keep its key in memory.
    single: ProviderClient,
    keys: Keys,
}

impl Upstreams {
    pub(crate) fn new(
        tls: ClientConfig,
        resolver: TokioResolver,
        limits: &Limits,
        proxy: Option<ReadyProxy>,
    ) -> Self {
        let connector = hyper_rustls::HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_all_versions()
            .wrap_connector(Connector::new(resolver, limits.connect, proxy));
        let mut builder = Client::builder(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(MAX_IDLE_CONNECTIONS)
            // Windows add up: a connection's is that of all calls that it may have, so none that nobody reads holds up another one.
            .http2_initial_stream_window_size(STREAM_WINDOW_BYTES)
            .http2_initial_connection_window_size(connection_window(limits.calls_per_workspace))
            .http2_keep_alive_interval(Duration::from_secs(30));
        let single = builder.clone().pool_max_idle_per_host(0).build(connector.clone());
        Self { builder, connector, of_workspaces: Mutex::default(), single, keys: Keys::default() }
    }

    /// Makes a request of a workspace. It is made again only where nothing of it was sent, on a connection that the provider had closed.
    pub(crate) async fn send(
        &self,
        workspace: &WorkspaceId,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, Error> {
        let client = self.client_of(workspace, Instant::now());
        client.request(request).await
    }

    /// Returns the client of a workspace. Those that have no connection any more are forgotten.
    fn client_of(&self, workspace: &WorkspaceId, now: Instant) -> ProviderClient {
        let mut clients = self.of_workspaces.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((client, last_used)) = clients.get_mut(workspace) {
            *last_used = now;
            return client.clone();
        }
        clients.retain(|_, (_, last_used)| now.saturating_duration_since(*last_used) < IDLE_TIMEOUT);
        let client: ProviderClient = self.builder.build(self.connector.clone());
        clients.insert(workspace.clone(), (client.clone(), now));
        client
    }

    /// Makes a request on a connection of its own, with a user's own key, which is not kept, or for the operator.
    pub(crate) async fn send_once(&self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, Error> {
        self.single.request(request).await
    }

    /// Returns the upstream's keys in the order in which they are tried for a workspace. What a provider has encrypted or signed is of use
    /// in the same organization only: its keys come first, and with `is_tied` no others.
    pub(crate) fn keys(&self, workspace: &WorkspaceId, upstream: &Upstream, is_tied: bool) -> Vec<Key> {
        self.keys.ordered(workspace, upstream, is_tied, Instant::now())
    }

    /// Remembers that a key has served a workspace.
    pub(crate) fn remember(&self, workspace: &WorkspaceId, upstream: &Upstream, key: &Key) {
        self.keys.remember(workspace, upstream, key);
    }

    /// Has a key rest that a provider did not take. Returns false if the status does not speak of the key.
    pub(crate) fn rest<B>(&self, key: &Key, response: &Response<B>) -> bool {
        self.keys.rest(key, response, Instant::now())
    }
}

/// Returns the window of a connection with so many calls.
fn connection_window(calls: usize) -> u32 {
    let calls = u32::try_from(calls).unwrap_or(u32::MAX);
    STREAM_WINDOW_BYTES.saturating_mul(calls.max(1)).min(MAX_WINDOW_BYTES)
}

/// Returns an error with its causes.
pub(crate) fn chain(error: &(dyn StdError + 'static)) -> String {
    causes(error).map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// Tells if the operator's proxy is what failed.
pub(crate) fn is_of_proxy(error: &(dyn StdError + 'static)) -> bool {
    causes(error).any(<dyn StdError>::is::<ProxyError>)
}

fn causes<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}

/// What is known of keys in this run.
#[derive(Default)]
struct Keys {
    resting: Mutex<HashMap<String, Instant>>,
    organizations: Mutex<HashMap<(WorkspaceId, String), String>>,
}

impl Keys {
    fn ordered(&self, workspace: &WorkspaceId, upstream: &Upstream, is_tied: bool, now: Instant) -> Vec<Key> {
        let mut resting = self.resting.lock().unwrap_or_else(PoisonError::into_inner);
        resting.retain(|_, until| *until > now);
        let remembered = self.organizations.lock().unwrap_or_else(PoisonError::into_inner);
        let organization = remembered.get(&(workspace.clone(), upstream.name.clone())).cloned();
        let organization = organization
            .filter(|organization| upstream.keys.iter().any(|key| key.organization == *organization))
            .or_else(|| upstream.keys.first().map(|key| key.organization.clone()));
        let is_own = |key: &Key| Some(&key.organization) == organization.as_ref();
        let mut keys: Vec<_> = upstream.keys.iter().filter(|key| !is_tied || is_own(key)).cloned().collect();
        // Stable, so that the operator's order holds among equals. One that rests is better than none.
        keys.sort_by_key(|key| (resting.contains_key(&key.id), !is_own(key)));
        keys
    }

    fn remember(&self, workspace: &WorkspaceId, upstream: &Upstream, key: &Key) {
        let mut organizations = self.organizations.lock().unwrap_or_else(PoisonError::into_inner);
        if organizations.len() >= MAX_REMEMBERED {
            organizations.clear();
        }
        organizations.insert((workspace.clone(), upstream.name.clone()), key.organization.clone());
    }

    fn rest<B>(&self, key: &Key, response: &Response<B>, now: Instant) -> bool {
        let time = match response.status().as_u16() {
            401 | 403 => REFUSED_KEY_COOL_DOWN,
            429 => {
                let named = response.headers().get(http::header::RETRY_AFTER);
                let seconds = named.and_then(|value| value.to_str().ok()).and_then(|text| text.parse().ok());
                seconds.map_or(LIMITED_KEY_COOL_DOWN, Duration::from_secs).min(MAX_COOL_DOWN)
            }
            _ => return false,
        };
        tracing::warn!(
            key = key.id,
            status = response.status().as_u16(),
            ?time,
            "the provider did not take a key; it rests"
        );
        self.resting.lock().unwrap_or_else(PoisonError::into_inner).insert(key.id.clone(), now + time);
        true
    }
}
