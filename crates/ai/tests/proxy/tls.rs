//! TLS in front of a server of the tests.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs::default_provider;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

/// Returns what accepts TLS with this certificate, for one protocol above it.
pub(crate) fn acceptor(certificate: &rcgen::CertifiedKey<rcgen::KeyPair>, protocol: &str) -> TlsAcceptor {
    let key = PrivateKeyDer::try_from(certificate.signing_key.serialize_der()).unwrap();
    let mut config = ServerConfig::builder_with_provider(default_provider().into())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.cert.der().clone()], key)
        .unwrap();
    config.alpn_protocols = vec![protocol.into()];
    TlsAcceptor::from(Arc::new(config))
}

/// Serves TLS in front of a server, with this certificate. Returns the port.
pub(crate) async fn with_tls(server: SocketAddr, certificate: rcgen::CertifiedKey<rcgen::KeyPair>) -> u16 {
    let acceptor = acceptor(&certificate, "http/1.1");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (acceptor, (stream, _)) = (acceptor.clone(), listener.accept().await.unwrap());
            tokio::spawn(async move {
                let Ok(mut client) = acceptor.accept(stream).await else { return };
                let mut plain = TcpStream::connect(server).await.unwrap();
                let _ = copy_bidirectional(&mut client, &mut plain).await;
            });
        }
    });
    port
}
