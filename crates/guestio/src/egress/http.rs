//! Check of HTTP requests of VMs with an allow-list. The VM's network redirects connections to port 80 of listed names here
//! (`checked_redirect` in the node's `vm.nft`). The HTTP library reads each request and writes it anew, so that the server reads what was
//! checked: one `Host`, which is listed, and is the same for all requests of a connection. After an upgrade to a WebSocket, bytes are
//! forwarded without inspection; any other upgrade is not passed on, because it could ask for another host.

use std::io;
use std::net::SocketAddrV4;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, HOST, HeaderName, HeaderValue, TRANSFER_ENCODING, UPGRADE};
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::{TokioIo, TokioTimer};
use rigbox_core::egress::HTTP_PORT;
use rigbox_proto::guestio::fd_request::Channel;
use tokio::net::TcpStream;
use tokio_util::task::AbortOnDropHandle;

use crate::egress::accept::serve_redirected;
use crate::egress::upstream;
use crate::vm::Vm;

const HEAD_TIMEOUT: Duration = Duration::from_secs(60);
const MAX_HEAD_BYTES: usize = 64 * 1024;
const MAX_HEADERS: usize = 256;
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

type Body = Either<Full<Bytes>, Incoming>;

/// Checks connections for as long as the VM is attached.
pub(crate) async fn run(vm: Arc<Vm>) {
    let forward = |vm: Arc<Vm>, stream, target| async move { forward(&vm, stream, target).await };
    serve_redirected(vm, Channel::HttpListener, forward).await;
}

/// Serves one connection of the VM, until it ends or its host is not listed any more.
async fn forward(vm: &Arc<Vm>, stream: TcpStream, target: SocketAddrV4) -> io::Result<()> {
    upstream::keep_alive(&stream)?;
    let connection = Arc::new(Connection {
        vm: Arc::clone(vm),
        target,
        host: OnceLock::new(),
        server: tokio::sync::Mutex::default(),
        tunnel: Mutex::default(),
    });
    let service = {
        let connection = Arc::clone(&connection);
        service_fn(move |request| respond(Arc::clone(&connection), request))
    };
    let serving = requests_reader().serve_connection(TokioIo::new(stream), service).with_upgrades();
    let serving = async {
        serving.await.map_err(io::Error::other)?;
        let tunnel = connection.tunnel.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(tunnel) = tunnel {
            // A tunnel that fails is closed like any other.
            let _ = tunnel.await;
        }
        Ok(())
    };
    let mut allow_list = vm.allow_list.subscribe();
    tokio::select! {
        served = serving => served,
        // A change of the list applies to open connections as well.
        _ = allow_list.wait_for(|list| connection.host.get().is_some_and(|host| !list.allows(host, HTTP_PORT))) => Ok(()),
    }
}

/// Returns the reader of the VM's requests.
fn requests_reader() -> hyper::server::conn::http1::Builder {
    let mut reader = hyper::server::conn::http1::Builder::new();
    reader.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).auto_date_header(false);
    reader.max_buf_size(MAX_HEAD_BYTES).max_headers(MAX_HEADERS).preserve_header_case(true);
    reader
}

/// Returns the writer of requests to a server.
fn requests_writer() -> hyper::client::conn::http1::Builder {
    let mut writer = hyper::client::conn::http1::Builder::new();
    writer.preserve_header_case(true).max_buf_size(MAX_HEAD_BYTES).max_headers(MAX_HEADERS);
    writer
}

/// Connection of the VM to port 80 of a listed name's address.
struct Connection {
    vm: Arc<Vm>,
    target: SocketAddrV4,
    /// Host of its requests, in lower case.
    host: OnceLock<String>,
    server: tokio::sync::Mutex<Option<Server>>,
    /// Both directions of a WebSocket.
    tunnel: Mutex<Option<AbortOnDropHandle<()>>>,
}

/// Connection to the server.
struct Server {
    requests: SendRequest<Incoming>,
    _connection: AbortOnDropHandle<()>,
}

async fn respond(connection: Arc<Connection>, request: Request<Incoming>) -> io::Result<Response<Body>> {
    let Some(host) = host_of(&request) else {
        return Ok(refusal(StatusCode::BAD_REQUEST, "A request to port 80 needs one valid Host."));
    };
    if !has_plain_coding(&request) {
        return Ok(refusal(
            StatusCode::BAD_REQUEST,
            "A request to port 80 has no `Transfer-Encoding` but one `chunked`.",
        ));
    }
    if !connection.vm.allow_list.borrow().allows(&host, HTTP_PORT) {
        connection.vm.refuse_checked(connection.target);
        return Ok(refusal(
            StatusCode::FORBIDDEN,
            "This host is not on the workspace's list of allowed names. Its owner can add it with `rig workspace network`.",
        ));
    }
    if *connection.host.get_or_init(|| host.clone()) != host {
        return Ok(refusal(StatusCode::MISDIRECTED_REQUEST, "Use another connection for another host."));
    }
    match exchange(&connection, request).await {
        Ok(response) => Ok(response),
        Err(error) => {
            tracing::debug!(workspace = %connection.vm.workspace_id, %error, "HTTP exchange failed");
            Ok(refusal(
                StatusCode::BAD_GATEWAY,
                "The server cannot be reached, or its response is not valid HTTP.",
            ))
        }
    }
}

