//! Whose a domain is: its owner puts a text into DNS that only this installation could have requested this app's owner for.

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

#[derive(Clone)]
pub struct DomainVerifier {
    resolver: TokioResolver,
    key: [u8; 32],
}

/// A DNS record of type TXT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Challenge {
    pub name: String,
    pub value: String,
}

impl DomainVerifier {
    /// Asks `servers`, or those that the system asks when there are none.
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
        // Whoever has just put the record there must not be told for long that it is missing.
        options.cache_size = 0;
        options.timeout = QUERY_TIMEOUT;
        options.attempts = MAX_ATTEMPTS;
        let resolver = builder.build().map_err(|error| error.to_string())?;
        Ok(Self { resolver, key: token_key.derive("Rigbox custom domains, version 1") })
    }

    /// What the domain's owner is to put into DNS.
    pub fn challenge(&self, app: &AppId, domain: &CustomDomain) -> Challenge {
        let hash = blake3::keyed_hash(&self.key, format!("{app} {domain}").as_bytes()).to_hex();
        let value = format!("rigbox-domain={}", hash.chars().take(32).collect::<String>());
        Challenge { name: format!("_rigbox.{domain}"), value }
    }

    /// Whether it is there; or why nobody can tell.
    pub async fn is_fulfilled(&self, challenge: &Challenge) -> Result<bool, String> {
        // With the dot at its end no search list applies.
        let name = format!("{}.", challenge.name);
        let answers = match self.resolver.lookup(name, RecordType::TXT).await {
            Ok(lookup) => lookup,
            Err(error) if error.is_nx_domain() || error.is_no_records_found() => return Ok(false),
            Err(error) => return Err(error.to_string()),
        };
        Ok(answers.answers().iter().any(|record| match &record.data {
            RData::TXT(text) => text.txt_data.concat() == challenge.value.as_bytes(),
            _ => false,
        }))
    }
}
