//! Connections of the API: their number, a client's share of it, the timeouts of heads, bodies and responses, and graceful shutdown.

mod bodies;
mod connection;

use std::convert::Infallible;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use futures_util::{Stream, StreamExt, stream};
use http::StatusCode;
use http::header::CONTENT_TYPE;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rigbox_core::ids::WorkspaceId;
use rigbox_proto::handover::GuestPeer;
use rigbox_shares::{AddressBlock, Bounds, EvictingShares, Held, Refused, Shares};
use rustix::net::sockopt;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;
use tower_http::timeout::TimeoutBody;

use bodies::{RequestBody, ResponseBody};
use connection::Connection;
pub(crate) use connection::ConnectionControl;

use crate::error::ApiError;
use crate::trusted_proxies::TrustedProxies;

/// Limits for clients, most of which are anonymous until their request is read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ConnectionLimits {
    /// Concurrent connections, in all and of one client. One client's further connections are closed; if there are too many of all, a
    /// new one takes the place of the one that has waited for its client longest. Those upgraded to WebSockets do not count: their
    /// callers are authorized.
    pub(crate) connections: Bounds,
    /// Timeout for the head of a request, and for an idle connection.
    pub(crate) head_timeout: Duration,
    /// Time that a request's body or a response may stand still. Streams to authorized callers are exempt.
    pub(crate) idle_timeout: Duration,
}

pub(crate) const CONNECTION_LIMITS: ConnectionLimits = ConnectionLimits {
    // Connections of clients, per IPv4 address or IPv6 /64.
    connections: Bounds { total: 4_000, per_key: 256 },
    head_timeout: Duration::from_secs(20),
    idle_timeout: Duration::from_secs(30),
};

/// Content types of streams, which end when their subject does.
const STREAMS: [&str; 3] = ["application/octet-stream", "application/x-ndjson", "text/event-stream"];

/// Address of the client, in the extensions of every request; behind a proxy, that of the proxy's client.
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

/// Transport by which clients reach the API.
#[derive(Clone, Default)]
pub(crate) struct Transport {
    /// Acceptor of TLS; without it, connections are plain.
    pub(crate) tls: Option<TlsAcceptor>,
    pub(crate) proxies: TrustedProxies,
}

/// Serves until `shutdown` is true and requests in flight have finished.
pub(crate) async fn serve(
    listener: TcpListener,
    transport: Transport,
    router: Router,
    limits: ConnectionLimits,
    shutdown: watch::Receiver<bool>,
) -> io::Result<()> {
    let all = limits.connections.total;
    let of_clients = Pool::new(limits.connections);
    // Connections of trusted proxies: each has those of many clients, whose requests are bounded as connections are.
    let of_proxies = Pool::new(Bounds { total: all, per_key: all });
    let proxies = transport.proxies.clone();
    let connections = stream::unfold(listener, async |listener| {
        loop {
            let Ok((stream, peer)) = listener.accept().await else {
                tokio::time::sleep(ACCEPT_RETRY_DELAY).await;
                continue;
            };
            let client = AddressBlock::from(peer.ip());
            let pool = if proxies.contains(peer.ip()) { &of_proxies } else { &of_clients };
            let control = ConnectionControl::default();
            // The connection of a client that has its share is closed.
            if let Some(held) = place(pool, client, &control).await {
                // Events of a command are small and must not wait for more.
                let _ = stream.set_nodelay(true);
                // A client whose machine is gone ends what it has opened.
                let _ = keep_alive(&stream);
                return Some(((stream, PeerAddress(peer.ip()), control, held), listener));
            }
        }
    });
    serve_all(connections, transport, router, limits, shutdown).await
}

/// Places of connections.
type Pool = EvictingShares<AddressBlock, ConnectionControl>;

