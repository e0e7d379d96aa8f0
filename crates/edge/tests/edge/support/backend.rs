//! An app: responds by path, and records every byte that reaches it.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use http::header::{CONNECTION, SET_COOKIE, UPGRADE};
use http::{Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio_stream::wrappers::{IntervalStream, ReceiverStream};

pub(crate) type Body = BoxBody<Bytes, Infallible>;

#[derive(Default)]
pub(crate) struct Seen {
    bytes: Mutex<Vec<u8>>,
    pub(crate) requests: AtomicUsize,
    pub(crate) connections: AtomicUsize,
    pub(crate) uploaded: AtomicU64,
    /// Open WebSockets and streams.
    pub(crate) open: AtomicUsize,
}

pub(crate) struct Backend {
    pub(crate) address: SocketAddr,
    pub(crate) seen: Arc<Seen>,
}

impl Backend {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::<Seen>::default();
        let seen_by_server = Arc::clone(&seen);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let seen = Arc::clone(&seen_by_server);
                seen.connections.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(async move {
                    let io = TokioIo::new(Recorded { stream, seen: Arc::clone(&seen) });
                    let service = service_fn(move |request| answer(Arc::clone(&seen), request));
                    let connection = hyper::server::conn::http1::Builder::new().serve_connection(io, service);
                    let _ = connection.with_upgrades().await;
                });
            }
        });
        Self { address, seen }
    }

    /// Returns everything that has reached the app, as text, and clears it.
    pub(crate) fn take(&self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut *self.seen.bytes.lock().unwrap())).into_owned()
    }

    pub(crate) fn requests(&self) -> usize {
        self.seen.requests.load(Ordering::SeqCst)
    }
}

/// Counts an open stream.
struct Open(Arc<Seen>);

impl Open {
    fn new(seen: &Arc<Seen>) -> Self {
        seen.open.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(seen))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}

fn full(text: impl Into<Bytes>) -> Body {
    Full::new(text.into()).boxed()
}

async fn answer(seen: Arc<Seen>, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    seen.requests.fetch_add(1, Ordering::SeqCst);
    let path = request.uri().path().to_owned();
    Ok(match path.as_str() {
        "/hang" => std::future::pending().await,
        "/sse" => {
            let open = Open::new(&seen);
            let ticks = IntervalStream::new(tokio::time::interval(Duration::from_millis(50)));
            let body = ticks.map(move |_| {
                let _ = &open;
                Ok(Frame::data(Bytes::from_static(b"data: tick\n\n")))
            });
            Response::builder()
                .header("content-type", "text/event-stream")
                .body(BodyExt::boxed(StreamBody::new(body)))
                .unwrap()
        }
        "/big" => {
            #[expect(clippy::disallowed_methods, reason = "of one test")]
            let (sender, chunks) = tokio::sync::mpsc::channel(4);
            tokio::spawn(async move {
                for _ in 0..1024 {
                    if sender.send(Ok(Frame::data(Bytes::from(vec![7; 64 * 1024])))).await.is_err() {
                        break;
                    }
                    seen.uploaded.fetch_add(64 * 1024, Ordering::SeqCst);
                }
            });
            Response::new(BodyExt::boxed(StreamBody::new(ReceiverStream::new(chunks))))
        }
        "/upload" => {
            let mut body = request.into_body();
            while let Some(Ok(frame)) = body.frame().await {
                let count = frame.data_ref().map_or(0, Bytes::len) as u64;
                seen.uploaded.fetch_add(count, Ordering::SeqCst);
            }
            Response::new(full(seen.uploaded.load(Ordering::SeqCst).to_string()))
        }
        "/cookies" => Response::builder()
            .header(SET_COOKIE, "mine=1; Domain=rigbox.localhost; Path=/")
            .header(SET_COOKIE, "rigbox_app=evil; Path=/")
            .header(SET_COOKIE, "=rigbox_app=evil; Domain=rigbox.localhost")
            .header(SET_COOKIE, "other=2; HttpOnly")
            .header("x-rigbox-user", "evil")
            .header("keep-alive", "timeout=1")
            .body(full(""))
            .unwrap(),
        "/ws" => websocket(seen, request),
        _ => {
            let (head, body) = request.into_parts();
            let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
            let mut text = format!("{} {}\n", head.method, head.uri);
            for (name, value) in &head.headers {
                text.push_str(&format!("{name}: {}\n", String::from_utf8_lossy(value.as_bytes())));
            }
            text.push('\n');
            text.push_str(&String::from_utf8_lossy(&body));
            Response::new(full(text))
        }
    })
}

