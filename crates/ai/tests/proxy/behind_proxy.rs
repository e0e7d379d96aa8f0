//! Calls through the operator's proxy: a real one, which makes tunnels to a provider with TLS.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rigbox_ai::{Config, Proxy, SecretSource};
use rigbox_proto::ai::{Ending, KeyVerdict};
use rigbox_testkit::eventually;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

use crate::host::Host;
use crate::tls::with_tls;

/// Name of the provider, which only the proxy knows.
const NAME: &str = "provider.test";
const CREDENTIALS: &str = "ada:pass:word";

fn hello() -> Value {
    json!({"model": "claude", "max_tokens": 1000, "messages": [{"role": "user", "content": "hello"}]})
}

/// Proxy that makes tunnels to loopback, whatever the name, with what it was asked.
#[derive(Clone)]
struct Tunnels {
    address: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
    /// Answer in place of a tunnel.
    refusal: Arc<Mutex<Option<&'static str>>>,
}

impl Tunnels {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let tunnels = Self { address, heads: Arc::default(), refusal: Arc::default() };
        let served = tunnels.clone();
        tokio::spawn(async move {
            loop {
                tokio::spawn(served.clone().serve(listener.accept().await.unwrap().0));
            }
        });
        tunnels
    }

    async fn serve(self, mut client: TcpStream) {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            head.push(client.read_u8().await.unwrap().into());
        }
        self.heads.lock().unwrap().push(head.clone());
        let refusal = *self.refusal.lock().unwrap();
        if let Some(refusal) = refusal {
            client.write_all(refusal.as_bytes()).await.unwrap();
            return;
        }
        let port = head.split([':', ' ']).nth(2).unwrap();
        let mut provider = TcpStream::connect(format!("127.0.0.1:{port}")).await.unwrap();
        client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await.unwrap();
        let _ = copy_bidirectional(&mut client, &mut provider).await;
    }

    fn configure(&self, config: &mut Config, credentials: &Path) {
        std::fs::write(credentials, format!("{CREDENTIALS}\n")).unwrap();
        config.proxy = Some(Proxy {
            url: format!("http://{}", self.address).parse().unwrap(),
            credentials: Some(SecretSource::File(credentials.to_owned())),
        });
    }

    fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }
}

/// Points all upstreams at a URL.
fn aim(host: &Host, url: &str) {
    host.control.with(|ledger| {
        ledger.setup.upstreams.iter_mut().for_each(|upstream| upstream.base_url = url.to_owned());
    });
}

#[tokio::test]
async fn provider_is_reached_through_the_proxy_by_its_name_and_tls() {
    let folder = tempfile::tempdir().unwrap();
    let (tunnels, authorities) = (Tunnels::start().await, folder.path().join("authorities.pem"));
    let certificate = rcgen::generate_simple_self_signed(vec![NAME.to_owned()]).unwrap();
    std::fs::write(&authorities, certificate.cert.pem()).unwrap();
    let host = Host::start_changed(|config| {
        tunnels.configure(config, &folder.path().join("credentials"));
        config.extra_authorities = Some(authorities);
    })
    .await;
    let port = with_tls(host.provider.address, certificate).await;
    aim(&host, &format!("https://{NAME}:{port}"));
    let is_reached = async || host.post("/v1/messages", &hello()).await.status == 200;
    eventually("the call is answered", is_reached).await;
    assert_eq!(host.provider.last().path, "/v1/messages");
    assert_eq!(host.test_keys(&["key-1"]).await[0].verdict(), KeyVerdict::Accepted);
    let heads = tunnels.heads();
    let expected = format!(
        "CONNECT {NAME}:{port} HTTP/1.1\r\nHost: {NAME}:{port}\r\nProxy-Authorization: Basic {}\r\n\r\n",
        STANDARD.encode(CREDENTIALS)
    );
    assert_eq!(heads.first(), Some(&expected));
    // What the tunnel carries is TLS, so a head has neither the key nor the request.
    assert!(heads.iter().all(|head| *head == expected), "{heads:?}");
}

#[tokio::test]
async fn proxy_that_refuses_is_named_and_nothing_is_paid() {
    let folder = tempfile::tempdir().unwrap();
    let tunnels = Tunnels::start().await;
    let host =
        Host::start_changed(|config| tunnels.configure(config, &folder.path().join("credentials"))).await;
    aim(&host, &format!("https://{NAME}:1"));
    *tunnels.refusal.lock().unwrap() = Some("HTTP/1.1 407 Proxy Authentication Required\r\n\r\n");
    let named = format!("the proxy http://{}/ made no connection", tunnels.address);
    let is_named = async || {
        let test = &host.test_keys(&["key-1"]).await[0];
        assert!(!format!("{test:?}").contains("pass"), "{test:?}");
        test.verdict() == KeyVerdict::Unreachable
            && test.detail.contains(&named)
            && test.detail.contains("authorization required")
    };
    eventually("the operator learns which proxy refused, and why", is_named).await;
    let answer = host.post("/v1/messages", &hello()).await;
    // Its address is nobody's business in a VM.
    let port = tunnels.address.port().to_string();
    assert!(answer.body.contains("operator's proxy") && !answer.body.contains(&port), "{answer:?}");
    let settled = host.control.settled(0).await;
    assert_eq!((answer.status, settled.ending()), (502, Ending::NotSent));
    assert_eq!(host.control.with(|ledger| ledger.spent), 0);
}

#[tokio::test]
async fn plain_upstream_is_refused_where_a_proxy_would_see_its_key() {
    let folder = tempfile::tempdir().unwrap();
    let tunnels = Tunnels::start().await;
    let host =
        Host::start_changed(|config| tunnels.configure(config, &folder.path().join("credentials"))).await;
    // The provider of the tests is at an address by http.
    assert_eq!(host.post("/v1/messages", &hello()).await.status, 502);
    assert!(host.test_keys(&["key-1"]).await[0].detail.contains("use an https upstream"));
    assert_eq!((tunnels.heads().len(), host.provider.seen().len()), (0, 0));
}
