//! Work that VMs cause in this role through their networks: bounded for all VMs by its descriptors and memory, and for each by its share.

use std::num::{NonZeroU16, NonZeroU32};

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use rigbox_proto::guestio::DnsLimits as WireLimits;
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
    /// Limits of one VM's DNS queries, where the node names no lower ones.
    dns: DnsLimits,
    pub(super) dns_queries: Shares<String>,
    pub(super) dns_connections: Shares<String>,
    pub(super) checked_connections: Shares<String>,
}

impl EgressBudget {
    pub(crate) fn new(dns: DnsLimits) -> Self {
        let queries_per_vm = dns.queries.get().into();
        // DNS queries in flight, per VM: 64, unless configured otherwise.
        let dns_queries = Bounds { total: MAX_DNS_QUERIES, per_key: queries_per_vm };
        Self {
            dns,
            dns_queries: Shares::new(dns_queries),
            dns_connections: Shares::new(DNS_CONNECTIONS),
            checked_connections: Shares::new(CHECKED_CONNECTIONS),
        }
    }

    /// Returns the limits of a VM: the lower ones of this role's and the node's.
    pub(crate) fn dns_limits(&self, of_vm: Option<WireLimits>) -> DnsLimits {
        let of_vm = of_vm.unwrap_or_default();
        let queries = u16::try_from(of_vm.queries).ok().and_then(NonZeroU16::new);
        let queries_per_s = NonZeroU32::new(of_vm.queries_per_s);
        DnsLimits {
            queries: queries.map_or(self.dns.queries, |queries| queries.min(self.dns.queries)),
            queries_per_s: queries_per_s
                .map_or(self.dns.queries_per_s, |queries| queries.min(self.dns.queries_per_s)),
        }
    }
}

/// DNS queries of one VM, within its limits.
pub(crate) struct DnsShare {
    pub(crate) limits: DnsLimits,
    /// Queries to the resolvers, which the VM's cache does not answer.
    pub(super) rate: DefaultDirectRateLimiter,
}

impl DnsShare {
    pub(crate) fn new(limits: DnsLimits) -> Self {
        let DnsLimits { queries_per_s, .. } = limits;
        let quota = Quota::per_second(queries_per_s).allow_burst(queries_per_s.saturating_mul(DNS_BURST));
        Self { limits, rate: RateLimiter::direct(quota) }
    }
}
