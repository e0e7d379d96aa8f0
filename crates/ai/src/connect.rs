//! TCP connections to providers: straight to them, or through the operator's proxy. That one is asked for a tunnel to the provider's name and
//! port (`CONNECT`) and sees TLS alone, so a plain connection is refused where there is a proxy: it would show the keys.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::task::{Context, Poll};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures_util::future::BoxFuture;
use hickory_resolver::TokioResolver;
use http::uri::Scheme;
use http::{HeaderValue, Uri};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::Name;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tower::Service;
use zeroize::Zeroizing;

use crate::config::{Proxy, SecretSource};

/// Interval of probes on a silent connection.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(60);

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Error of the configured proxy.
#[derive(Debug, thiserror::Error)]
pub enum ProxyConfigError {
    /// The file with user and password cannot be read.
    #[error("cannot read user and password of the AI proxy's own proxy from {0}: {1}")]
    File(PathBuf, std::io::Error),
    /// The environment variable is not set.
    #[error(
        "the environment variable {0} is not set, which has user and password of the AI proxy's own proxy"
    )]
    Variable(String),
    /// They have another form.
    #[error("user and password of the AI proxy's own proxy are one line such as `user:password`")]
    Form,
}

/// Error of a connection through the proxy. It names the proxy, for the operator.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProxyError {
    /// The cause says if it refused.
    #[error("the proxy {0} made no connection")]
    NotConnected(Uri, #[source] BoxError),
    #[error("the proxy {0} made no connection within {1:?}")]
    Timeout(Uri, Duration),
    #[error("the proxy {0} is not used for plain HTTP, which would show it the key; use an https upstream")]
    Plain(Uri),
}

/// Proxy with what it is sent.
#[derive(Debug, Clone)]
pub(crate) struct ReadyProxy {
    url: Uri,
    authorization: Option<HeaderValue>,
}

impl ReadyProxy {
    /// Reads user and password, before the role's root is changed.
    pub(crate) fn read(config: &Proxy) -> Result<Self, ProxyConfigError> {
        let authorization = config.credentials.as_ref().map(authorization).transpose()?;
        Ok(Self { url: config.url.clone(), authorization })
    }
}

fn authorization(source: &SecretSource) -> Result<HeaderValue, ProxyConfigError> {
    let text = Zeroizing::new(match source {
        SecretSource::File(path) => {
            std::fs::read_to_string(path).map_err(|problem| ProxyConfigError::File(path.clone(), problem))?
        }
        SecretSource::Env(name) => {
            std::env::var(name).map_err(|_| ProxyConfigError::Variable(name.clone()))?
        }
    });
    let text = text.trim();
    if !text.contains(':') || text.contains(char::is_control) {
        return Err(ProxyConfigError::Form);
    }
    let header = Zeroizing::new(format!("Basic {}", STANDARD.encode(text)));
    let mut header = HeaderValue::from_str(&header).map_err(|_| ProxyConfigError::Form)?;
    header.set_sensitive(true);
    Ok(header)
}

/// Resolver as hyper asks it.
#[derive(Clone)]
pub(crate) struct Names(TokioResolver);

impl Service<Name> for Names {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = std::io::Error;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let resolver = self.0.clone();
        Box::pin(async move {
            let found = resolver.lookup_ip(name.as_str()).await.map_err(std::io::Error::other)?;
            let addresses: Vec<_> = found.iter().map(|address| SocketAddr::new(address, 0)).collect();
            Ok(addresses.into_iter())
        })
    }
}

/// Maker of TCP connections to providers.
#[derive(Clone)]
pub(crate) struct Connector {
    straight: HttpConnector<Names>,
    /// The proxy, with the way through it.
    through: Option<(Uri, Tunnel<HttpConnector<Names>>)>,
    timeout: Duration,
}

impl Connector {
    /// Creates a maker of connections, each within `timeout`.
    pub(crate) fn new(resolver: TokioResolver, timeout: Duration, proxy: Option<ReadyProxy>) -> Self {
        let mut tcp = HttpConnector::new_with_resolver(Names(resolver));
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(timeout));
        tcp.set_keepalive(Some(KEEPALIVE_INTERVAL));
        let through = proxy.map(|ReadyProxy { url, authorization }| {
            let tunnel = Tunnel::new(url.clone(), tcp.clone());
            match authorization {
                Some(authorization) => (url, tunnel.with_auth(authorization)),
                None => (url, tunnel),
            }
        });
        Self { straight: tcp, through, timeout }
    }
}

impl Service<Uri> for Connector {
    type Response = TokioIo<TcpStream>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        match &mut self.through {
            Some((_, tunnel)) => tunnel.poll_ready(context).map_err(Into::into),
            None => self.straight.poll_ready(context).map_err(Into::into),
        }
    }

    fn call(&mut self, provider: Uri) -> Self::Future {
        let Some((proxy, tunnel)) = &mut self.through else {
            let connecting = self.straight.call(provider);
            return Box::pin(async move { connecting.await.map_err(Into::into) });
        };
        let (proxy, timeout) = (proxy.clone(), self.timeout);
        if provider.scheme() != Some(&Scheme::HTTPS) {
            return Box::pin(async move { Err(ProxyError::Plain(proxy).into()) });
        }
        let connecting = tunnel.call(provider);
        Box::pin(async move {
            match tokio::time::timeout(timeout, connecting).await {
                Ok(Ok(stream)) => Ok(stream),
                Ok(Err(error)) => Err(ProxyError::NotConnected(proxy, error.into()).into()),
                Err(_) => Err(ProxyError::Timeout(proxy, timeout).into()),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_and_password_come_from_a_file_and_are_not_printed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("credentials");
        let read = |text: &str| {
            std::fs::write(&path, text).unwrap();
            let credentials = Some(SecretSource::File(path.clone()));
            ReadyProxy::read(&Proxy { url: Uri::from_static("http://p:3128"), credentials })
        };
        let proxy = read("ada:pass:word\n").unwrap();
        let header = proxy.authorization.clone().unwrap();
        assert_eq!(header.to_str().unwrap(), format!("Basic {}", STANDARD.encode("ada:pass:word")));
        assert!(!format!("{proxy:?}").contains("Basic"), "{proxy:?}");
        for bad in ["", "ada", "ada:x\nmore"] {
            assert!(matches!(read(bad), Err(ProxyConfigError::Form)), "{bad}");
        }
        std::fs::remove_file(&path).unwrap();
        let missing = Proxy {
            url: Uri::from_static("http://p:3128"),
            credentials: Some(SecretSource::Env("RIGBOX_NO_SUCH_VARIABLE".to_owned())),
        };
        assert!(matches!(ReadyProxy::read(&missing), Err(ProxyConfigError::Variable(_))));
    }
}
