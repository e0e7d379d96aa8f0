//! Client connections of one worker: accepted, told apart by their first bytes, and served.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rigbox_gateway::connections::{BusyGuard, ConnectionGuard};
use rigbox_shares::AddressBlock;
use rustix::net::sockopt;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use crate::context::Client;
use crate::inbound::http1::{Guard, UpgradeFlag};
use crate::pipeline;
use crate::state::Worker;

/// Start of an HTTP/2 connection (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Maximum size of a request's head in bytes.
const MAX_HEAD_BYTES: u32 = 64 * 1024;
/// Maximum size of the read buffer of an HTTP/1 connection in bytes.
const MAX_BUFFER_BYTES: usize = 128 * 1024;
/// Maximum number of streams of an HTTP/2 connection.
const MAX_CONCURRENT_STREAMS: u32 = 128;
/// Maximum number of stream resets before a connection is closed (CVE-2023-44487, CVE-2025-8671).
const MAX_STREAM_RESETS: usize = 64;
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// Interval of TCP and HTTP/2 keep-alives.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(60);
/// Delay after a failure to accept, e.g. for lack of descriptors.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(50);
/// Time that requests in flight get when the role stops.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(3);

/// Kind of a listening socket.
#[derive(Clone)]
pub(crate) enum ListenerKind {
    Plain,
    /// Redirects clients to this port.
    RedirectToTls(u16),
    Tls(TlsAcceptor),
}

/// Accepts and serves connections until `stopped`.
pub(crate) async fn serve(
    worker: Arc<Worker>,
    listener: TcpListener,
    kind: ListenerKind,
    mut stopped: watch::Receiver<bool>,
) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stopped.wait_for(|stopped| *stopped) => break,
        };
        match accepted {
            Ok((stream, peer)) => {
                // One too many is closed at once; the client may retry.
                let place = worker.connections.open(AddressBlock::from(peer.ip())).await;
                if let Ok(guard) = place {
                    spawn(&worker, stream, peer, guard, &kind, &stopped);
                }
            }
            Err(error) => {
                tracing::warn!(%error, "failed to accept a connection");
                tokio::time::sleep(ACCEPT_RETRY_DELAY).await;
            }
        }
    }
    drop(listener);
    let drained = async {
        while !worker.connections.is_empty() {
            tokio::time::sleep(ACCEPT_RETRY_DELAY).await;
        }
    };
    drop(tokio::time::timeout(DRAIN_TIMEOUT, drained).await);
}

/// Serves one connection in a task of its own.
fn spawn(
    worker: &Arc<Worker>,
    stream: TcpStream,
    peer: SocketAddr,
    guard: ConnectionGuard,
    kind: &ListenerKind,
    stopped: &watch::Receiver<bool>,
) {
    let _ = stream.set_nodelay(true);
    let _ = sockopt::set_socket_keepalive(&stream, true)
        .and_then(|()| sockopt::set_tcp_keepidle(&stream, KEEPALIVE_INTERVAL));
    let connection = Arc::clone(guard.connection());
    let client = Client {
        address: Client::address(peer.ip()),
        ip: peer.ip().to_canonical(),
        upgrade: Arc::new(UpgradeFlag::default()),
        guard: Arc::new(guard),
        redirect_to_tls: if let ListenerKind::RedirectToTls(port) = kind { Some(*port) } else { None },
    };
    let (served_worker, stopped) = (Arc::clone(worker), stopped.clone());
    let acceptor = if let ListenerKind::Tls(acceptor) = kind { Some(acceptor.clone()) } else { None };
    let served = async move {
        match acceptor {
            // Boxed: the handshake is large, and over when HTTP starts.
            Some(acceptor) => {
                let stream = Box::pin(acceptor.accept(stream)).await?;
                serve_connection(served_worker, stream, client, stopped).await
            }
            None => serve_connection(served_worker, stream, client, stopped).await,
        }
    };
    let task = tokio::spawn(async move {
        if let Err(error) = served.await {
            tracing::debug!(%error, "client connection failed");
        }
    });
    connection.set_task(task.abort_handle());
}

type Error = Box<dyn std::error::Error + Send + Sync>;

/// Serves a connection that is not encrypted, or no longer.
async fn serve_connection<S>(
    worker: Arc<Worker>,
    mut stream: S,
    client: Client,
    stopped: watch::Receiver<bool>,
) -> Result<(), Error>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (read, is_http2) = read_preface(&mut stream).await?;
    let client = Arc::new(client);
    let connection = Arc::clone(client.guard.connection());
    let service = {
        let client = Arc::clone(&client);
        service_fn(move |request: Request<Incoming>| {
            // Before the request's task starts: the reader of HTTP/1 asks whether a request is in flight.
            let busy = BusyGuard::new(&client.guard);
            // Boxed: the request passes through many futures, and each would reserve space for it.
            pipeline::handle(Arc::clone(&worker), Arc::clone(&client), Box::new(request), busy)
        })
    };
    if is_http2 {
        let io = TokioIo::new(Guard::raw(stream, &read, connection));
        let connection = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .max_concurrent_streams(MAX_CONCURRENT_STREAMS)
            .max_pending_accept_reset_streams(MAX_STREAM_RESETS)
            .max_local_error_reset_streams(MAX_STREAM_RESETS)
            .max_header_list_size(MAX_HEAD_BYTES)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .keep_alive_interval(KEEPALIVE_INTERVAL)
            .enable_connect_protocol()
            .serve_connection(io, service);
        let connection = std::pin::pin!(connection);
        return drive(connection, stopped, |connection| connection.graceful_shutdown()).await;
    }
    let guard = Guard::new(stream, &read, Arc::clone(&client.upgrade), connection);
    let connection = http1::Builder::new()
        .header_read_timeout(None)
        .max_buf_size(MAX_BUFFER_BYTES)
        .serve_connection(TokioIo::new(guard), service)
        .with_upgrades();
    let connection = std::pin::pin!(connection);
    drive(connection, stopped, |connection| connection.graceful_shutdown()).await
}

/// Drives a connection to its end, which is a graceful one when the role stops.
async fn drive<C: Future<Output = Result<(), hyper::Error>>>(
    mut connection: std::pin::Pin<&mut C>,
    mut stopped: watch::Receiver<bool>,
    stop: impl FnOnce(std::pin::Pin<&mut C>),
) -> Result<(), Error> {
    tokio::select! {
        ended = &mut connection => return Ok(ended?),
        _ = stopped.wait_for(|stopped| *stopped) => {}
    }
    stop(connection.as_mut());
    Ok(connection.await?)
}

/// Reads the first bytes of a connection. Returns them, and whether they start HTTP/2.
async fn read_preface(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<(Vec<u8>, bool)> {
    let mut read = Vec::new();
    let mut buffer = [0; 2048];
    loop {
        let count = stream.read(&mut buffer).await?;
        read.extend_from_slice(buffer.get(..count).unwrap_or_default());
        let compared = read.len().min(PREFACE.len());
        if count == 0 || read.get(..compared) != PREFACE.get(..compared) {
            return Ok((read, false));
        }
        if compared == PREFACE.len() {
            return Ok((read, true));
        }
    }
}
