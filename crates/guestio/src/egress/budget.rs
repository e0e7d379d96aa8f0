//! Work that VMs cause in this role through their networks: bounded for all VMs by its descriptors and memory, and for each by its share.

use std::num::NonZeroU32;

use governor::Quota;
use rigbox_shares::{Bounds, Shares};

use crate::DnsLimits;

/// DNS queries in flight, of all VMs. Each holds a socket to a resolver.
const MAX_DNS_QUERIES: usize = 2_048;
/// Seconds of the rate that may come at once.
const DNS_BURST: NonZeroU32 = NonZeroU32::MIN.saturating_add(9);
/// DNS connections over TCP.
const DNS_CONNECTIONS: Bounds = Bounds { total: 512, per_key: 16 };
/// Connections to ports 443 and 80 of listed names. Each holds two sockets.
const CHECKED_CONNECTIONS: Bounds = Bounds { total: 4_096, per_key: 256 };

/// Shares of workspaces, by id.
#[derive(Clone)]
pub(crate) struct EgressBudget {
    /// DNS queries of one VM to the resolvers, which its cache does not answer.
    pub(crate) dns_rate: Quota,
    pub(super) dns_queries: Shares<String>,
    pub(super) dns_connections: Shares<String>,
    pub(super) checked_connections: Shares<String>,
}

impl EgressBudget {
    pub(crate) fn new(dns: &DnsLimits) -> Self {
        // DNS queries in flight, per VM: 64, unless configured otherwise.
        let dns_queries = Bounds { total: MAX_DNS_QUERIES, per_key: dns.queries };
        Self {
            dns_rate: Quota::per_second(dns.queries_per_s)
                .allow_burst(dns.queries_per_s.saturating_mul(DNS_BURST)),
            dns_queries: Shares::new(dns_queries),
            dns_connections: Shares::new(DNS_CONNECTIONS),
            checked_connections: Shares::new(CHECKED_CONNECTIONS),
        }
    }
}
