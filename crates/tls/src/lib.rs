//! TLS with clients of the API and of apps: selects the certificate by host name, and reloads certificates at run time. The supervisor
//! copies the files, which the roles may not read in place, into one folder per role, as pairs `<n>.crt` and `<n>.key`.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::SystemTime;

use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert, ServerConfig};
use rustls::sign::CertifiedKey;
use tokio_rustls::TlsAcceptor;
use webpki::EndEntityCert;

/// Error of the certificates.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file is unreadable.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// Path of the file.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
    /// A pair is invalid.
    #[error("{} is not a certificate with its key: {problem}; check the certificates in the configuration", path.display())]
    Bad {
        /// Path of the certificate.
        path: PathBuf,
        /// Problem.
        problem: String,
    },
    /// The folder has no certificate.
    #[error("no certificate in {}: add at least one to the configuration", .0.display())]
    None(PathBuf),
}

/// Certificates in use.
#[derive(Debug)]
pub struct Certificates {
    folder: PathBuf,
    names: RwLock<CertificateStore>,
    /// State of the folder when it was last read.
    seen: Mutex<Fingerprint>,
}

/// Files with their modification times and sizes.
type Fingerprint = Vec<(PathBuf, Option<SystemTime>, u64)>;

#[derive(Debug, Default)]
struct CertificateStore {
    /// Keys by host name; wildcards as `*.example.org`.
    keys: HashMap<String, Arc<CertifiedKey>>,
    /// For clients that name no host.
    first: Option<Arc<CertifiedKey>>,
}

impl Certificates {
    /// Loads the folder.
    ///
    /// # Errors
    /// [`TlsError`]
    pub fn load(folder: &Path) -> Result<Arc<Self>, TlsError> {
        let (fingerprint, names) = (fingerprint(folder)?, read(folder)?);
        let (seen, names) = (Mutex::new(fingerprint), RwLock::new(names));
        Ok(Arc::new(Self { folder: folder.to_owned(), names, seen }))
    }

    /// Reloads the folder if it has changed. Open connections keep their certificate.
    pub fn reload_if_changed(&self) {
        let Ok(fingerprint) = fingerprint(&self.folder) else { return };
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if *seen == fingerprint {
            return;
        }
        match read(&self.folder) {
            Ok(names) => {
                *self.names.write().unwrap_or_else(PoisonError::into_inner) = names;
                *seen = fingerprint;
                tracing::info!("loaded new certificates");
            }
            // Perhaps a key was written and its certificate is about to be.
            Err(error) => tracing::warn!(%error, "failed to load certificates; keeping the old ones"),
        }
    }

    fn by_name(&self, name: Option<&str>) -> Option<Arc<CertifiedKey>> {
        let names = self.names.read().unwrap_or_else(PoisonError::into_inner);
        let Some(name) = name else { return names.first.clone() };
        let name = name.to_ascii_lowercase();
        let wildcard = || {
            let (_, rest) = name.split_once('.')?;
            names.keys.get(&format!("*.{rest}"))
        };
        names.keys.get(&name).or_else(wildcard).cloned()
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.by_name(hello.server_name())
    }
}

/// Returns an acceptor with these certificates, for the protocols `alpn` (RFC 7301), best first.
///
/// # Errors
/// The library refuses its settings.
pub fn acceptor(certificates: Arc<Certificates>, alpn: &[&str]) -> Result<TlsAcceptor, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(certificates);
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    config.ticketer = aws_lc_rs::Ticketer::new()?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn fingerprint(folder: &Path) -> Result<Fingerprint, TlsError> {
    let at = |source| TlsError::Read { path: folder.to_owned(), source };
    let mut fingerprint = Vec::new();
    for entry in fs::read_dir(folder).map_err(at)? {
        let entry = entry.map_err(at)?;
        let data = entry.metadata().map_err(at)?;
        fingerprint.push((entry.path(), data.modified().ok(), data.len()));
    }
    fingerprint.sort();
    Ok(fingerprint)
}

fn read(folder: &Path) -> Result<CertificateStore, TlsError> {
    let provider = aws_lc_rs::default_provider();
    let mut names = CertificateStore::default();
    for number in 0.. {
        let path = folder.join(format!("{number}.crt"));
        if !path.exists() {
            break;
        }
        let (key, covered) = pair(&path, &path.with_extension("key"), &provider)?;
        names.first.get_or_insert_with(|| Arc::clone(&key));
        for name in covered {
            names.keys.entry(name).or_insert_with(|| Arc::clone(&key));
        }
    }
    if names.first.is_none() { Err(TlsError::None(folder.to_owned())) } else { Ok(names) }
}

/// Loads a certificate with its key. Returns the host names it is for.
fn pair(
    certificate: &Path,
    key: &Path,
    provider: &CryptoProvider,
) -> Result<(Arc<CertifiedKey>, Vec<String>), TlsError> {
    let bytes =
        |path: &Path| fs::read(path).map_err(|source| TlsError::Read { path: path.to_owned(), source });
    let bad = |problem: String| TlsError::Bad { path: certificate.to_owned(), problem };
    let chain = CertificateDer::pem_slice_iter(&bytes(certificate)?)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| bad(error.to_string()))?;
    let secret = PrivateKeyDer::from_pem_slice(&bytes(key)?).map_err(|error| bad(error.to_string()))?;
    let first = chain.first().ok_or_else(|| bad("the file contains no certificate".to_owned()))?;
    let parsed = EndEntityCert::try_from(first).map_err(|error| bad(error.to_string()))?;
    let names: Vec<String> = parsed.valid_dns_names().map(str::to_ascii_lowercase).collect();
    if names.is_empty() {
        return Err(bad("it names no host".to_owned()));
    }
    let key = CertifiedKey::from_der(chain, secret, provider).map_err(|error| bad(error.to_string()))?;
    Ok((Arc::new(key), names))
}
