//! The role: takes connections of VMs from the node, answers what is for a provider, and passes on what is for control.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hickory_resolver::TokioResolver;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rigbox_core::ai::environment::KeyOwner;
use rigbox_core::ids::WorkspaceId;
use rigbox_proto::bridge_requests;
use rigbox_proto::handover::{self, GuestPeer};
use rigbox_shares::{Bounds, Shares};
use rustls::RootCertStore;
use tokio::net::TcpStream;

use crate::body::Bodies;
use crate::bridge::{Api, ApiConnection};
use crate::call::{self, Arrived};
use crate::config::Config;
use crate::connect::ReadyProxy;
use crate::control::Control;
use crate::error::{CallError, ErrorKind, Form};
use crate::free_calls::FreeCalls;
use crate::key_tests;
use crate::ledger::Ledger;
use crate::models;
use crate::proxied;
use crate::public_hosts::PublicHosts;
use crate::pump;
use crate::response::{ResponseBody, full};
use crate::route::{self, Call, Kind, Route};
use crate::state::State;
use crate::table::InvalidTable;
use crate::tables::Tables;
use crate::upstream::{self, ClientError, Upstreams};

/// Timeout for the head of a request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// Buffer of a connection in bytes: a head has to fit into it.
const MAX_BUFFER_BYTES: usize = 64 << 10;
/// Time for calls to end at a shutdown. What is open then is settled at its bound.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
/// Paths of the API in a VM.
const API_PREFIX: &str = "/rig/";

/// Error that ends the role.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The client of providers cannot be made.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// A table that ships is not valid.
    #[error("a table of fields is not valid: {0}")]
    Table(#[from] InvalidTable),
    /// There is no random number.
    #[error("there is no random number: {0}")]
    Random(#[from] getrandom::Error),
    /// A socket cannot be created.
    #[error("cannot listen on {0}: {1}")]
    Listen(std::path::PathBuf, std::io::Error),
}

/// Role with what it has read from the host's files.
pub struct Bound {
    config: Config,
    authorities: RootCertStore,
    resolver: TokioResolver,
    proxy: Option<ReadyProxy>,
}

/// Reads the host's certificates, resolvers and the password of a proxy, before the role's root is changed.
///
/// # Errors
/// A file cannot be read.
pub fn bind(config: Config) -> Result<Bound, Error> {
    let authorities = upstream::authorities(config.extra_authorities.as_deref())?;
    let proxy = config.proxy.as_ref().map(ReadyProxy::read).transpose().map_err(ClientError::from)?;
    Ok(Bound { config, authorities, resolver: upstream::resolver()?, proxy })
}

impl Bound {
    /// Serves until `shutdown` resolves.
    ///
    /// # Errors
    /// The role cannot begin.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<(), Error> {
        let Self { config, authorities, resolver, proxy } = self;
        let tls = upstream::tls(authorities)?;
        let hosts = match proxy {
            Some(_) => None,
            None => {
                let hosts = PublicHosts::new(
                    tls.clone(),
                    &config.dns,
                    config.blocked_networks,
                    config.limits.connect,
                );
                Some(hosts.map_err(|error| ClientError::Resolver(error.to_string()))?)
            }
        };
        let control = Arc::new(Control::new(&config.control_socket, random_id()?, Tables::built_in()?));
        let limits = config.limits;
        let state = Arc::new(State {
            control: control.clone(),
            ledger: Arc::new(Ledger::new(&config.control_socket)),
            upstreams: Upstreams::new(tls, resolver, &limits, proxy),
            public_hosts: hosts,
            proxied: Shares::new(proxied::REQUESTS),
            proxied_of_users: Shares::new(proxied::REQUESTS_OF_USERS),
            api: Api::new(config.api_socket),
            bodies: Bodies::new(limits.body_bytes, limits.upload),
            // Calls, per workspace.
            calls: Shares::new(Bounds { total: limits.calls, per_key: limits.calls_per_workspace }),
            free_calls: FreeCalls::new(limits.free_calls_per_minute),
            drains: pump::drains(),
            large_responses: pump::large_responses(),
            limits,
        });
        let mut connections = handover::listen(&config.bridge.socket, config.bridge.uid)
            .map_err(|error| Error::Listen(config.bridge.socket.clone(), error))?;
        let operator = key_tests::listen(&config.operator, state.clone())
            .map_err(|error| Error::Listen(config.operator.socket.clone(), error))?;
        let tasks = tokio_util::task::TaskTracker::new();
        tokio::pin!(shutdown);
        let background = async { tokio::join!(control.watch(), operator) };
        tokio::pin!(background);
        loop {
            tokio::select! {
                () = &mut shutdown => break,
                _ = &mut background => break,
                connection = connections.recv() => {
                    let Some((stream, peer)) = connection else { break };
                    tasks.spawn(serve(state.clone(), stream, peer));
                }
            }
        }
        tasks.close();
        let _ = tokio::time::timeout(DRAIN_TIMEOUT, tasks.wait()).await;
        Ok(())
    }
}

