//! Certificate of the fake provider, in files that its process and the proxies read.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::addresses::PROVIDER;

/// Protocols above TLS, as providers offer them.
pub(super) const HTTP_2: &[u8] = b"h2";
const HTTP_1: &[u8] = b"http/1.1";

/// File with the certificate, which is its own authority.
pub(super) fn path(folder: &Path) -> PathBuf {
    folder.join("provider.pem")
}

fn key_path(folder: &Path) -> PathBuf {
    folder.join("provider.key")
}

/// Creates it.
pub(super) fn create(folder: &Path) -> Result<()> {
    let made = rcgen::generate_simple_self_signed(vec![PROVIDER.ip().to_string()])?;
    fs::write(path(folder), made.cert.pem())?;
    Ok(fs::write(key_path(folder), made.signing_key.serialize_pem())?)
}

/// Returns what accepts TLS with it.
pub(super) fn acceptor(folder: &Path) -> Result<TlsAcceptor> {
    let chain = vec![CertificateDer::from_pem_file(path(folder))?];
    let key = PrivateKeyDer::from_pem_file(key_path(folder))?;
    let mut config = ServerConfig::builder_with_provider(default_provider().into())
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![HTTP_2.to_vec(), HTTP_1.to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}