/// Returns a place for a connection, or `None` if the client has its share. Waits while all others are being served.
async fn place(
    pool: &Pool,
    client: AddressBlock,
    control: &ConnectionControl,
) -> Option<Held<AddressBlock, ConnectionControl>> {
    loop {
        match pool.take(client, control.clone()).await {
            Ok(held) => return Some(held),
            Err(Refused::Full(_)) => tokio::time::sleep(ACCEPT_RETRY_DELAY).await,
            Err(Refused::Share(_)) => return None,
        }
    }
}

/// Serves connections from any source, each with a description of its peer, its control, and its place, which is free again at its end.
pub(crate) async fn serve_all<S, E, P>(
    connections: impl Stream<Item = (S, E, ConnectionControl, P)> + Send,
    transport: Transport,
    router: Router,
    limits: ConnectionLimits,
    mut shutdown: watch::Receiver<bool>,
) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    E: Clone + Send + Sync + 'static,
    P: Send + 'static,
{
    tokio::pin!(connections);
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(limits.head_timeout);
    let server =
        Arc::new(Server { http, transport, router, limits, forwarded: Shares::new(limits.connections) });
    let tasks = TaskTracker::new();
    loop {
        let next = tokio::select! {
            next = connections.next() => next,
            () = wait_shutdown(&mut shutdown) => break,
        };
        // The source has ended.
        let Some((stream, peer, control, place)) = next else { break };
        let (server, shutdown) = (Arc::clone(&server), shutdown.clone());
        tasks.spawn(async move {
            server.accept(stream, peer, control, shutdown).await;
            drop(place);
        });
    }
    tasks.close();
    tasks.wait().await;
    Ok(())
}

/// State that all connections share.
struct Server {
    http: http1::Builder,
    transport: Transport,
    router: Router,
    limits: ConnectionLimits,
    /// Requests of clients behind proxies.
    forwarded: Shares<AddressBlock>,
}

impl Server {
    /// Serves a connection, after the handshake if there is TLS.
    async fn accept<S, E>(
        self: Arc<Self>,
        stream: S,
        peer: E,
        control: ConnectionControl,
        mut shutdown: watch::Receiver<bool>,
    ) where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        E: Clone + Send + Sync + 'static,
    {
        let stream = Connection::new(stream, self.limits.idle_timeout, control.clone());
        let Some(acceptor) = self.transport.tls.clone() else {
            return self.serve(stream, peer, control, shutdown).await;
        };
        let accepted = tokio::select! {
            accepted = tokio::time::timeout(self.limits.head_timeout, acceptor.accept(stream)) => accepted,
            () = wait_shutdown(&mut shutdown) => return,
        };
        // A handshake that fails concerns only its client.
        if let Ok(Ok(stream)) = accepted {
            self.serve(stream, peer, control, shutdown).await;
        }
    }

    /// Serves the requests of a connection.
    async fn serve<S, E>(
        self: Arc<Self>,
        stream: S,
        peer: E,
        control: ConnectionControl,
        mut shutdown: watch::Receiver<bool>,
    ) where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        E: Clone + Send + Sync + 'static,
    {
        let http = self.http.clone();
        let service = service_fn(move |request: hyper::Request<Incoming>| {
            let (server, peer, control) = (Arc::clone(&self), peer.clone(), control.clone());
            async move { Ok::<_, Infallible>(server.respond(request, peer, &control).await) }
        });
        let connection = http.serve_connection(TokioIo::new(stream), service).with_upgrades();
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
    }

