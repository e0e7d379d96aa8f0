//! Requests with a user's credential, to a host with TLS that records what it gets and answers by the path.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use rigbox_ai::{Config, Limits};
use rigbox_core::egress::BlockedNetworks;
use rigbox_proto::ai::Secret;
use rigbox_testkit::eventually;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use crate::host::{Answer, Host};
use crate::tls::with_tls;

const TOKEN: &str = "ghp_ada-token-0123456789";
/// Record of an answer that the proxy has not read to its end.
const GIVEN_UP: &str = "given up";
/// Size of an answer that fits into no buffer on its way.
const LARGE_BYTES: usize = 5 << 23;
/// Path of an answer that fills every buffer on its way, however large.
const ENDLESS: &str = "/endless";
/// Name of this host that the resolver knows.
const NAME: &str = "localhost";

/// Host of a credential, with the requests that it got.
struct Api {
    host: Host,
    port: u16,
    seen: Arc<Mutex<Vec<String>>>,
    _folder: tempfile::TempDir,
}

/// Reads a request, head and body, as text.
async fn read_request(stream: &mut BufReader<TcpStream>) -> Option<String> {
    let mut text = String::new();
    while !text.ends_with("\r\n\r\n") {
        if stream.read_line(&mut text).await.ok()? == 0 {
            return None;
        }
    }
    let lower = text.to_ascii_lowercase();
    let length = lower.split("content-length: ").nth(1).and_then(|rest| rest.split('\r').next());
    let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
    stream.read_exact(&mut body).await.ok()?;
    Some(text + &String::from_utf8(body).unwrap())
}

fn answer(request: &str) -> Vec<Vec<u8>> {
    let whole = |head: &str, body: &str| {
        vec![format!("HTTP/1.1 {head}\r\ncontent-length: {}\r\n\r\n{body}", body.len()).into_bytes()]
    };
    let path = request.split(' ').nth(1).unwrap();
    match path {
        "/echo" => whole("200 OK", request),
        "/echo-in-pieces" => {
            let (start, end) = TOKEN.split_at(7);
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\nit is {start}", TOKEN.len() + 7);
            vec![head.into_bytes(), format!("{end}!").into_bytes()]
        }
        "/echo-in-a-header" => whole(&format!("200 OK\r\nx-token: Bearer {TOKEN}\r\nx-other: 1"), "fine"),
        "/packed" => whole("200 OK\r\ncontent-encoding: gzip", "not searched"),
        "/words" => {
            vec![format!("HTTP/1.1 401 bad token {TOKEN}\r\ncontent-length: 4\r\n\r\nfine").into_bytes()]
        }
        "/large-chunked" => {
            let body = "line\n".repeat(LARGE_BYTES / 5);
            let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
            vec![format!("{head}{LARGE_BYTES:x}\r\n{body}\r\n0\r\n\r\n").into_bytes()]
        }
        ENDLESS => vec![b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_vec()],
        "/cookie" => whole("200 OK\r\nset-cookie: a=b; Domain=example.org; Path=/", "fine"),
        "/moved" => whole(&format!("302 Found\r\nlocation: https://{NAME}:PORT/new"), ""),
        "/elsewhere" => whole("302 Found\r\nlocation: https://evil.example/new", ""),
        _ => whole("200 OK\r\nstrict-transport-security: max-age=1\r\nx-request-id: r1", "hello"),
    }
}

impl Api {
    async fn start() -> Self {
        Self::start_changed(|_| {}).await
    }

