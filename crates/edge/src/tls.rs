//! TLS with clients: which certificate a host name gets, and new ones while the role runs. Files come from the supervisor, which may read
//! what this role may not, as pairs `<n>.crt` and `<n>.key` in one folder.

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

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The files cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// They are not what they should be.
    #[error("{} is no certificate with its key: {problem}. See apps.tls.certificates", path.display())]
    Bad {
        /// Which.
        path: PathBuf,
        /// Why.
        problem: String,
    },
    /// There are none.
    #[error("there is no certificate in {}: name at least one in apps.tls.certificates", .0.display())]
    None(PathBuf),
}

/// The certificates that are in use.
#[derive(Debug)]
pub(crate) struct Certificates {
    folder: PathBuf,
    names: RwLock<Names>,
    /// What the folder looked like when it was read.
    seen: Mutex<Looks>,
}

/// Files with their times and sizes.
type Looks = Vec<(PathBuf, Option<SystemTime>, u64)>;

#[derive(Debug, Default)]
struct Names {
    /// `*.example.org` stands as it is.
    keys: HashMap<String, Arc<CertifiedKey>>,
    /// For clients that name no host.
    first: Option<Arc<CertifiedKey>>,
}

impl Certificates {
    /// Reads the folder.
    pub(crate) fn load(folder: &Path) -> Result<Arc<Self>, TlsError> {
        let (looks, names) = (look(folder)?, read(folder)?);
        let (seen, names) = (Mutex::new(looks), RwLock::new(names));
        Ok(Arc::new(Self { folder: folder.to_owned(), names, seen }))
    }

    /// Reads the folder again if it has changed. Connections that are open keep what they began with.
    pub(crate) fn look_again(&self) {
        let Ok(looks) = look(&self.folder) else { return };
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if *seen == looks {
            return;
        }
        match read(&self.folder) {
            Ok(names) => {
                *self.names.write().unwrap_or_else(PoisonError::into_inner) = names;
                *seen = looks;
                tracing::info!("new certificates are in use");
            }
            // Perhaps a key was written and its certificate is about to be.
            Err(error) => tracing::warn!(%error, "the certificates stay as they were"),
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

/// What serves TLS with these certificates.
pub(crate) fn acceptor(certificates: Arc<Certificates>) -> Result<TlsAcceptor, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(certificates);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.ticketer = aws_lc_rs::Ticketer::new()?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn look(folder: &Path) -> Result<Looks, TlsError> {
    let at = |source| TlsError::Read { path: folder.to_owned(), source };
    let mut looks = Vec::new();
    for entry in fs::read_dir(folder).map_err(at)? {
        let entry = entry.map_err(at)?;
        let data = entry.metadata().map_err(at)?;
        looks.push((entry.path(), data.modified().ok(), data.len()));
    }
    looks.sort();
    Ok(looks)
}

fn read(folder: &Path) -> Result<Names, TlsError> {
    let provider = aws_lc_rs::default_provider();
    let mut names = Names::default();
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

/// A certificate with its key, and the names that it is for.
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
    let first = chain.first().ok_or_else(|| bad("there is none in it".to_owned()))?;
    let parsed = EndEntityCert::try_from(first).map_err(|error| bad(error.to_string()))?;
    let names: Vec<String> = parsed.valid_dns_names().map(str::to_ascii_lowercase).collect();
    if names.is_empty() {
        return Err(bad("it is for no host name".to_owned()));
    }
    let key = CertifiedKey::from_der(chain, secret, provider).map_err(|error| bad(error.to_string()))?;
    Ok((Arc::new(key), names))
}
