use std::time::Duration;

use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::*;
use crate::egress::testbed::{TARGET, Testbed, connection, exchange, policy};

fn host(method: &str, target: &str, hosts: &[&str]) -> Option<String> {
    let mut request = Request::builder().method(method).uri(target);
    for host in hosts {
        request = request.header(HOST, *host);
    }
    host_of(&request.body(()).unwrap())
}

#[test]
fn request_has_one_host() {
    for (target, hosts, wanted) in [
        ("/", vec!["Example.org"], Some("example.org")),
        ("/", vec!["example.org:80"], Some("example.org")),
        ("/", vec!["example.org."], Some("example.org")),
        ("http://example.org/", vec!["example.org"], Some("example.org")),
        ("http://other.example/", vec!["example.org"], None),
        ("/", vec!["example.org", "other.example"], None),
        ("/", vec!["example.org", "example.org"], None),
        ("/", vec!["example.org:8080"], None),
        ("/", vec![], None),
    ] {
        assert_eq!(host("GET", target, &hosts).as_deref(), wanted, "{target} {hosts:?}");
    }
    assert_eq!(host("CONNECT", "example.org:80", &["example.org:80"]), None);
}

/// Answers requests, and upgrades to a WebSocket, after which it repeats what it reads.
fn respond(bytes: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(bytes).to_ascii_lowercase();
    if text.contains("upgrade: websocket") {
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n".to_vec()
    } else if text.contains("http/1.1") {
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello".to_vec()
    } else {
        bytes.to_vec()
    }
}

async fn open(testbed: &Testbed) -> (TcpStream, JoinHandle<io::Result<()>>) {
    let (client, server) = connection().await;
    let vm = Arc::clone(&testbed.vm);
    (client, tokio::spawn(async move { forward(&vm, server, TARGET).await }))
}

#[tokio::test]
async fn each_request_of_a_connection_is_for_the_same_listed_host() {
    let testbed = Testbed::start(policy(&["example.org", "other.example"], false), respond).await;
    let (mut client, _) = open(&testbed).await;
    for path in ["/a", "/b"] {
        let request = format!("POST {path} HTTP/1.1\r\nHost: Example.org\r\nContent-Length: 3\r\n\r\nabc");
        let response = exchange(&mut client, request.as_bytes(), "hello").await;
        assert!(response.starts_with("HTTP/1.1 200"), "{response}");
    }
    let other = exchange(&mut client, b"GET /c HTTP/1.1\r\nHost: other.example\r\n\r\n", "").await;
    assert!(other.starts_with("HTTP/1.1 421"), "{other}");
    let received = testbed.received();
    assert_eq!(received.len(), 1, "{received:?}");
    assert!(received[0].contains("/a") && received[0].contains("/b") && !received[0].contains("/c"));
}

#[tokio::test]
async fn request_for_a_host_that_is_not_listed_reaches_no_server() {
    let testbed = Testbed::start(policy(&["example.org", "only.example:443"], false), respond).await;
    for (request, status) in [
        ("GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n", "403"),
        ("GET / HTTP/1.1\r\nHost: only.example\r\n\r\n", "403"),
        ("GET / HTTP/1.1\r\nHost: example.org\r\nHost: evil.example\r\n\r\n", "400"),
        ("GET http://evil.example/ HTTP/1.1\r\nHost: example.org\r\n\r\n", "400"),
        ("CONNECT evil.example:80 HTTP/1.1\r\nHost: example.org\r\n\r\n", "400"),
        (
            "POST / HTTP/1.1\r\nHost: example.org\r\nTransfer-Encoding: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "400",
        ),
        ("POST / HTTP/1.1\r\nHost: example.org\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", "400"),
        ("GET / HTTP/1.0\r\n\r\n", "400"),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", ""),
        ("SSH-2.0-OpenSSH_9.2\r\n\r\n", ""),
    ] {
        let (mut client, _) = open(&testbed).await;
        let response = exchange(&mut client, request.as_bytes(), "").await;
        assert!(response.contains(status) && !response.contains("hello"), "{request:?}: {response}");
    }
    assert!(testbed.received().is_empty(), "{:?}", testbed.received());
    let refused = testbed.vm.refusals.take();
    assert_eq!((refused.len(), refused[0].port, refused[0].count), (1, 80, 2), "{refused:?}");
}

#[tokio::test]
async fn only_a_websocket_ends_the_check() {
    let testbed = Testbed::start(policy(&["example.org"], false), respond).await;
    let (mut client, _) = open(&testbed).await;
    let h2c = "GET / HTTP/1.1\r\nHost: example.org\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n";
    assert!(exchange(&mut client, h2c.as_bytes(), "hello").await.starts_with("HTTP/1.1 200"));
    assert!(!testbed.received()[0].to_ascii_lowercase().contains("upgrade"));
    let socket = "GET / HTTP/1.1\r\nHost: example.org\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    assert!(exchange(&mut client, socket.as_bytes(), "\r\n\r\n").await.starts_with("HTTP/1.1 101"));
    assert_eq!(exchange(&mut client, b"frame", "frame").await, "frame");
}

#[tokio::test]
async fn change_of_the_list_ends_open_connections() {
    let testbed = Testbed::start(policy(&["example.org"], false), respond).await;
    let request = b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n";
    let (mut client, served) = open(&testbed).await;
    exchange(&mut client, request, "hello").await;
    testbed.set_policy(policy(&["example.org", "new.example"], false));
    exchange(&mut client, request, "hello").await;
    testbed.set_policy(policy(&["example.org:443"], false));
    tokio::time::timeout(Duration::from_secs(10), served).await.unwrap().unwrap().unwrap();
}
