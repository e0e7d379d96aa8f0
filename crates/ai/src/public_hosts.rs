//! Client of hosts that users name: by HTTPS, to public addresses only, which the resolvers of VMs tell. Each request has a connection of its own, because requests of
//! different workspaces on one connection would depend on how a stranger's server tells them apart.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::Name;
use hyper_util::client::legacy::{Client, Error};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rigbox_core::egress::Network;
use rustls::ClientConfig;
use tower::Service;

/// Body of a request to such a host.
pub(crate) type RequestBody = UnsyncBoxBody<Bytes, io::Error>;

/// Client of such hosts.
pub(crate) struct PublicHosts {
    client: Client<HttpsConnector<HttpConnector<PublicNames>>, RequestBody>,
}

impl PublicHosts {
    pub(crate) fn new(
        tls: ClientConfig,
        dns: &[SocketAddr],
        blocked: Vec<Network>,
        connect: Duration,
    ) -> Result<Self, NetError> {
        let servers = dns.iter().map(|server| {
            let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
                connection.port = server.port();
                connection
            });
            NameServerConfig::new(server.ip(), true, connections.into())
        });
        let config = ResolverConfig::from_name_servers(servers.collect());
        let resolver = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default()).build()?;
        let mut tcp = HttpConnector::new_with_resolver(PublicNames { resolver, blocked: blocked.into() });
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(connect));
        let connector = hyper_rustls::HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_only()
            .enable_http1()
            .wrap_connector(tcp);
        let client = Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_max_idle_per_host(0)
            .build(connector);
        Ok(Self { client })
    }

    /// Makes a request to a host with a name: an address is not looked up, and so not checked.
    pub(crate) async fn send(&self, request: Request<RequestBody>) -> Result<Response<Incoming>, Error> {
        self.client.request(request).await
    }
}

/// Resolver that returns public addresses only.
#[derive(Clone)]
struct PublicNames {
    resolver: TokioResolver,
    blocked: Arc<[Network]>,
}

impl Service<Name> for PublicNames {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = io::Error;
    type Future = BoxFuture<'static, Result<Self::Response, io::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), io::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let Self { resolver, blocked } = self.clone();
        Box::pin(async move {
            let found = resolver.lookup_ip(name.as_str()).await.map_err(io::Error::other)?;
            let addresses: Vec<_> = found
                .iter()
                .filter_map(|address| match address {
                    IpAddr::V4(address) => Some(address),
                    IpAddr::V6(_) => None,
                })
                .filter(|address| !is_blocked(*address, &blocked))
                .map(|address| SocketAddr::new(address.into(), 0))
                .collect();
            if addresses.is_empty() {
                return Err(io::Error::new(
                    io::ErrorKind::PermissionDenied,
                    "the name has no public address",
                ));
            }
            Ok(addresses.into_iter())
        })
    }
}

/// Tells if an address is in a blocked network, or one of this host's own.
fn is_blocked(address: Ipv4Addr, blocked: &[Network]) -> bool {
    blocked.iter().any(|network| network.contains(address)) || (!address.is_loopback() && is_own(address))
}

/// Tells if an address is one of this host's: from such a one the kernel would send to it. Nothing is sent.
fn is_own(address: Ipv4Addr) -> bool {
    let source = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).and_then(|socket| {
        socket.connect((address, 9))?;
        socket.local_addr()
    });
    // Without a route, the connection fails too.
    source.is_ok_and(|source| source.ip() == address)
}

#[cfg(test)]
mod tests {
    use rigbox_core::egress::BlockedNetworks;

    use super::*;

    #[test]
    fn addresses_of_no_public_host_are_blocked() {
        let blocked: Vec<_> =
            BlockedNetworks::new(&["198.41.0.0/24".parse().unwrap()]).iter().copied().collect();
        for address in
            ["127.0.0.1", "10.0.0.1", "169.254.169.254", "192.168.1.1", "0.0.0.0", "198.41.0.4", "224.0.0.1"]
        {
            assert!(is_blocked(address.parse().unwrap(), &blocked), "{address}");
        }
        assert!(!is_blocked("198.41.1.4".parse().unwrap(), &blocked));
    }

    #[test]
    fn address_of_this_host_is_its_own() {
        assert!(is_own(Ipv4Addr::LOCALHOST));
        assert!(!is_own("198.41.1.4".parse().unwrap()));
    }
}
