//! Addresses of the names on a VM's allow-list: told by guestio, which asks for the names, and let through for as long as the answer counts.
//! Which name an address belongs to is remembered, so that a change of the list ends what it does not allow and nothing else.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rigbox_core::egress::{Egress, is_public};

use super::policy::Policy;
use super::{in_namespace, on_a_thread, rules};
use crate::error::Error;

/// Most addresses of one VM.
const MOST: usize = 4096;
/// An address counts at least and at most so long after its name was looked up.
const SHORTEST: Duration = Duration::from_secs(60);
const LONGEST: Duration = Duration::from_secs(3600);

/// What one VM may reach by name.
#[derive(Default)]
pub(crate) struct Names {
    admitted: Mutex<BTreeMap<Ipv4Addr, Admitted>>,
}

struct Admitted {
    name: String,
    until: Instant,
}

impl Names {
    /// Lets addresses of `name` through, if the list that holds now has it. Refusals are `Refused`.
    pub(crate) fn admit(
        &self,
        netns: &Path,
        egress: impl FnOnce() -> Option<Egress>,
        name: &str,
        addresses: &[Ipv4Addr],
        ttl: Duration,
    ) -> Result<(), Error> {
        // Held to the end, so that the list does not change in between.
        let mut admitted = self.admitted.lock().unwrap_or_else(PoisonError::into_inner);
        let refused = |message: &str| Err(Error::Refused("not_listed", message.to_owned()));
        match egress() {
            Some(egress @ Egress::List { .. }) if egress.allows_name(name) => {}
            _ => return refused("the name is not on the list"),
        }
        if !addresses.iter().copied().all(is_public) || addresses.len() > 64 {
            return refused("the addresses are not public");
        }
        let until = Instant::now() + ttl.clamp(SHORTEST, LONGEST);
        let document =
            rules::of_names(addresses.iter().map(|address| (*address, ttl.clamp(SHORTEST, LONGEST))));
        on_a_thread(netns, in_namespace(netns, move || rules::apply(&document)))?;
        for address in addresses {
            admitted.insert(*address, Admitted { name: name.to_owned(), until });
        }
        while admitted.len() > MOST {
            let first = admitted.iter().min_by_key(|(_, entry)| entry.until).map(|(address, _)| *address);
            first.map(|address| admitted.remove(&address));
        }
        Ok(())
    }

    /// Puts `policy` in force; addresses of names that it lists stay.
    pub(super) fn set_policy(&self, netns: &Path, policy: &Policy) -> Result<(), Error> {
        let mut admitted = self.admitted.lock().unwrap_or_else(PoisonError::into_inner);
        let listed = matches!(policy.egress(), Egress::List { .. });
        admitted.retain(|_, entry| listed && policy.egress().allows_name(&entry.name));
        let now = Instant::now();
        let kept: Vec<_> =
            admitted.iter().map(|(address, entry)| (*address, entry.until.duration_since(now))).collect();
        let document = rules::of_policy(policy) + &rules::of_names_alone(&kept);
        on_a_thread(netns, in_namespace(netns, move || rules::apply(&document)))
    }
}