    async fn start_changed(change: impl FnOnce(&mut Config)) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let certificate = rcgen::generate_simple_self_signed(vec![NAME.to_owned()]).unwrap();
        let authorities = folder.path().join("authorities.pem");
        std::fs::write(&authorities, certificate.cert.pem()).unwrap();
        let port = with_tls(address, certificate).await;
        let seen: Arc<Mutex<Vec<String>>> = Arc::default();
        let recorded = seen.clone();
        tokio::spawn(async move {
            loop {
                let (recorded, stream) = (recorded.clone(), listener.accept().await.unwrap().0);
                tokio::spawn(async move {
                    let mut stream = BufReader::new(stream);
                    while let Some(request) = read_request(&mut stream).await {
                        recorded.lock().unwrap().push(request.clone());
                        for piece in answer(&request) {
                            let piece = String::from_utf8(piece).unwrap().replace("PORT", &port.to_string());
                            let written = stream.write_all(piece.as_bytes()).await;
                            if written.and(stream.flush().await).is_err() {
                                return recorded.lock().unwrap().push(GIVEN_UP.to_owned());
                            }
                            // The next piece is one of its own.
                            tokio::task::yield_now().await;
                        }
                        if request.starts_with(&format!("GET {ENDLESS} ")) {
                            let piece = format!("10000\r\n{}\r\n", "x".repeat(1 << 16));
                            while stream.write_all(piece.as_bytes()).await.is_ok() {}
                            return recorded.lock().unwrap().push(GIVEN_UP.to_owned());
                        }
                    }
                });
            }
        });
        let host = Host::start_changed(|config| {
            config.extra_authorities = Some(authorities);
            change(config);
        })
        .await;
        let api = Self { host, port, seen, _folder: folder };
        api.give("github", api.secret());
        api
    }

    fn secret(&self) -> Secret {
        Secret {
            host: NAME.into(),
            port: self.port.into(),
            header: "authorization".into(),
            format: "Bearer {}".into(),
            value: TOKEN.into(),
            owner: "us-aaaaaaaa".into(),
        }
    }

    fn give(&self, name: &str, secret: Secret) {
        self.host.control.with(|ledger| drop(ledger.secrets.insert(name.to_owned(), secret)));
    }

    async fn get(&self, path: &str) -> Answer {
        self.host.get(path).await
    }

    fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }
}

#[tokio::test]
async fn request_gets_the_credential_and_nothing_else_of_it_changes() {
    let api = Api::start().await;
    let headers = [
        ("authorization", "Bearer of-the-vm"),
        ("Authorization", "Bearer another"),
        ("x-kept", "1"),
        ("accept-encoding", "gzip"),
        ("proxy-authorization", "Basic x"),
        ("te", "trailers"),
    ];
    let answer = api.host.send("PATCH", "/proxy/github/repos/a%2Fb?page=2", &headers, b"{\"a\":1}").await;
    assert_eq!((answer.status, answer.body.as_str(), answer.is_whole), (200, "hello", true));
    assert!(
        answer.head.contains("x-request-id: r1") && !answer.head.contains("strict-transport"),
        "{answer:?}"
    );
    let [seen] = api.seen().try_into().unwrap();
    let (head, body) = seen.split_once("\r\n\r\n").unwrap();
    let mut lines: Vec<_> = head.lines().map(str::to_lowercase).collect();
    assert_eq!(lines.remove(0), "patch /repos/a%2fb?page=2 http/1.1");
    lines.sort();
    let host = format!("host: {NAME}:{}", api.port);
    let token = format!("authorization: bearer {TOKEN}");
    assert_eq!(lines, ["accept-encoding: identity", &token, "content-length: 7", &host, "x-kept: 1"]);
    assert_eq!(body, "{\"a\":1}");
}

#[tokio::test]
async fn credential_that_comes_back_does_not_reach_the_workspace() {
    let api = Api::start().await;
    let answer = api.get("/proxy/github/echo").await;
    assert!(answer.status == 502 && answer.body.contains("secret_echoed"), "{answer:?}");
    for path in ["/echo", "/echo-in-pieces"] {
        let answer = api.get(&format!("/proxy/github{path}")).await;
        assert!(!answer.is_whole || !answer.body.contains(TOKEN), "{path}: {answer:?}");
        assert!(!answer.body.contains(&TOKEN[..5]), "{path}: {answer:?}");
    }
    // Nor in the host's own words for a status.
    let answer = api.get("/proxy/github/words").await;
    assert!(answer.status == 401 && answer.body == "fine" && !answer.head.contains(TOKEN), "{answer:?}");
    let answer = api.get("/proxy/github/echo-in-a-header").await;
    assert!(
        answer.body == "fine" && answer.head.contains("x-other") && !answer.head.contains("x-token"),
        "{answer:?}"
    );
    assert_eq!(api.get("/proxy/github/packed").await.status, 502);
    let traced = api.host.send("TRACE", "/proxy/github/echo", &[], b"").await;
    assert_eq!(traced.status, 501, "{traced:?}");
    assert_eq!(api.seen().len(), 6, "no TRACE reaches the host");
}