    async fn respond<E>(
        &self,
        request: hyper::Request<Incoming>,
        peer: E,
        control: &ConnectionControl,
    ) -> Response
    where
        E: Clone + Send + Sync + 'static,
    {
        control.set_responding(true);
        control.set_waiting(false);
        let idle_timeout = self.limits.idle_timeout;
        let mut request = request.map(|body| {
            let body = Body::new(TimeoutBody::new(idle_timeout, body));
            Body::new(RequestBody { body, control: control.clone() })
        });
        request.extensions_mut().insert(peer);
        request.extensions_mut().insert(control.clone());
        // The place of the connection's request before is free.
        control.set_place(None);
        if let Some(PeerAddress(peer)) = request.extensions().get::<PeerAddress>().copied()
            && self.transport.proxies.contains(peer)
        {
            let client = self.transport.proxies.client(peer, request.headers());
            match self.forwarded.take(client.into()) {
                Ok(place) => control.set_place(Some(place)),
                Err(_) => {
                    let text =
                        "Too many requests from your address are open. Wait for one of them to finish.";
                    return ApiError::unavailable("busy", text).into_response();
                }
            }
            request.extensions_mut().insert(PeerAddress(client));
        }
        let Ok(response) = self.router.clone().oneshot(request).await;
        control.set_exempt(is_stream(&response));
        // A body that was not read to its end is no longer waited for.
        control.set_waiting(false);
        response.map(|body| Body::new(ResponseBody { body, control: control.clone() }))
    }
}

/// Has an idle connection probed: within two minutes it is known that the other machine is gone.
fn keep_alive(stream: &TcpStream) -> rustix::io::Result<()> {
    sockopt::set_tcp_keepidle(stream, Duration::from_secs(60))?;
    sockopt::set_tcp_keepintvl(stream, Duration::from_secs(15))?;
    sockopt::set_tcp_keepcnt(stream, 4)?;
    sockopt::set_socket_keepalive(stream, true)
}

/// Returns whether a response goes on for as long as its caller and its subject do.
fn is_stream<B>(response: &hyper::Response<B>) -> bool {
    let kind = response.headers().get(CONTENT_TYPE);
    response.status() == StatusCode::SWITCHING_PROTOCOLS
        || kind.is_some_and(|kind| STREAMS.iter().any(|stream| kind.as_bytes() == stream.as_bytes()))
}

