//! Admitted addresses of the names on a VM's allow-list. guestio resolves the names and reports their addresses, which may then be reached,
//! at the ports of the list's entries, for as long as the DNS response is valid. Each address is kept with its names, so that a change of
//! the list revokes exactly what it no longer allows.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rigbox_core::egress::{BlockedNetworks, Egress};

use super::policy::Policy;
use super::rules::Endpoint;
use super::{in_namespace, on_thread, rules};
use crate::error::Error;

/// Maximum number of admissions of one VM, each an address of a name.
const MAX_ADMISSIONS: usize = 4096;
/// Maximum number of addresses in one request.
const MAX_ADDRESSES_PER_NAME: usize = 64;
/// Maximum number of admitted addresses and ports of one VM, which the rules hold.
const MAX_ENDPOINTS: usize = 16_384;
/// Bounds for the time that an address stays admitted after its name was resolved.
const MIN_TTL: Duration = Duration::from_secs(60);
const MAX_TTL: Duration = Duration::from_secs(3600);

/// Addresses that one VM may reach by name.
pub(crate) struct AdmittedNames {
    blocked: BlockedNetworks,
    /// Addresses of names, with the time until which they are admitted.
    admissions: Mutex<BTreeMap<(String, Ipv4Addr), Instant>>,
}

impl AdmittedNames {
    pub(crate) fn new(blocked: BlockedNetworks) -> Self {
        Self { blocked, admissions: Mutex::default() }
    }

    /// Admits addresses of `name`, if the current allow-list contains it. Otherwise returns [`Error::Refused`].
    pub(crate) fn admit(
        &self,
        netns: &Path,
        current_egress: impl FnOnce() -> Option<Egress>,
        name: &str,
        addresses: &[Ipv4Addr],
        ttl: Duration,
    ) -> Result<(), Error> {
        // Locked to the end, so that the list cannot change in between.
        let mut admissions = self.admissions.lock().unwrap_or_else(PoisonError::into_inner);
        let refused = |message: &str| Err(Error::Refused("not_listed", message.to_owned()));
        let egress = current_egress().filter(|egress| matches!(egress, Egress::List { .. }));
        let ports = egress.as_ref().map(|egress| egress.ports_of(name)).unwrap_or_default();
        let Some(egress) = egress.filter(|_| !ports.is_empty()) else {
            return refused("the name is not on the allow-list");
        };
        if !addresses.iter().all(|address| self.blocked.allow(*address))
            || addresses.len() > MAX_ADDRESSES_PER_NAME
        {
            return refused("the addresses are not public");
        }
        let now = Instant::now();
        let expires = now + ttl.clamp(MIN_TTL, MAX_TTL);
        admissions.retain(|_, expires| *expires > now);
        let new = addresses.iter().map(|address| ((name.to_owned(), *address), expires));
        let changed: BTreeMap<_, _> = admissions.clone().into_iter().chain(new).collect();
        if changed.len() > MAX_ADMISSIONS || endpoints(&egress, &changed).len() > MAX_ENDPOINTS {
            return refused("the VM has resolved too many names in a short time");
        }
        let new = addresses.iter().flat_map(|address| ports.iter().map(|port| (*address, *port)));
        let document = rules::admit(new.map(|endpoint| (endpoint, expires - now)));
        on_thread(netns, in_namespace(netns, move || rules::apply(&document)))?;
        *admissions = changed;
        Ok(())
    }

    /// Puts `policy` in force. Addresses of names that it still lists stay admitted.
    pub(super) fn set_policy(&self, netns: &Path, policy: &Policy) -> Result<(), Error> {
        let mut admissions = self.admissions.lock().unwrap_or_else(PoisonError::into_inner);
        admissions.retain(|(name, _), _| !policy.egress().ports_of(name).is_empty());
        let now = Instant::now();
        let kept = endpoints(policy.egress(), &admissions).into_iter();
        let kept: Vec<_> = kept.map(|(endpoint, expires)| (endpoint, expires.duration_since(now))).collect();
        let document = rules::policy_rules(policy) + &rules::replace_admitted(&kept);
        on_thread(netns, in_namespace(netns, move || rules::apply(&document)))
    }
}

/// Returns what the admissions open under a list, and until when.
fn endpoints(
    egress: &Egress,
    admissions: &BTreeMap<(String, Ipv4Addr), Instant>,
) -> BTreeMap<Endpoint, Instant> {
    let mut endpoints = BTreeMap::new();
    for ((name, address), expires) in admissions {
        for port in egress.ports_of(name) {
            let latest = endpoints.entry((*address, port)).or_insert(*expires);
            *latest = (*latest).max(*expires);
        }
    }
    endpoints
}
