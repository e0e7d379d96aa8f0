//! Bodies of requests: whose fault it is when one fails, and what may follow it.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, Request, Version};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rigbox_edge::Limits;
use rigbox_proto::gateway::Visibility;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::http::{parse, raw};
use crate::support::{HOST, NEVER_IDLE, ORIGIN, World, soon};

async fn public(limits: Limits) -> World {
    let world = World::with(limits).await;
    world.app(Visibility::Public);
    world.gateway.workspace_changed().await;
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_bad_body_is_the_clients_fault() {
    let world = public(Limits::default()).await;
    for (framing, body) in [
        ("Transfer-Encoding: chunked", "zz\r\nhello\r\n0\r\n\r\n"),
        ("Transfer-Encoding: chunked", "5\r\nhelloX"),
        ("Transfer-Encoding: chunked", "5\r\nhel"),
        ("Content-Length: 10", "short"),
    ] {
        let mut stream = TcpStream::connect(world.edge).await.unwrap();
        let request = format!("POST /upload HTTP/1.1\r\nHost: {HOST}\r\n{framing}\r\n\r\n{body}");
        stream.write_all(request.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        let _ = soon("a response", stream.read_to_end(&mut answer)).await;
        let reply = parse(&answer).unwrap_or_else(|| panic!("no response to {framing} {body:?}"));
        assert_eq!((reply.status, reply.code().as_str()), (400, "malformed_body"), "{body:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_body_is_bounded_in_time() {
    let world = public(Limits { response: Duration::from_secs(1), ..Limits::default() }).await;
    let (mut read, mut write) = TcpStream::connect(world.edge).await.unwrap().into_split();
    let head = format!("POST /upload HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 10000\r\n\r\n");
    write.write_all(head.as_bytes()).await.unwrap();
    let began = Instant::now();
    let drops = tokio::spawn(async move {
        while write.write_all(b"a").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    });
    let mut answer = Vec::new();
    let _ = soon("a response", read.read_to_end(&mut answer)).await;
    drops.abort();
    let reply = parse(&answer).unwrap();
    assert_eq!((reply.status, reply.code().as_str()), (408, "body_too_slow"));
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

/// Sends two bytes once they are asked for, and returns the response.
async fn send_after_100(mut stream: TcpStream) -> String {
    let mut answer = [0; 25];
    soon("a 100", stream.read_exact(&mut answer)).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&answer), "HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"ab").await.unwrap();
    let mut rest = String::new();
    soon("the response", stream.read_to_string(&mut rest)).await.unwrap();
    rest
}

#[tokio::test(flavor = "multi_thread")]
async fn expectation_is_met_by_the_app() {
    // This one refuses before it has seen the body.
    let (world, app) = World::scripted(Limits::default(), NEVER_IDLE, |_| {
        b"HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n".to_vec()
    })
    .await;
    let mut stream = TcpStream::connect(world.edge).await.unwrap();
    let head = |close| {
        format!(
            "POST /upload HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 2\r\nExpect: 100-continue\r\n{close}\r\n"
        )
    };
    stream.write_all(head("").as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    soon("a response", stream.read_exact(&mut answer)).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&answer), "HTTP/1.1 413");
    assert!(app.heads.lock().unwrap()[0].1.contains("\r\nexpect: 100-continue\r\n"));
    // This one wants it.
    let world = public(Limits::default()).await;
    let mut stream = TcpStream::connect(world.edge).await.unwrap();
    stream.write_all(head("Connection: close\r\n").as_bytes()).await.unwrap();
    let rest = send_after_100(stream).await;
    assert!(rest.starts_with("HTTP/1.1 200") && rest.ends_with('2'), "{rest}");
}

#[tokio::test(flavor = "multi_thread")]
async fn app_that_ignores_the_expectation_gets_the_body() {
    let world = World::new().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    world.node.listens(crate::support::WORKSPACE, crate::support::BOOT, crate::support::PORT, address);
    world.app(Visibility::Public);
    world.gateway.workspace_changed().await;
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut got = Vec::new();
        while !got.ends_with(b"\r\n\r\nab") {
            got.push(stream.read_u8().await.unwrap());
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
    });
    let mut stream = TcpStream::connect(world.edge).await.unwrap();
    let head = format!(
        "POST / HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let rest = send_after_100(stream).await;
    assert!(rest.starts_with("HTTP/1.1 200") && rest.ends_with("ok"), "{rest}");
}

#[tokio::test(flavor = "multi_thread")]
async fn trailers_of_a_request_end_at_the_edge() {
    let world = public(Limits::default()).await;
    let request = format!(
        "POST /x HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\nTransfer-Encoding: chunked\r\nTrailer: X-Own, X-Rigbox-User\r\n\r\n\
         2\r\nab\r\n0\r\nX-Own: secret\r\nX-Rigbox-User: evil\r\n\r\n"
    );
    let reply = raw(world.edge, request.as_bytes()).await.unwrap();
    assert_eq!(reply.status, 200);
    let got = world.backend.take().to_ascii_lowercase();
    assert!(got.contains("ab") && !got.contains("secret") && !got.contains("evil"), "{got}");
    assert!(!got.contains("trailer:"), "{got}");
}

#[tokio::test(flavor = "multi_thread")]
async fn trailers_of_grpc_pass_without_our_names() {
    let world = World::new().await;
    world.app(Visibility::Public);
    // An app that answers with the trailers it got.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    world.node.listens(
        crate::support::WORKSPACE,
        crate::support::BOOT,
        crate::support::PORT,
        listener.local_addr().unwrap(),
    );
    world.gateway.workspace_changed().await;
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let service = hyper::service::service_fn(async |request: Request<hyper::body::Incoming>| {
            let got = request.into_body().collect().await.unwrap().trailers().cloned().unwrap_or_default();
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", "0".parse().unwrap());
            trailers.insert("x-rigbox-user", "evil".parse().unwrap());
            trailers.insert("set-cookie", "rigbox_app=evil".parse().unwrap());
            let names = got.keys().map(http::HeaderName::as_str).collect::<Vec<_>>().join(" ");
            trailers.insert("x-got", names.parse().unwrap());
            let frames = [
                Ok::<_, std::convert::Infallible>(Frame::data(Bytes::from_static(b"a"))),
                Ok(Frame::trailers(trailers)),
            ];
            let response = http::Response::new(StreamBody::new(tokio_stream::iter(frames)));
            Ok::<_, std::convert::Infallible>(response)
        });
        let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        let _ = builder.serve_connection(TokioIo::new(stream), service).await;
    });
    let stream = TcpStream::connect(world.edge).await.unwrap();
    let (mut client, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let mut trailers = HeaderMap::new();
    for name in ["x-own", "x-rigbox-user", "x_rigbox_email", "cookie", "authorization"] {
        trailers.insert(http::HeaderName::from_bytes(name.as_bytes()).unwrap(), "x".parse().unwrap());
    }
    let frames = [
        Ok::<_, std::convert::Infallible>(Frame::data(Bytes::from_static(b"a"))),
        Ok(Frame::trailers(trailers)),
    ];
    let request = Request::post(format!("{ORIGIN}/x"))
        .version(Version::HTTP_2)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(StreamBody::new(tokio_stream::iter(frames)))
        .unwrap();
    let response = soon("a response", client.send_request(request)).await.unwrap();
    assert_eq!(response.status().as_u16(), 200);
    let got = response.into_body().collect().await.unwrap().trailers().cloned().unwrap();
    assert_eq!((got["grpc-status"].as_bytes(), got["x-got"].as_bytes()), (&b"0"[..], &b"x-own"[..]));
    assert!(!got.contains_key("x-rigbox-user") && !got.contains_key("set-cookie"), "{got:?}");
}