/// Returns the host that a request asks for, in lower case. `None`: there is none, or two parsers could find different ones.
fn host_of<B>(request: &Request<B>) -> Option<String> {
    let mut hosts = request.headers().get_all(HOST).iter();
    let host = hosts.next()?.to_str().ok()?.to_ascii_lowercase();
    let in_target = request.uri().authority().map(|authority| authority.as_str().to_ascii_lowercase());
    if hosts.next().is_some()
        || request.method() == Method::CONNECT
        || in_target.is_some_and(|other| other != host)
    {
        return None;
    }
    let name = match host.split_once(':') {
        None => host.as_str(),
        Some((name, port)) => (port == "80").then_some(name)?,
    };
    Some(name.strip_suffix('.').unwrap_or(name).to_owned())
}

/// Returns whether all servers find the same end of the body: one that does not know a further coding could take a part for a request.
fn has_plain_coding<B>(request: &Request<B>) -> bool {
    let mut codings = request.headers().get_all(TRANSFER_ENCODING).iter();
    let first = codings.next();
    first.is_none_or(|coding| coding.as_bytes().eq_ignore_ascii_case(b"chunked")) && codings.next().is_none()
}

/// Sends a request to the server, and returns its response.
async fn exchange(connection: &Connection, mut request: Request<Incoming>) -> io::Result<Response<Body>> {
    let upgrade = prepare(&mut request)?;
    let mut server = connection.server.lock().await;
    if server.as_ref().is_none_or(|server| server.requests.is_closed()) {
        *server = Some(connect(connection).await?);
    }
    let Some(Server { requests, .. }) = server.as_mut() else {
        return Err(io::ErrorKind::NotConnected.into());
    };
    requests.ready().await.map_err(io::Error::other)?;
    let mut response = requests.send_request(request).await.map_err(io::Error::other)?;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let client = upgrade.ok_or_else(|| io::Error::other("the server switches protocols unasked"))?;
        let upstream = hyper::upgrade::on(&mut response);
        let tunnel = tokio::spawn(async move {
            if let (Ok(client), Ok(upstream)) = tokio::join!(client, upstream) {
                let (mut client, mut upstream) = (TokioIo::new(client), TokioIo::new(upstream));
                // A failed connection is the guest's concern.
                let _ = tokio::io::copy_bidirectional(&mut client, &mut upstream).await;
            }
        });
        *connection.tunnel.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(AbortOnDropHandle::new(tunnel));
    }
    Ok(response.map(Either::Right))
}

/// Makes a request one to the server. Returns its upgrade, if it asks for one that is passed on.
fn prepare<B>(request: &mut Request<B>) -> io::Result<Option<OnUpgrade>> {
    let path =
        request.uri().path_and_query().cloned().ok_or_else(|| io::Error::other("the request has no path"))?;
    *request.uri_mut() = Uri::from(path);
    match request.headers().get(UPGRADE) {
        None => Ok(None),
        Some(protocol) if protocol.as_bytes().eq_ignore_ascii_case(b"websocket") => {
            Ok(Some(hyper::upgrade::on(request)))
        }
        Some(_) => {
            let headers = request.headers_mut();
            for name in [UPGRADE, CONNECTION, HTTP2_SETTINGS] {
                headers.remove(name);
            }
            Ok(None)
        }
    }
}

async fn connect(connection: &Connection) -> io::Result<Server> {
    let stream = upstream::connect(&connection.vm, connection.target).await?;
    let handshake = requests_writer().handshake(TokioIo::new(stream));
    let (requests, driver) = handshake.await.map_err(io::Error::other)?;
    let driver = tokio::spawn(async move {
        // Its failure is that of the exchange.
        let _ = driver.with_upgrades().await;
    });
    Ok(Server { requests, _connection: AbortOnDropHandle::new(driver) })
}

/// Builds a response of our own, after which the connection is closed.
fn refusal(status: StatusCode, message: &'static str) -> Response<Body> {
    let mut response = Response::new(Either::Left(Full::from(format!("{message}\n"))));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests;
