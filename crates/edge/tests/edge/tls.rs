//! TLS: a certificate for each name, new ones at run time, HTTP/2 by ALPN, and only redirects on the plain
//! port.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rigbox_proto::gateway::Visibility;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::support::http::{NAVIGATES, get, parse};
use crate::support::{HOST, World, eventually, route, soon};

/// Writes a self-signed certificate as the pair `number` of the folder.
fn write_pair(folder: &Path, number: u32, names: &[&str]) -> CertificateDer<'static> {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let made = rcgen::generate_simple_self_signed(names).unwrap();
    std::fs::write(folder.join(format!("{number}.key")), made.signing_key.serialize_pem()).unwrap();
    std::fs::write(folder.join(format!("{number}.crt")), made.cert.pem()).unwrap();
    made.cert.der().clone()
}

async fn connect(
    world: &World,
    trusted: &CertificateDer<'static>,
    name: &str,
    alpn: &[&[u8]],
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|one| one.to_vec()).collect();
    let stream = TcpStream::connect(world.tls.unwrap()).await.unwrap();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    soon("a handshake", TlsConnector::from(Arc::new(config)).connect(name, stream)).await
}

async fn world() -> (World, TempDir, CertificateDer<'static>) {
    let folder = tempfile::tempdir().unwrap();
    let wildcard = write_pair(folder.path(), 0, &["*.rigbox.localhost"]);
    let world = World::with_tls(folder.path()).await;
    let mut secure = route(Visibility::Private);
    secure.origin = format!("https://{HOST}");
    world.gateway.set_route(HOST, Some(secure));
    // Makes sure that the certificates to be replaced are loaded.
    connect(&world, &wildcard, HOST, &[]).await.unwrap();
    (world, folder, wildcard)
}

#[tokio::test(flavor = "multi_thread")]
async fn each_name_has_its_own_certificate_or_none() {
    let (world, folder, wildcard) = world().await;
    let own = write_pair(folder.path(), 1, &["shop.example"]);
    // Found at run time.
    eventually("the new certificate is in use", async || {
        connect(&world, &own, "shop.example", &[]).await.is_ok()
    })
    .await;
    assert!(connect(&world, &wildcard, HOST, &[]).await.is_ok());
    for name in ["other.example", "a.b.rigbox.localhost", "rigbox.localhost"] {
        assert!(connect(&world, &wildcard, name, &[]).await.is_err(), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_certificate_pair_keeps_the_old_one() {
    let (world, folder, wildcard) = world().await;
    // The key of another certificate, as in the middle of a renewal.
    let other = rcgen::generate_simple_self_signed(vec![HOST.to_owned()]).unwrap();
    std::fs::write(folder.path().join("0.key"), other.signing_key.serialize_pem()).unwrap();
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(3) {
        assert!(connect(&world, &wildcard, HOST, &[]).await.is_ok());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    std::fs::write(folder.path().join("0.crt"), other.cert.pem()).unwrap();
    eventually("the renewed certificate is in use", async || {
        connect(&world, other.cert.der(), HOST, &[]).await.is_ok()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn http2_is_agreed_on_and_cookies_are_bound_to_the_host() {
    let (world, _folder, wildcard) = world().await;
    let stream = connect(&world, &wildcard, HOST, &[b"h2", b"http/1.1"]).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let mut stream = connect(&world, &wildcard, HOST, &[b"http/1.1"]).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    let mut request = format!("GET /page HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\n");
    for (name, value) in NAVIGATES {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    stream.write_all(format!("{request}\r\n").as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let _ = soon("a response", stream.read_to_end(&mut answer)).await;
    let reply = parse(&answer).unwrap();
    assert_eq!(reply.status, 302);
    let cookie = reply.header("set-cookie");
    assert!(cookie.starts_with("__Host-rigbox_state_") && cookie.ends_with("; Secure"), "{cookie}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_tls_a_client_is_only_sent_to_it() {
    let (world, _folder, _) = world().await;
    let port = world.tls.unwrap().port();
    let key = rigbox_testkit::gateway::shown("key", "owner");
    let reply = get(world.edge, "/a?b=c", &[("x-rigbox-key", &key)]).await;
    assert_eq!(reply.status, 308);
    assert_eq!(reply.header("location"), format!("https://{HOST}:{port}/a?b=c"));
    assert_eq!(world.backend.requests(), 0);
}
