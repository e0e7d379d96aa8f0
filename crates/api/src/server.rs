//! Connections of the API: their number, the timeout of a request's head, and graceful shutdown.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use futures_util::{Stream, StreamExt, stream};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rigbox_core::ids::WorkspaceId;
use rigbox_proto::handover::GuestPeer;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tower::ServiceExt;

/// Limits for anonymous clients.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ConnectionLimits {
    /// Concurrent connections; more wait in the kernel's backlog. Those upgraded to WebSockets do not count:
    /// their callers are authorized.
    pub(crate) max_connections: u32,
    /// Timeout for the head of a request, and for an idle connection.
    pub(crate) head_timeout: Duration,
}

pub(crate) const CONNECTION_LIMITS: ConnectionLimits =
    ConnectionLimits { max_connections: 2_000, head_timeout: Duration::from_secs(20) };

/// Address of the client, in the extensions of every request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PeerAddress(pub(crate) IpAddr);

/// Workspace at the other end of a connection, in the extensions of its requests.
#[derive(Debug, Clone)]
pub(crate) struct WorkspacePeer {
    /// Id of the workspace, as the node named it.
    pub(crate) workspace: WorkspaceId,
    /// Keeps the connection's permit.
    pub(crate) _permit: GuestPeer,
}

/// Delay after a failed accept, for example without free descriptors.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(50);

/// Serves until `shutdown` is true and requests in flight have finished.
pub(crate) async fn serve(
    listener: TcpListener,
    router: Router,
    limits: ConnectionLimits,
    shutdown: watch::Receiver<bool>,
) -> io::Result<()> {
    let connections = stream::unfold(listener, async |listener| {
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => return Some(((stream, PeerAddress(peer.ip())), listener)),
                Err(_) => tokio::time::sleep(ACCEPT_RETRY_DELAY).await,
            }
        }
    });
    serve_all(connections, router, limits, shutdown).await
}

/// Serves connections from any source, each with a description of its peer.
pub(crate) async fn serve_all<E: Clone + Send + Sync + 'static>(
    connections: impl Stream<Item = (TcpStream, E)> + Send,
    router: Router,
    limits: ConnectionLimits,
    mut shutdown: watch::Receiver<bool>,
) -> io::Result<()> {
    tokio::pin!(connections);
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(limits.head_timeout);
    let permits = Arc::new(Semaphore::new(limits.max_connections as usize));
    loop {
        let next = async {
            let permit = Arc::clone(&permits).acquire_owned().await.map_err(io::Error::other)?;
            Ok::<_, io::Error>(connections.next().await.map(|(stream, peer)| (permit, stream, peer)))
        };
        let next = tokio::select! {
            next = next => next?,
            () = wait_shutdown(&mut shutdown) => break,
        };
        // The source has ended.
        let Some((permit, stream, peer)) = next else { break };
        // Events of a command are small and must not wait for more.
        let _ = stream.set_nodelay(true);
        let router = router.clone();
        let service = service_fn(move |request: hyper::Request<Incoming>| {
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(peer.clone());
            router.clone().oneshot(request)
        });
        let connection = http.serve_connection(TokioIo::new(stream), service).with_upgrades();
        let mut shutdown = shutdown.clone();
        tokio::spawn(async move {
            tokio::pin!(connection);
            // Errors of a connection concern only its client.
            let ended = tokio::select! {
                _ = &mut connection => true,
                () = wait_shutdown(&mut shutdown) => false,
            };
            if !ended {
                connection.as_mut().graceful_shutdown();
                let _ = connection.await;
            }
            drop(permit);
        });
    }
    // All permits are free once the last connection has ended.
    permits.acquire_many(limits.max_connections).await.map(drop).map_err(io::Error::other)
}

/// Waits for the shutdown. A dropped sender counts as one.
async fn wait_shutdown(shutdown: &mut watch::Receiver<bool>) {
    let _ = shutdown.wait_for(|shutdown| *shutdown).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    const CONNECTION_LIMITS: ConnectionLimits =
        ConnectionLimits { max_connections: 2, head_timeout: Duration::from_millis(200) };

    async fn get(stream: &mut TcpStream) -> String {
        stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    }

    #[tokio::test]
    async fn silent_clients_are_disconnected_and_block_no_others() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, shutdown) = watch::channel(false);
        let router = Router::new().route("/", axum::routing::get(|| async { "hello" }));
        let serving = tokio::spawn(serve(listener, router, CONNECTION_LIMITS, shutdown));

        let mut silent = TcpStream::connect(address).await.unwrap();
        let mut slow = TcpStream::connect(address).await.unwrap();
        slow.write_all(b"GET / HTTP/1.1\r\nHo").await.unwrap();
        // Both permits are taken: this client gets a response when the first of them loses its permit.
        let mut third = TcpStream::connect(address).await.unwrap();
        assert!(get(&mut third).await.ends_with("hello"));
        let mut rest = Vec::new();
        silent.read_to_end(&mut rest).await.unwrap();
        slow.read_to_end(&mut rest).await.unwrap();

        stop.send(true).unwrap();
        serving.await.unwrap().unwrap();
    }
}
