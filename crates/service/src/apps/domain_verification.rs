//! Verification of custom domains: the owner publishes in DNS a value that only this installation can
//! compute, and only for this app.

use std::net::SocketAddr;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{RData, RecordType};
use rigbox_core::apps::CustomDomain;
use rigbox_core::ids::AppId;
use rigbox_store::tokens::TokenKey;

const QUERY_TIMEOUT: Duration = Duration::from_secs(3);
const MAX_ATTEMPTS: usize = 2;

/// Verifier of custom domains.
#[derive(Clone)]
pub struct DomainVerifier {
    resolver: TokioResolver,
    key: [u8; 32],
}

/// Expected DNS record of type TXT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Challenge {
    /// Name of the record.
    pub name: String,
    /// Value of the record.
    pub value: String,
}

impl DomainVerifier {
    /// Creates a verifier that queries `servers`, or the system's resolvers if there are none.
    pub fn new(token_key: &TokenKey, servers: &[SocketAddr]) -> Result<Self, String> {
        let mut builder = if servers.is_empty() {
            TokioResolver::builder_tokio().map_err(|error| error.to_string())?
        } else {
            let servers = servers.iter().map(|server| {
                let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()];
                let connections = connections.map(|mut connection| {
                    connection.port = server.port();
                    connection
                });
                NameServerConfig::new(server.ip(), true, connections.into())
            });
            let config = ResolverConfig::from_name_servers(servers.collect());
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
        };
        let options = builder.options_mut();
        // No cache: a record that has just been published must be found at once.
        options.cache_size = 0;
        options.timeout = QUERY_TIMEOUT;
        options.attempts = MAX_ATTEMPTS;
        let resolver = builder.build().map_err(|error| error.to_string())?;
        Ok(Self { resolver, key: token_key.derive("Rigbox custom domains, version 1") })
    }

    /// Returns the record that the owner of a domain must publish.
    pub fn challenge(&self, app: &AppId, domain: &CustomDomain) -> Challenge {
        let hash = blake3::keyed_hash(&self.key, format!("{app} {domain}").as_bytes()).to_hex();
        let value = format!("rigbox-domain={}", hash.chars().take(32).collect::<String>());
        Challenge { name: format!("_rigbox.{domain}"), value }
    }

    /// Returns whether the record is published, or the reason that this cannot be determined.
    pub async fn is_fulfilled(&self, challenge: &Challenge) -> Result<bool, String> {
        // The trailing dot turns off search lists.
        let name = format!("{}.", challenge.name);
        let response = match self.resolver.lookup(name, RecordType::TXT).await {
            Ok(lookup) => lookup,
            Err(error) if error.is_nx_domain() || error.is_no_records_found() => return Ok(false),
            Err(error) => return Err(error.to_string()),
        };
        Ok(response.answers().iter().any(|record| match &record.data {
            RData::TXT(text) => text.txt_data.concat() == challenge.value.as_bytes(),
            _ => false,
        }))
    }
}
