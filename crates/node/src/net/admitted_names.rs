//! Admitted addresses of the names on a VM's allow-list. guestio resolves the names and reports their addresses, which may then be reached
//! for as long as the DNS response is valid. Each address is kept with its name, so that a change of the list revokes exactly the
//! addresses that it no longer allows.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rigbox_core::egress::{BlockedNetworks, Egress};

use super::policy::Policy;
use super::{in_namespace, on_thread, rules};
use crate::error::Error;

/// Maximum number of admitted addresses of one VM.
const MAX_ADDRESSES: usize = 4096;
/// Maximum number of addresses in one request.
const MAX_ADDRESSES_PER_NAME: usize = 64;
/// Bounds for the time that an address stays admitted after its name was resolved.
const MIN_TTL: Duration = Duration::from_secs(60);
const MAX_TTL: Duration = Duration::from_secs(3600);

/// Addresses that one VM may reach by name.
pub(crate) struct AdmittedNames {
    blocked: BlockedNetworks,
    addresses: Mutex<BTreeMap<Ipv4Addr, Admission>>,
}

struct Admission {
    name: String,
    expires: Instant,
}

impl AdmittedNames {
    pub(crate) fn new(blocked: BlockedNetworks) -> Self {
        Self { blocked, addresses: Mutex::default() }
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
        let mut admitted = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        let refused = |message: &str| Err(Error::Refused("not_listed", message.to_owned()));
        match current_egress() {
            Some(egress @ Egress::List { .. }) if egress.allows_name(name) => {}
            _ => return refused("the name is not on the allow-list"),
        }
        if !addresses.iter().all(|address| self.blocked.allow(*address))
            || addresses.len() > MAX_ADDRESSES_PER_NAME
        {
            return refused("the addresses are not public");
        }
        let ttl = ttl.clamp(MIN_TTL, MAX_TTL);
        let expires = Instant::now() + ttl;
        let document = rules::admit_addresses(addresses.iter().map(|address| (*address, ttl)));
        on_thread(netns, in_namespace(netns, move || rules::apply(&document)))?;
        for address in addresses {
            admitted.insert(*address, Admission { name: name.to_owned(), expires });
        }
        while admitted.len() > MAX_ADDRESSES {
            let first = admitted.iter().min_by_key(|(_, entry)| entry.expires).map(|(address, _)| *address);
            first.map(|address| admitted.remove(&address));
        }
        Ok(())
    }

    /// Puts `policy` in force. Addresses of names that it still lists stay admitted.
    pub(super) fn set_policy(&self, netns: &Path, policy: &Policy) -> Result<(), Error> {
        let mut admitted = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        let is_list = matches!(policy.egress(), Egress::List { .. });
        admitted.retain(|_, entry| is_list && policy.egress().allows_name(&entry.name));
        let now = Instant::now();
        let kept: Vec<_> =
            admitted.iter().map(|(address, entry)| (*address, entry.expires.duration_since(now))).collect();
        let document = rules::policy_rules(policy) + &rules::replace_addresses(&kept);
        on_thread(netns, in_namespace(netns, move || rules::apply(&document)))
    }
}
