//! The API's connections: how many there may be, how long one may take to say what it wants, and how they end.

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
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tower::ServiceExt;

/// What anonymous may have of this process.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ConnectionLimits {
    /// Connections at one time; more wait in the kernel. Those that became WebSockets are not counted: they have a permit.
    pub(crate) max_connections: u32,
    /// A request's head has to be there, and an idle connection ends, after this.
    pub(crate) head_timeout: Duration,
}

pub(crate) const CONNECTION_LIMITS: ConnectionLimits =
    ConnectionLimits { max_connections: 2_000, head_timeout: Duration::from_secs(20) };

/// The other end's address, in the extensions of every request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PeerAddress(pub(crate) IpAddr);

/// Out of descriptors, perhaps: they come back.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(50);

/// Serves until `shutdown` is true and the requests under way are answered.
pub(crate) async fn serve(
    listener: TcpListener,
    router: Router,
    bounds: ConnectionLimits,
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
    serve_all(connections, router, bounds, shutdown).await
}

/// The same for connections that come from anywhere, each with what is known of its other end.
pub(crate) async fn serve_all<E: Clone + Send + Sync + 'static>(
    connections: impl Stream<Item = (TcpStream, E)> + Send,
    router: Router,
    bounds: ConnectionLimits,
    mut shutdown: watch::Receiver<bool>,
) -> io::Result<()> {
    tokio::pin!(connections);
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(bounds.head_timeout);
    let permits = Arc::new(Semaphore::new(bounds.max_connections as usize));
    loop {
        let next = async {
            let permit = Arc::clone(&permits).acquire_owned().await.map_err(io::Error::other)?;
            Ok::<_, io::Error>(connections.next().await.map(|(stream, peer)| (permit, stream, peer)))
        };
        let next = tokio::select! {
            next = next => next?,
            () = wait_shutdown(&mut shutdown) => break,
        };
        // No more will come.
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
            // How a client ends its connection is its own affair.
            let gone = tokio::select! {
                _ = &mut connection => true,
                () = wait_shutdown(&mut shutdown) => false,
            };
            if !gone {
                connection.as_mut().graceful_shutdown();
                let _ = connection.await;
            }
            drop(permit);
        });
    }
    // Every permit is free again when the last connection has shutdown.
    permits.acquire_many(bounds.max_connections).await.map(drop).map_err(io::Error::other)
}

/// Waits for the end; a vanished sender means it too.
async fn wait_shutdown(shutdown: &mut watch::Receiver<bool>) {
    let _ = shutdown.wait_for(|shutdown| *shutdown).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    const CONNECTION_LIMITS: ConnectionLimits =
        ConnectionLimits { max_connections: 2, head_timeout: Duration::from_millis(200) };

    async fn answer(stream: &mut TcpStream) -> String {
        stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    }

    #[tokio::test]
    async fn who_says_nothing_loses_the_connection_and_keeps_nobody_out() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (end, shutdown) = watch::channel(false);
        let router = Router::new().route("/", axum::routing::get(|| async { "hello" }));
        let serving = tokio::spawn(serve(listener, router, CONNECTION_LIMITS, shutdown));

        let mut silent = TcpStream::connect(address).await.unwrap();
        let mut slow = TcpStream::connect(address).await.unwrap();
        slow.write_all(b"GET / HTTP/1.1\r\nHo").await.unwrap();
        // Both places are taken: this one is answered when the first of them loses its permit.
        let mut third = TcpStream::connect(address).await.unwrap();
        assert!(answer(&mut third).await.ends_with("hello"));
        let mut rest = Vec::new();
        silent.read_to_end(&mut rest).await.unwrap();
        slow.read_to_end(&mut rest).await.unwrap();

        end.send(true).unwrap();
        serving.await.unwrap().unwrap();
    }
}
