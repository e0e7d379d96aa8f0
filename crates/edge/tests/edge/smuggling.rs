//! Requests that two parsers could read in two ways reach no app.

use rigbox_proto::gateway::Visibility;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::http::{get, raw};
use crate::support::{HOST, World, eventually, soon};

async fn public() -> World {
    let world = World::new().await;
    world.app(Visibility::Public);
    world.gateway.workspace_changed().await;
    // Connects beforehand, so that what follows is quick.
    assert_eq!(get(world.edge, "/warm", &[]).await.status, 200);
    world.backend.take();
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn ambiguous_requests_are_refused() {
    let world = public().await;
    const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: web.rigbox.localhost\r\n\r\n";
    let chunked = format!("0\r\n\r\n{SMUGGLED}");
    let mut cases = Vec::new();
    for framing in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 5",
        "Content-Length: 0\r\nContent-Length: 60",
        "Content-Length: 5\r\nContent-Length: 5",
        "Content-Length: 5, 5",
        "Content-Length: +5",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        "Transfer-Encoding : chunked",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding:\x0bchunked",
        "X: y\r\n Transfer-Encoding: chunked",
        "X: y\nTransfer-Encoding: chunked",
        "X: y\rTransfer-Encoding: chunked",
        "Transfer-Encoding\n: chunked",
    ] {
        cases.push(format!("POST /first HTTP/1.1\r\nHost: {HOST}\r\n{framing}\r\n\r\n{chunked}"));
    }
    cases.push(format!("GET /first HTTP/1.1\nHost: {HOST}\n\n{SMUGGLED}"));
    cases
        .push(format!("POST /first HTTP/1.0\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\n\r\n{chunked}"));
    cases.push(format!("GET /first HTTP/1.1\r\nHost: {HOST}\r\nHost: evil.example\r\n\r\n"));
    cases.push("GET /first HTTP/1.1\r\n\r\n".to_owned());
    cases.push(format!("GET /first HTTP/1.1\r\nHost: {HOST}/x\r\n\r\n"));
    cases.push(format!("CONNECT {HOST}:80 HTTP/1.1\r\nHost: {HOST}\r\n\r\n"));
    cases.push(format!("GET /first\r\nHost: {HOST}\r\n\r\n"));
    for case in cases {
        // The client ends its side, so that a tolerated request would get a response too.
        let mut stream = TcpStream::connect(world.edge).await.unwrap();
        stream.write_all(case.as_bytes()).await.unwrap();
        let mut answer = vec![0; 12];
        soon(&case, stream.read_exact(&mut answer)).await.unwrap();
        assert_eq!(String::from_utf8_lossy(&answer), "HTTP/1.1 400", "{case}");
        drop(stream);
        assert_eq!(world.backend.take(), "", "{case}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_body_ends_its_connection() {
    let world = public().await;
    for body in [
        "5\nhello\r\n0\r\n\r\n",
        "5\r\nhello0\r\n\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        "5 \r\nhello\r\n0\r\n\r\n",
    ] {
        let request = format!(
            "POST /body HTTP/1.1\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\n\r\n{body}GET /smuggled HTTP/1.1\r\nHost: {HOST}\r\n\r\n"
        );
        let reply = raw(world.edge, request.as_bytes()).await;
        assert!(reply.is_none_or(|reply| reply.status != 200), "{body:?}");
        assert!(!world.backend.take().contains("/smuggled"), "{body:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_in_a_row_are_those_that_were_sent() {
    let world = public().await;
    // Bodies that look like requests, with and without a length, and heads in pieces.
    let inner = "GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n";
    let requests = format!(
        "POST /one HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {}\r\n\r\n{inner}\
         POST /two HTTP/1.1\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{inner}\r\n0\r\nX: y\r\n\r\n\
         GET /three HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n",
        inner.len(),
        inner.len()
    );
    for piece in [1, 7, 1000] {
        let before = world.backend.requests();
        let mut stream = TcpStream::connect(world.edge).await.unwrap();
        stream.set_nodelay(true).unwrap();
        for part in requests.as_bytes().chunks(piece) {
            stream.write_all(part).await.unwrap();
            tokio::task::yield_now().await;
        }
        let mut answer = String::new();
        soon("three responses", stream.read_to_string(&mut answer)).await.unwrap();
        assert_eq!(answer.matches("HTTP/1.1 200 OK").count(), 3, "{piece}: {answer}");
        assert_eq!(world.backend.requests() - before, 3);
        for path in ["POST /one", "POST /two", "GET /three"] {
            assert!(answer.contains(path), "{piece}: {answer}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn large_head_is_refused() {
    let world = public().await;
    let request = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nX: {}\r\n\r\n", "a".repeat(70_000));
    let mut stream = TcpStream::connect(world.edge).await.unwrap();
    let _ = stream.write_all(request.as_bytes()).await;
    let mut answer = vec![0; 12];
    soon("a response", stream.read_exact(&mut answer)).await.unwrap();
    assert_eq!(answer, b"HTTP/1.1 431");
    assert_eq!(world.backend.take(), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_are_in_words() {
    let world = public().await;
    let head =
        |line: &str, fields: &str| format!("{line}\r\nHost: {HOST}\r\n{fields}Connection: close\r\n\r\n");
    let long = "a".repeat(70_000);
    let refused = [
        (head("GET /x?j={\"a\":1} HTTP/1.1", ""), 400, "percent-encoded"),
        (head("GET /< HTTP/1.1", ""), 400, "percent-encoded"),
        (head("GET /?> HTTP/1.1", ""), 400, "percent-encoded"),
        (head("GET http://[/ HTTP/1.1", ""), 400, "percent-encoded"),
        (head(&format!("GET /{long} HTTP/1.1"), ""), 414, "address is too long"),
        (head(&format!("GET /{} HTTP/1.1", &long[..65_100]), ""), 414, "address is too long"),
        (head("GET / HTTP/1.1", &"X: y\r\n".repeat(101)), 431, "more than 100 headers"),
        (head("GET / HTTP/1.2", ""), 505, "HTTP/1.1"),
    ];
    let not_utf8 = [b"GET /\xff HTTP/1.1\r\nHost: ", HOST.as_bytes(), b"\r\n\r\n"].concat();
    let refused = refused.into_iter().map(|(text, status, says)| (text.into_bytes(), status, says));
    for (request, status, says) in refused.chain([(not_utf8, 400, "percent-encoded")]) {
        let reply = raw(world.edge, &request).await.unwrap();
        let case = String::from_utf8_lossy(&request).chars().take(60).collect::<String>();
        assert_eq!((reply.status, reply.code().as_str()), (status, "malformed_request"), "{case}: {reply:?}");
        assert!(reply.body.contains(says), "{case}: {}", reply.body);
    }
    assert_eq!(world.backend.requests(), 1);
    // What browsers leave as it is passes.
    let path = "/a|b^?x={y}|^`'[]&z=\\";
    let reply = get(world.edge, path, &[]).await;
    assert!(reply.body.starts_with(&format!("GET {path}\n")), "{reply:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whole_address_decides_about_the_host() {
    let world = public().await;
    for (target, host, status) in [
        (format!("http://{HOST}/first"), "evil.example", 200),
        ("http://evil.example/first".to_owned(), HOST, 421),
        ("/".to_owned(), "web.rigbox.localhost.", 200),
        ("/".to_owned(), "web.rigbox.localhost:", 200),
    ] {
        let request = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        let reply = raw(world.edge, request.as_bytes()).await.unwrap();
        assert_eq!(reply.status, status, "{request}");
        assert!(status != 200 || reply.body.contains(&format!("\nhost: {HOST}\n")), "{}", reply.body);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connection_continues_after_a_refused_upgrade() {
    let world = public().await;
    let mut stream = TcpStream::connect(world.edge).await.unwrap();
    let first = format!("GET /one HTTP/1.1\r\nHost: {HOST}\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n");
    let second = format!("GET /two HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n");
    stream.write_all(first.as_bytes()).await.unwrap();
    let requests = world.backend.requests();
    eventually("the first request", async || world.backend.requests() > requests || requests > 1).await;
    stream.write_all(second.as_bytes()).await.unwrap();
    let mut answer = String::new();
    soon("two responses", stream.read_to_string(&mut answer)).await.unwrap();
    assert_eq!(answer.matches("HTTP/1.1 200 OK").count(), 2, "{answer}");
    assert!(!answer.contains("upgrade: h2c"), "{answer}");
}