/// Waits for the shutdown. A dropped sender counts as one.
async fn wait_shutdown(shutdown: &mut watch::Receiver<bool>) {
    let _ = shutdown.wait_for(|shutdown| *shutdown).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    const CONNECTION_LIMITS: ConnectionLimits = ConnectionLimits {
        connections: Bounds { total: 2, per_key: 3 },
        head_timeout: Duration::from_millis(200),
        idle_timeout: Duration::from_millis(200),
    };

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
        let serving =
            tokio::spawn(serve(listener, Transport::default(), router, CONNECTION_LIMITS, shutdown));

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

    /// Server on an address of its own, with places for two connections, one of them for a client.
    async fn start(router: Router) -> (std::net::SocketAddr, watch::Sender<bool>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, shutdown) = watch::channel(false);
        let connections = Bounds { total: 2, per_key: 1 };
        tokio::spawn(serve(
            listener,
            Transport::default(),
            router,
            ConnectionLimits { connections, ..CONNECTION_LIMITS },
            shutdown,
        ));
        (address, stop)
    }

    /// Connects from the loopback address with this last byte.
    async fn connect_from(last: u8, to: std::net::SocketAddr) -> TcpStream {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind((std::net::Ipv4Addr::new(127, 0, 0, last), 0).into()).unwrap();
        socket.connect(to).await.unwrap()
    }

    #[tokio::test]
    async fn one_client_leaves_connections_to_others() {
        let router = Router::new().route("/", axum::routing::get(|| async { "hello" }));
        let (address, _stop) = start(router).await;
        let _held = connect_from(2, address).await;
        let mut refused = connect_from(2, address).await;
        assert_eq!(refused.read(&mut [0; 1]).await.unwrap_or_default(), 0);
        assert!(get(&mut connect_from(3, address).await).await.ends_with("hello"));
    }

    #[tokio::test]
    async fn client_with_its_share_holds_up_nobody_when_all_places_are_taken() {
        let router = Router::new().route("/", axum::routing::get(|| async { "hello" }));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (_stop, shutdown) = watch::channel(false);
        let limits = ConnectionLimits {
            connections: Bounds { total: 2, per_key: 1 },
            head_timeout: Duration::from_secs(600),
            idle_timeout: Duration::from_secs(600),
        };
        tokio::spawn(serve(listener, Transport::default(), router, limits, shutdown));
        let mut other = connect_from(2, address).await;
        let _held = connect_from(3, address).await;
        let ended = async { connect_from(3, address).await.read(&mut [0; 1]).await.unwrap_or_default() };
        assert_eq!(tokio::time::timeout(Duration::from_secs(10), ended).await, Ok(0));
        // Nobody gave way to it.
        assert!(get(&mut other).await.ends_with("hello"));
        assert!(get(&mut connect_from(4, address).await).await.ends_with("hello"));
    }

    #[tokio::test]
    async fn connections_that_wait_for_their_clients_give_way_to_new_ones() {
        let router = Router::new()
            .route("/", axum::routing::get(|| async { "hello" }))
            .route("/long", axum::routing::get(|| async { "long ".repeat(10_000_000) }))
            .route(
                "/body",
                axum::routing::post(|body: axum::body::Bytes| async move { body.len().to_string() }),
            );
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (_stop, shutdown) = watch::channel(false);
        // Longer than the test: only giving way frees a place.
        let limits = ConnectionLimits {
            connections: Bounds { total: 2, per_key: 1 },
            head_timeout: Duration::from_secs(600),
            idle_timeout: Duration::from_secs(600),
        };
        tokio::spawn(serve(listener, Transport::default(), router, limits, shutdown));
        let sent = [
            "",
            "GET / HTTP/1.1\r\nHo",
            "POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\npart",
            "GET /long HTTP/1.1\r\nHost: x\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        ];
        let mut held = Vec::new();
        for (last, text) in (2..).zip(sent.iter().cycle().take(4 * sent.len())) {
            let mut stream = connect_from(last, address).await;
            // One that has given way already.
            let _ = stream.write_all(text.as_bytes()).await;
            held.push(stream);
            let other = async { get(&mut connect_from(last + 100, address).await).await };
            let other = tokio::time::timeout(Duration::from_secs(10), other).await;
            assert!(other.is_ok_and(|text| text.ends_with("hello")), "beside {text:?}");
        }
    }

    /// Starts a server with a certificate of its own. Returns its address and the certificate.
    async fn start_tls(router: Router) -> (std::net::SocketAddr, rustls::pki_types::CertificateDer<'static>) {
        let folder = tempfile::tempdir().unwrap();
        let made = rcgen::generate_simple_self_signed(["rigbox.example".to_owned()]).unwrap();
        std::fs::write(folder.path().join("0.key"), made.signing_key.serialize_pem()).unwrap();
        std::fs::write(folder.path().join("0.crt"), made.cert.pem()).unwrap();
        let certificates = rigbox_tls::Certificates::load(folder.path()).unwrap();
        let tls = Some(rigbox_tls::acceptor(certificates, &["http/1.1"]).unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let transport = Transport { tls, ..Transport::default() };
        let serving = async move {
            // A dropped sender would count as a shutdown.
            let (_stop, shutdown) = watch::channel(false);
            serve(listener, transport, router, CONNECTION_LIMITS, shutdown).await
        };
        tokio::spawn(serving);
        (address, made.cert.der().clone())
    }

    #[tokio::test]
    async fn clients_are_served_with_tls_and_silent_handshakes_end() {
        let router = Router::new().route("/", axum::routing::get(|| async { "hello" }));
        let (address, certificate) = start_tls(router).await;
        let mut silent = TcpStream::connect(address).await.unwrap();
        let mut plain = TcpStream::connect(address).await.unwrap();
        plain.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let mut bytes = Vec::new();
        let _ = plain.read_to_end(&mut bytes).await;
        assert!(!bytes.starts_with(b"HTTP"), "served without TLS");

        let mut roots = rustls::RootCertStore::empty();
        roots.add(certificate).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let stream = TcpStream::connect(address).await.unwrap();
        let name = rustls::pki_types::ServerName::try_from("rigbox.example").unwrap();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let mut stream = connector.connect(name, stream).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut text = String::new();
        let _ = stream.read_to_string(&mut text).await;
        assert!(text.ends_with("hello"), "{text}");

        let ended = tokio::time::timeout(Duration::from_secs(10), silent.read_to_end(&mut bytes)).await;
        assert!(ended.is_ok(), "a client that says nothing keeps its place");
    }

    #[tokio::test]
    async fn clients_behind_a_proxy_are_told_apart() {
        let held = Arc::new(tokio::sync::Notify::new());
        let hold = Arc::clone(&held);
        let address_of = |request: axum::extract::Request| async move {
            request.extensions().get::<PeerAddress>().unwrap().0.to_string()
        };
        let router = Router::new()
            .route("/", axum::routing::get(address_of))
            .route("/held", axum::routing::get(move || async move { hold.notified().await }));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (_stop, shutdown) = watch::channel(false);
        let proxies = TrustedProxies::from(vec!["127.0.0.1/32".parse().unwrap()]);
        let transport = Transport { tls: None, proxies };
        let connections = Bounds { total: 8, per_key: 1 };
        let limits = ConnectionLimits { connections, ..CONNECTION_LIMITS };
        tokio::spawn(serve(listener, transport, router, limits, shutdown));
        let request = async |path: &str, client: &str| {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let text = format!(
                "GET {path} HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 127.0.0.1, {client}\r\nConnection: close\r\n\r\n"
            );
            stream.write_all(text.as_bytes()).await.unwrap();
            stream
        };
        let read = async |mut stream: TcpStream| {
            let mut text = String::new();
            stream.read_to_string(&mut text).await.unwrap();
            text
        };
        let waiting = request("/held", "192.0.2.1").await;
        let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
        // The proxy may have more connections than a client; a client's second request finds its share taken.
        while !read(request("/", "192.0.2.1").await).await.starts_with("HTTP/1.1 503") {
            assert!(tokio::time::Instant::now() < deadline, "one client takes all places");
        }
        assert!(read(request("/", "192.0.2.2").await).await.ends_with("192.0.2.2"));
        held.notify_one();
        assert!(read(waiting).await.starts_with("HTTP/1.1 200"));
        assert!(read(request("/", "192.0.2.1").await).await.ends_with("192.0.2.1"));
    }

    const BIG: usize = 64 << 20;

    async fn big(kind: &'static str) -> ([(http::HeaderName, &'static str); 1], Vec<u8>) {
        ([(CONTENT_TYPE, kind)], vec![b'x'; BIG])
    }

    #[tokio::test]
    async fn responses_that_nobody_reads_end_and_streams_do_not() {
        let router = Router::new()
            .route("/answer", axum::routing::get(|| big("application/json")))
            .route("/stream", axum::routing::get(|| big("application/octet-stream")));
        let (address, _stop) = start(router).await;
        for (path, whole) in [("/answer", false), ("/stream", true)] {
            let mut client = connect_from(2, address).await;
            let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
            client.write_all(request.as_bytes()).await.unwrap();
            tokio::time::sleep(4 * CONNECTION_LIMITS.idle_timeout).await;
            let mut bytes = Vec::new();
            let read = client.read_to_end(&mut bytes).await;
            assert_eq!(read.is_ok() && bytes.len() > BIG, whole, "{path}: {read:?}, {} bytes", bytes.len());
        }
    }

    #[tokio::test]
    async fn bodies_that_stand_still_end() {
        let router = Router::new().route("/", axum::routing::post(|body: String| async { body }));
        let (address, _stop) = start(router).await;
        let mut client = connect_from(2, address).await;
        client.write_all(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nslow").await.unwrap();
        let mut text = String::new();
        client.read_to_string(&mut text).await.unwrap();
        assert!(text.starts_with("HTTP/1.1 400") || text.starts_with("HTTP/1.1 408"), "{text}");
    }
}