/// Echoes bytes.
fn websocket(seen: Arc<Seen>, mut request: Request<Incoming>) -> Response<Body> {
    let key = request.headers().get("sec-websocket-key").map(|key| key.as_bytes().to_vec());
    let Some(key) = key else {
        return Response::builder().status(StatusCode::BAD_REQUEST).body(full("no key")).unwrap();
    };
    let accept = tokio_tungstenite::tungstenite::handshake::derive_accept_key(&key);
    tokio::spawn(async move {
        let Ok(upgraded) = hyper::upgrade::on(&mut request).await else { return };
        let _open = Open::new(&seen);
        let mut io = TokioIo::new(upgraded);
        let socket = tokio_tungstenite::WebSocketStream::from_raw_socket(
            &mut io,
            tokio_tungstenite::tungstenite::protocol::Role::Server,
            None,
        );
        let (sink, stream) = socket.await.split();
        let _ = stream
            .take_while(|message| {
                let goes_on = message.as_ref().is_ok_and(|message| !message.is_close());
                async move { goes_on }
            })
            .forward(sink)
            .await;
    });
    Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(CONNECTION, "Upgrade")
        .header(UPGRADE, "websocket")
        .header("sec-websocket-accept", accept)
        .body(full(""))
        .unwrap()
}

struct Recorded {
    stream: TcpStream,
    seen: Arc<Seen>,
}

impl AsyncRead for Recorded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        let mut bytes = self.seen.bytes.lock().unwrap();
        // The start of a large upload suffices.
        if bytes.len() < 8 * 1024 * 1024 {
            bytes.extend_from_slice(&buf.filled()[before..]);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Recorded {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Starts a server that sends these bytes to each connection and waits.
pub(crate) async fn saying(bytes: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut room = [0; 4096];
                let _ = stream.read(&mut room).await;
                let _ = stream.write_all(bytes).await;
                let _ = stream.read(&mut room).await;
            });
        }
    });
    address
}

/// App that answers each head with bytes, whatever body follows.
pub(crate) struct Scripted {
    pub(crate) address: SocketAddr,
    /// Heads by the number of their connection.
    pub(crate) heads: Arc<Mutex<Vec<(usize, String)>>>,
}

impl Scripted {
    /// Starts an app that closes a connection which is idle for `idle`.
    pub(crate) async fn start(
        idle: Duration,
        reply: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let heads = Arc::<Mutex<Vec<(usize, String)>>>::default();
        let (seen, reply) = (Arc::clone(&heads), Arc::new(reply));
        tokio::spawn(async move {
            let mut number = 0;
            while let Ok((mut stream, _)) = listener.accept().await {
                number += 1;
                let (seen, reply) = (Arc::clone(&seen), Arc::clone(&reply));
                tokio::spawn(async move {
                    let mut wait = Duration::from_secs(60);
                    loop {
                        let head = tokio::time::timeout(wait, read_head(&mut stream)).await;
                        let Ok(Some(head)) = head else { break };
                        wait = idle;
                        let bytes = reply(&head);
                        seen.lock().unwrap().push((number, head));
                        let sent = stream.write_all(&bytes).await;
                        if bytes.is_empty() || idle.is_zero() || sent.is_err() {
                            break;
                        }
                    }
                });
            }
        });
        Self { address, heads }
    }
}

async fn read_head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    Some(String::from_utf8_lossy(&head).into_owned())
}
