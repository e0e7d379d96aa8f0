//! A provider over HTTP/2, where calls share a connection: none holds up another one.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use futures_util::stream::{StreamExt, once, pending, repeat};
use http::{Request, Response};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rigbox_testkit::eventually;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::host::Host;
use crate::tls::acceptor;

/// Calls that the provider lets be open on one connection.
const MAX_STREAMS: u32 = 4;
/// Time for a call that nothing holds up.
const TIMEOUT: Duration = Duration::from_secs(10);

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// Provider that counts the pieces which it could send.
#[derive(Clone, Default)]
struct Provider(Arc<AtomicUsize>);

impl Provider {
    /// Starts with this certificate.
    async fn start(certificate: &rcgen::CertifiedKey<rcgen::KeyPair>) -> (Self, SocketAddr) {
        let (provider, acceptor) = (Self::default(), acceptor(certificate, "h2"));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, served) = (listener.local_addr().unwrap(), provider.clone());
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (acceptor, served) = (acceptor.clone(), served.clone());
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service = service_fn(move |request| {
                        let served = served.clone();
                        async move { Ok::<_, Infallible>(served.respond(request).await) }
                    });
                    let mut http = http2::Builder::new(TokioExecutor::new());
                    http.max_concurrent_streams(MAX_STREAMS);
                    let _ = http.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        (provider, address)
    }

    async fn respond(&self, request: Request<Incoming>) -> Response<Body> {
        let body = request.into_body().collect().await.unwrap().to_bytes();
        let text = String::from_utf8_lossy(&body);
        let sent = self.0.clone();
        let ping = || Frame::data(Bytes::from_static(b"event: ping\ndata: {\"type\": \"ping\"}\n\n"));
        let (kind, body) = if text.contains("[flood]") {
            let pieces = repeat(()).map(move |()| {
                sent.fetch_add(1, Ordering::SeqCst);
                Ok(Frame::data(Bytes::from(format!("event: ping\ndata: {}\n\n", "x".repeat(8_000)))))
            });
            ("text/event-stream", BodyExt::boxed_unsync(StreamBody::new(pieces)))
        } else if text.contains("[hold]") {
            let pieces = once(async move { Ok(ping()) }).chain(pending());
            ("text/event-stream", BodyExt::boxed_unsync(StreamBody::new(pieces)))
        } else {
            let answer = json!({"type": "message", "content": [], "stop_reason": "end_turn",
                "usage": {"input_tokens": 1, "output_tokens": 1}});
            ("application/json", Full::from(answer.to_string()).boxed_unsync())
        };
        Response::builder().header("content-type", kind).body(body).unwrap()
    }
}

fn call(text: &str) -> Value {
    json!({"model": "claude", "max_tokens": 10, "stream": text.starts_with('['),
        "messages": [{"role": "user", "content": text}]})
}

/// Begins so many calls.
async fn open(host: &Host, text: &str, calls: u32) -> Vec<TcpStream> {
    let body = call(text).to_string();
    let begun = (0..calls).map(|_| host.open("POST", "/v1/messages", &[], body.as_bytes()));
    join_all(begun).await
}

async fn start() -> (Host, Provider) {
    let certificate = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let authorities = folder.path().join("authorities.pem");
    std::fs::write(&authorities, certificate.cert.pem()).unwrap();
    let host = Host::start_changed(|config| config.extra_authorities = Some(authorities)).await;
    let (provider, address) = Provider::start(&certificate).await;
    host.control.with(|ledger| {
        ledger.setup.upstreams.iter_mut().for_each(|up| up.base_url = format!("https://{address}"));
    });
    let answer = async || host.post("/v1/messages", &call("hello")).await.body;
    eventually("the provider over HTTP/2 is asked", async || answer().await.contains("\"content\":[]")).await;
    (host, provider)
}

#[tokio::test]
async fn answers_that_nobody_reads_hold_up_no_other_one() {
    let (host, provider) = start().await;
    let unread = open(&host, "[flood]", MAX_STREAMS - 1).await;
    let is_full = async || {
        let sent = provider.0.load(Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(500)).await;
        sent > 0 && sent == provider.0.load(Ordering::SeqCst)
    };
    eventually("the provider can send no more", is_full).await;
    let other = timeout(TIMEOUT, host.post("/v1/messages", &call("hello"))).await;
    assert_eq!(other.expect("it is not held up").status, 200);
    drop(unread);
}

#[tokio::test]
async fn workspace_with_many_calls_holds_up_no_other_one() {
    let (host, _) = start().await;
    let held = open(&host, "[hold]", MAX_STREAMS).await;
    eventually("all are open", async || host.control.with(|ledger| ledger.reserved.len() == held.len()))
        .await;
    for stream in &held {
        stream.readable().await.unwrap();
    }
    let neighbor = host.neighbor().await;
    let body = call("hello").to_string();
    let other = async {
        Host::read(Host::open_at(neighbor, "POST", "/v1/messages", &[], body.as_bytes()).await).await
    };
    assert_eq!(timeout(TIMEOUT, other).await.expect("it is not held up").status, 200);
}