#[tokio::test]
async fn redirect_is_not_followed_and_stays_here_within_the_host() {
    let api = Api::start().await;
    let moved = api.get("/proxy/github/moved").await;
    assert!(moved.status == 302 && moved.head.contains("location: /proxy/github/new"), "{moved:?}");
    let elsewhere = api.get("/proxy/github/elsewhere").await;
    assert!(elsewhere.head.contains("location: https://evil.example/new"), "{elsewhere:?}");
    assert_eq!(api.seen().len(), 2);
}

#[tokio::test]
async fn request_goes_to_the_credentials_host_whatever_it_says() {
    let api = Api::start().await;
    for path in
        ["//evil.example/x", "/@evil.example/x", "/https://evil.example/x", "/../other/x", "/%2e%2e/other"]
    {
        let answer = api.get(&format!("/proxy/github{path}")).await;
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        assert!(api.seen().last().unwrap().starts_with(&format!("GET {path} HTTP/1.1\r\n")), "{path}");
    }
    let seen = api.seen().len();
    // The bridge has one name, and a page of another origin has no business there.
    let forged = api.host.send("GET", "/proxy/github/x", &[("origin", "https://evil.example")], b"").await;
    assert_eq!(forged.status, 403);
    for path in ["/proxy/", "/proxy/other/x", "/proxy/GITHUB/x", "/proxy/git%68ub/x", "/proxy//x"] {
        assert_eq!(api.get(path).await.status, 404, "{path}");
    }
    assert_eq!(api.seen().len(), seen);
}

#[tokio::test]
async fn host_without_its_certificate_gets_nothing() {
    let api = Api::start().await;
    // The certificate is for another name.
    api.give("renamed", Secret { host: "other.localhost".into(), ..api.secret() });
    // Nobody listens there.
    api.give("away", Secret { port: 1, ..api.secret() });
    for name in ["renamed", "away"] {
        let answer = api.get(&format!("/proxy/{name}/x")).await;
        assert!(answer.status == 502 && answer.body.contains("host_not_reached"), "{answer:?}");
    }
    assert!(api.seen().is_empty());
}

#[tokio::test]
async fn host_at_a_blocked_address_is_not_reached() {
    let blocked: Vec<_> = BlockedNetworks::default().iter().copied().collect();
    let api = Api::start_changed(|config| config.blocked_networks = blocked).await;
    let answer = api.get("/proxy/github/x").await;
    assert!(answer.status == 502 && answer.body.contains("host_not_reached"), "{answer:?}");
    assert!(api.seen().is_empty());
}

#[tokio::test]
async fn workspace_that_reads_nothing_keeps_its_places_for_a_time_only() {
    let idle = Duration::from_secs(3);
    let api = Api::start_changed(|config| config.limits = Limits { idle, ..Limits::default() }).await;
    let status = async || api.get("/proxy/github/x").await.status;
    let unread = Mutex::new(Vec::new());
    // More than fit are refused, and on a busy machine the first have ended before the last is there.
    eventually("all places are taken", async || {
        let answer = api.host.open("GET", "/proxy/github/endless", &[], b"").await;
        unread.lock().unwrap().push(answer);
        status().await == 429
    })
    .await;
    eventually("they are free again", async || status().await == 200).await;
}

#[tokio::test]
async fn answer_that_is_read_too_late_breaks_off() {
    let idle = Duration::from_secs(1);
    let api = Api::start_changed(|config| config.limits = Limits { idle, ..Limits::default() }).await;
    assert!(api.get("/proxy/github/large-chunked").await.is_whole);
    let unread = api.host.open("GET", "/proxy/github/large-chunked", &[], b"").await;
    eventually("the answer is given up", async || api.seen().iter().any(|seen| seen == GIVEN_UP)).await;
    let answer = Host::read(unread).await;
    assert!(!answer.is_whole && answer.status == 200, "{} bytes: {}", answer.body.len(), answer.head);
}

#[tokio::test]
async fn lengths_and_cookies_are_those_of_the_host() {
    let api = Api::start().await;
    assert_eq!(api.host.send("POST", "/proxy/github/x", &[], b"").await.status, 200);
    assert!(api.seen()[0].to_lowercase().contains("content-length: 0\r\n"), "{:?}", api.seen());
    let answer = api.get("/proxy/github/cookie").await;
    assert!(answer.head.contains("set-cookie: a=b; path=/proxy/github/\r\n"), "{answer:?}");
}
