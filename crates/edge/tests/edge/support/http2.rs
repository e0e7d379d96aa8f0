//! A client of HTTP/2, and of WebSockets over it (RFC 8441).

use std::net::SocketAddr;

use bytes::Bytes;
use http::{Method, Request, Response, Version};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper::upgrade::Upgraded;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::{ORIGIN, soon};

pub(crate) type Client = SendRequest<Empty<Bytes>>;
pub(crate) type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// Opens a connection.
pub(crate) async fn connect(edge: SocketAddr) -> Client {
    let stream = TcpStream::connect(edge).await.unwrap();
    let (client, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    client
}

/// Opens a connection that can carry WebSockets: the server says so in its first frame, before its first
/// response.
pub(crate) async fn connect_for_websockets(edge: SocketAddr) -> Client {
    let mut client = connect(edge).await;
    let first = Request::builder().uri(format!("{ORIGIN}/")).body(Empty::new()).unwrap();
    soon("a response", client.send_request(first)).await.unwrap();
    client
}

/// Requests a WebSocket. Returns the response.
pub(crate) async fn ask_websocket(
    client: &mut Client,
    path: &str,
    headers: &[(&str, &str)],
) -> Response<Incoming> {
    let mut request = Request::builder()
        .method(Method::CONNECT)
        .version(Version::HTTP_2)
        .uri(format!("{ORIGIN}{path}"))
        .extension(hyper::ext::Protocol::from_static("websocket"))
        .header("sec-websocket-version", "13");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    soon("a response", client.send_request(request.body(Empty::new()).unwrap())).await.unwrap()
}

/// Returns the WebSocket that a response opened.
pub(crate) async fn websocket(response: Response<Incoming>) -> Socket {
    assert_eq!(response.status().as_u16(), 200);
    let upgraded = hyper::upgrade::on(response).await.unwrap();
    WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Client, None).await
}