/// Returns 128 random bits in hexadecimal.
fn random_id() -> Result<String, getrandom::Error> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)?;
    Ok(format!("{:032x}", u128::from_be_bytes(bytes)))
}

/// Returns an id for a call: the time in milliseconds and 80 random bits, in hexadecimal. Calls that follow each other are neighbors in the
/// ledger's index, so that a commit writes few of its pages.
fn call_id(now: SystemTime) -> Result<String, getrandom::Error> {
    let mut random = [0; 16];
    getrandom::fill(&mut random)?;
    let ms = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
    Ok(format!("{:032x}", (ms << 80) | (u128::from_be_bytes(random) >> 48)))
}

/// Serves one connection of a VM.
async fn serve(state: Arc<State>, stream: TcpStream, peer: GuestPeer) {
    // Pieces of a stream are small and must not wait for more.
    let _ = stream.set_nodelay(true);
    let api = Arc::new(state.api.connection(&peer.workspace_id));
    let Ok(workspace) = peer.workspace_id.parse::<WorkspaceId>() else { return };
    let service = service_fn(move |request| {
        let (state, workspace, api) = (state.clone(), workspace.clone(), api.clone());
        // hyper keeps the place of a future for as long as the connection, and a stream may be open for long.
        Box::pin(async move { Ok::<_, Infallible>(respond(state, workspace, &api, request).await) })
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(MAX_BUFFER_BYTES);
    // Errors of a connection concern only its client.
    let _ = http.serve_connection(TokioIo::new(stream), service).await;
    drop(peer);
}

async fn respond(
    state: Arc<State>,
    workspace: WorkspaceId,
    api: &ApiConnection,
    request: Request<Incoming>,
) -> Response<ResponseBody> {
    if request.uri().path().starts_with(API_PREFIX) {
        return Box::pin(forward(api, request)).await;
    }
    if request.uri().path().starts_with(proxied::PATH) {
        return match refusal(request.headers(), request.uri()) {
            None => Box::pin(proxied::answer(&state, &workspace, request)).await,
            Some(text) => proxied::refused(text),
        };
    }
    let (owner, path) = route::owner(request.uri().path());
    let Route { provider, kind } = route::find(request.method(), path, request.headers());
    let is_responses = matches!(kind, Kind::Call(Call::OpenAiResponses | Call::OpenAiCount));
    let form = |call_id| Form { provider, is_responses, call_id };
    let Ok(call_id) = call_id(SystemTime::now()) else {
        let error = CallError::new(ErrorKind::Unavailable, "There is no random number.");
        return form(String::new()).response(&error).map(full);
    };
    let form = form(call_id);
    let refuse = |kind, text: &str| form.response(&CallError::new(kind, text)).map(full);
    if let Some(text) = refusal(request.headers(), request.uri()) {
        return refuse(ErrorKind::NotAllowed, text);
    }
    match kind {
        Kind::Hello => Response::new(full(bytes::Bytes::new())),
        Kind::WebSocket => refuse(
            ErrorKind::UpgradeRequired,
            "The proxy does not speak WebSocket here. Make a POST request.",
        ),
        Kind::Unknown => refuse(
            ErrorKind::NotFound,
            "The proxy does not have this path. It serves messages, chat completions, responses, embeddings, generateContent and models.",
        ),
        Kind::Models | Kind::Model(_) if owner == KeyOwner::User => refuse(
            ErrorKind::NotFound,
            "With a key of your own, every model of the provider may be named. The proxy has no list of them.",
        ),
        Kind::Models => Box::pin(list(&state, &workspace, &form, None)).await,
        Kind::Model(name) => Box::pin(list(&state, &workspace, &form, Some(&name))).await,
        Kind::Call(call) => {
            let (parts, body) = request.into_parts();
            let query = parts.uri.query().map(str::to_owned);
            let arrived = Arrived { workspace, owner, call, form, headers: parts.headers, query };
            call::answer(state, arrived, body).await
        }
    }
}

/// Passes a request on to control, which checks it itself.
async fn forward(api: &ApiConnection, request: Request<Incoming>) -> Response<ResponseBody> {
    match api.forward(request).await {
        Ok(response) => response.map(|body| body.map_err(std::io::Error::other).boxed_unsync()),
        Err(error) => {
            tracing::warn!(%error, "failed to pass a request of a VM on to control");
            let body =
                r#"{"error":{"code":"not_ready","message":"The API does not answer now. Try again."}}"#;
            let mut response = Response::new(full(body.into()));
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
            response
                .headers_mut()
                .insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
            response
        }
    }
}

/// Answers with the models that the workspace may use, or one of them.
async fn list(
    state: &State,
    workspace: &WorkspaceId,
    form: &Form,
    name: Option<&str>,
) -> Response<ResponseBody> {
    let provider = form.provider;
    let refuse = |kind, text: &str| form.response(&CallError::new(kind, text)).map(full);
    let Some(setup) = state.control.setup() else {
        return refuse(ErrorKind::Unavailable, "The AI proxy is not ready. Try again.");
    };
    let allowed = match state.control.models(workspace, provider).await {
        Ok(allowed) => allowed,
        Err(status) => {
            tracing::warn!(%status, "failed to list the models of a workspace");
            return refuse(ErrorKind::Unavailable, "The list of models is not available now. Try again.");
        }
    };
    let models: Vec<_> =
        allowed.iter().filter_map(|name| setup.model(provider, name).map(|(model, _)| model)).collect();
    match name {
        None => models::list(provider, &models),
        Some(name) => match models.iter().find(|model| model.id == name) {
            Some(model) => models::get(provider, model),
            None => refuse(ErrorKind::NotFound, "This model is not offered here."),
        },
    }
}

/// Returns the reason for refusing a request. `Sec-Fetch-Mode` alone says nothing about pages, because Node's `fetch` sends it.
fn refusal(headers: &HeaderMap, uri: &http::Uri) -> Option<&'static str> {
    bridge_requests::refusal(headers, uri, |name| name == "sec-fetch-site")
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST_NAME: &str = "172.16.0.1:9090";

    #[test]
    fn ids_of_calls_are_in_their_order_and_never_the_same() {
        let id = |ms| call_id(UNIX_EPOCH + Duration::from_millis(ms)).unwrap();
        let (first, second, later) = (id(1_800_000_000_000), id(1_800_000_000_000), id(1_800_000_000_001));
        assert!(first != second && first < later && second < later);
        assert_eq!([first.len(), id(0).len(), id(u64::MAX >> 16).len()], [32; 3]);
    }

    #[test]
    fn requests_of_pages_and_proxies_are_refused() {
        let refused = |pairs: &[(&'static str, &'static str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                headers.append(*name, http::HeaderValue::from_static(value));
            }
            refusal(&headers, &http::Uri::from_static("/v1/messages")).is_some()
        };
        assert!(!refused(&[("host", HOST_NAME), ("sec-fetch-mode", "cors")]));
        assert!(refused(&[("host", HOST_NAME), ("sec-fetch-site", "none")]));
        assert!(refused(&[("host", HOST_NAME), ("origin", "null")]));
        assert!(refused(&[("host", HOST_NAME), ("via", "1.1 x")]));
        assert!(refused(&[("host", "evil.example:9090")]));
        assert!(refused(&[]));
    }
}
