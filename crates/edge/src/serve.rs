//! Clients' connections on one core: taken, told apart by their first bytes, and served.

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
use rustix::net::sockopt;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use crate::Core;
use crate::exchange::Busy;
use crate::handle::{Client, handle};
use crate::strict::{Strict, Switch};

/// What an HTTP/2 connection begins with (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Largest head, bytes.
const LARGEST_HEAD: u32 = 64 * 1024;
const LARGEST_BUFFER: usize = 128 * 1024;
const STREAMS: u32 = 128;
/// Resets of streams before a connection is given up (CVE-2023-44487, CVE-2025-8671).
const RESETS: usize = 64;
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// A peer that has gone is noticed.
const ALIVE: Duration = Duration::from_secs(60);
/// After a shortage of descriptors.
const PAUSE: Duration = Duration::from_millis(50);
/// For what is under way when the role ends.
const END_WITHIN: Duration = Duration::from_secs(3);

/// What stands at a port.
#[derive(Clone)]
pub(crate) enum Entrance {
    Plain,
    /// Clients are sent to that port.
    ToTls(u16),
    Tls(TlsAcceptor),
}

/// Takes connections until `stopped`.
pub(crate) async fn serve(
    core: Arc<Core>,
    listener: TcpListener,
    entrance: Entrance,
    mut stopped: watch::Receiver<bool>,
) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stopped.wait_for(|stopped| *stopped) => break,
        };
        match accepted {
            Ok((stream, peer)) => take(&core, stream, peer, &entrance, &stopped),
            Err(error) => {
                tracing::warn!(%error, "a connection cannot be taken");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
    drop(listener);
    let empty = async {
        while !core.lines.is_empty() {
            tokio::time::sleep(PAUSE).await;
        }
    };
    drop(tokio::time::timeout(END_WITHIN, empty).await);
}

fn take(
    core: &Arc<Core>,
    stream: TcpStream,
    peer: SocketAddr,
    entrance: &Entrance,
    stopped: &watch::Receiver<bool>,
) {
    // Too many: closed at once, which the client may try again.
    let Some(place) = core.lines.open() else { return };
    let _ = stream.set_nodelay(true);
    let _ =
        sockopt::set_socket_keepalive(&stream, true).and_then(|()| sockopt::set_tcp_keepidle(&stream, ALIVE));
    let key = place.key();
    let client = Client {
        address: Client::address(peer.ip()),
        switch: Arc::new(Switch::default()),
        place: Arc::new(place),
        to_tls: if let Entrance::ToTls(port) = entrance { Some(*port) } else { None },
    };
    let (core_of_it, stopped) = (Arc::clone(core), stopped.clone());
    let acceptor = if let Entrance::Tls(acceptor) = entrance { Some(acceptor.clone()) } else { None };
    let served = async move {
        match acceptor {
            // Boxed: it is large, and over when the connection begins.
            Some(acceptor) => {
                let stream = Box::pin(acceptor.accept(stream)).await?;
                connection(core_of_it, stream, client, stopped).await
            }
            None => connection(core_of_it, stream, client, stopped).await,
        }
    };
    let task = tokio::spawn(async move {
        if let Err(error) = served.await {
            tracing::debug!(%error, "a client's connection ended");
        }
    });
    core.lines.is_served(key, task.abort_handle());
}

type Error = Box<dyn std::error::Error + Send + Sync>;

/// Serves what is not encrypted, or not any more.
async fn connection<S>(
    core: Arc<Core>,
    mut stream: S,
    client: Client,
    stopped: watch::Receiver<bool>,
) -> Result<(), Error>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (begun, second) = first_bytes(&mut stream).await?;
    let client = Arc::new(client);
    let line = Arc::clone(&client.place.line);
    let service = {
        let client = Arc::clone(&client);
        service_fn(move |request: Request<Incoming>| {
            // Before the request's task begins: the stream asks whether one is under way.
            let busy = Busy::new(&client.place);
            // Boxed: it goes through many hands, and each that waits would keep room for it.
            handle(Arc::clone(&core), Arc::clone(&client), Box::new(request), busy)
        })
    };
    if second {
        let io = TokioIo::new(Strict::raw(stream, &begun, line));
        let connection = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS)
            .max_pending_accept_reset_streams(RESETS)
            .max_local_error_reset_streams(RESETS)
            .max_header_list_size(LARGEST_HEAD)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .keep_alive_interval(ALIVE)
            .enable_connect_protocol()
            .serve_connection(io, service);
        let connection = std::pin::pin!(connection);
        return until(connection, stopped, |connection| connection.graceful_shutdown()).await;
    }
    let strict = Strict::new(stream, &begun, Arc::clone(&client.switch), line);
    let connection = http1::Builder::new()
        .header_read_timeout(None)
        .max_buf_size(LARGEST_BUFFER)
        .serve_connection(TokioIo::new(strict), service)
        .with_upgrades();
    let connection = std::pin::pin!(connection);
    until(connection, stopped, |connection| connection.graceful_shutdown()).await
}

/// Drives a connection, and lets it end in order when the role ends.
async fn until<C: Future<Output = Result<(), hyper::Error>>>(
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

/// What a client says first, and whether that begins HTTP/2.
async fn first_bytes(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<(Vec<u8>, bool)> {
    let mut begun = Vec::new();
    let mut room = [0; 2048];
    loop {
        let count = stream.read(&mut room).await?;
        begun.extend_from_slice(room.get(..count).unwrap_or_default());
        let known = begun.len().min(PREFACE.len());
        if count == 0 || begun.get(..known) != PREFACE.get(..known) {
            return Ok((begun, false));
        }
        if known == PREFACE.len() {
            return Ok((begun, true));
        }
    }
}
