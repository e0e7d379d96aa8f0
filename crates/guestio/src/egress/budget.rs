//! Work that VMs cause in this role through their networks: bounded for all VMs by its descriptors and memory, and for each by its share.

use rigbox_shares::{Bounds, Shares};

/// DNS queries in flight, of all VMs. Each holds a socket to a resolver.
const MAX_DNS_QUERIES: usize = 2_048;
/// DNS connections over TCP.
const DNS_CONNECTIONS: Bounds = Bounds { total: 512, per_key: 16 };
/// Connections to ports 443 and 80 of listed names. Each holds two sockets.
const CHECKED_CONNECTIONS: Bounds = Bounds { total: 4_096, per_key: 256 };

/// Shares of workspaces, by id.
#[derive(Clone)]
pub(crate) struct EgressBudget {
    pub(super) dns_queries: Shares<String>,
    pub(super) dns_connections: Shares<String>,
    pub(super) checked_connections: Shares<String>,
}

impl EgressBudget {
    pub(crate) fn new(dns_queries_per_vm: usize) -> Self {
        let dns_queries = Bounds { total: MAX_DNS_QUERIES, per_key: dns_queries_per_vm };
        Self {
            dns_queries: Shares::new(dns_queries),
            dns_connections: Shares::new(DNS_CONNECTIONS),
            checked_connections: Shares::new(CHECKED_CONNECTIONS),
        }
    }
}
