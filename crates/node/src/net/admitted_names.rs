//! Admitted addresses of the names on a VM's allow-list. guestio resolves the names and reports their addresses, which may then be reached,
//! at the ports of the list's entries, for as long as the DNS response is valid. Each address is kept with its names, so that a change of
//! the list revokes exactly what it no longer allows.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rigbox_core::egress::{BlockedNetworks, Egress};
use rigbox_shares::{Bounds, Shares};
use tokio::sync::oneshot;

use super::policy::Policy;
use super::rules::Endpoint;
use super::{in_namespace, on_thread, rules};
use crate::config::NetworkConfig;
use crate::error::Error;

/// Maximum number of admissions of one VM, each an address of a name.
const MAX_ADMISSIONS: usize = 4096;
/// Maximum number of addresses in one request.
const MAX_ADDRESSES_PER_NAME: usize = 64;
/// Maximum number of admitted addresses and ports of one VM, which the rules hold.
const MAX_ENDPOINTS: usize = 16_384;
/// Bounds for the time that an address has to be reachable after its name was resolved.
const MIN_TTL: Duration = Duration::from_secs(60);
const MAX_TTL: Duration = Duration::from_secs(3600);
/// Admissions of one VM that wait for the rules to be changed.
const MAX_WAITING: usize = 64;
/// Changes of rules at once, on all VMs. Each starts a program as root.
const CHANGES: Bounds = Bounds { total: 2, per_key: 1 };

/// Pool of the changes of rules, by workspace.
#[derive(Clone)]
pub(crate) struct AdmissionPool(Shares<String>);

impl Default for AdmissionPool {
    fn default() -> Self {
        Self(Shares::new(CHANGES))
    }
}

/// Name and its addresses, to be admitted.
pub(crate) struct Admission {
    pub(crate) name: String,
    pub(crate) addresses: Vec<Ipv4Addr>,
    pub(crate) ttl: Duration,
}

/// Admission that waits for a change of the rules, and the sender for its response.
type Waiting = (Admission, oneshot::Sender<Result<(), Error>>);

/// Addresses that one VM may reach by name.
pub(crate) struct AdmittedNames {
    blocked: BlockedNetworks,
    waiting: Mutex<Vec<Waiting>>,
    admitted: Mutex<Admitted>,
}

/// Admitted names and the elements of the rules, each with its end.
#[derive(Default)]
struct Admitted {
    /// Addresses of names, each of which may be listed with other ports.
    names: BTreeMap<(String, Ipv4Addr), Instant>,
    /// Elements of the rules.
    in_force: BTreeMap<Endpoint, Instant>,
    /// Number of admissions that changed the rules.
    #[cfg(test)]
    changes: u64,
}

impl AdmittedNames {
    pub(crate) fn new(blocked: BlockedNetworks) -> Self {
        Self { blocked, waiting: Mutex::default(), admitted: Mutex::default() }
    }

    /// Admits addresses of a name, if the current allow-list contains it. Otherwise returns [`Error::Refused`]. What waits for its turn is
    /// admitted in one change of the rules.
    pub(crate) async fn admit(
        self: Arc<Self>,
        pool: &AdmissionPool,
        workspace: &str,
        netns: PathBuf,
        current_egress: impl FnOnce() -> Option<Egress> + Send + 'static,
        admission: Admission,
    ) -> Result<(), Error> {
        let (reply, mut response) = oneshot::channel();
        {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            // Those whose callers have gone make room.
            waiting.retain(|(_, reply)| !reply.is_closed());
            if waiting.len() >= MAX_WAITING {
                return Err(Error::Refused("too_many", "too many names wait to be admitted".to_owned()));
            }
            waiting.push((admission, reply));
        }
        let ended = |_| Error::system("admit a name")(io::Error::from(io::ErrorKind::Interrupted));
        let place = tokio::select! {
            biased;
            // Another caller's turn included it.
            done = &mut response => return done.map_err(ended)?,
            place = pool.0.wait(workspace.to_owned()) => place,
        };
        let names = Arc::clone(&self);
        tokio::task::spawn_blocking(move || {
            let _place = place;
            let batch = std::mem::take(&mut *names.waiting.lock().unwrap_or_else(PoisonError::into_inner));
            names.admit_batch(&netns, current_egress, batch);
        });
        response.await.map_err(ended)?
    }

    /// Admits what a batch names, and answers each of its callers.
    fn admit_batch(
        &self,
        netns: &Path,
        current_egress: impl FnOnce() -> Option<Egress>,
        batch: Vec<Waiting>,
    ) {
        // Locked to the end, so that the list cannot change in between.
        let mut admitted = self.admitted.lock().unwrap_or_else(PoisonError::into_inner);
        let egress = current_egress().unwrap_or(Egress::None);
        let now = Instant::now();
        admitted.names.retain(|_, expires| *expires > now);
        admitted.in_force.retain(|_, expires| *expires > now);
        let (mut names, mut new) = (admitted.names.clone(), BTreeMap::new());
        let mut accepted = Vec::new();
        for (admission, reply) in batch {
            let ports = match self.check(&egress, &admission, &admitted, names.len()) {
                Ok(ports) => ports,
                Err(error) => {
                    // A caller that has gone needs no response.
                    let _ = reply.send(Err(error));
                    continue;
                }
            };
            let until = now + admission.ttl.clamp(MIN_TTL, MAX_TTL);
            for address in admission.addresses {
                let endpoints = ports.iter().map(|port| (address, *port));
                let is_open =
                    |endpoint| admitted.in_force.get(&endpoint).is_some_and(|expires| *expires >= until);
                let expires = if endpoints.clone().all(is_open) {
                    until
                } else {
                    // Twice as long as needed, so that the rules are not changed for each response.
                    let expires = until + (until - now);
                    new.extend(endpoints.map(|endpoint| (endpoint, expires)));
                    expires
                };
                let latest = names.entry((admission.name.clone(), address)).or_insert(expires);
                *latest = expires.max(*latest);
            }
            accepted.push(reply);
        }
        let result = if new.is_empty() {
            Ok(())
        } else {
            let document = rules::admit(new.iter().map(|(endpoint, expires)| (*endpoint, *expires - now)));
            on_thread(netns, in_namespace(netns, move || rules::apply(&document)))
        };
        let failure = result.err().map(|error| error.to_string());
        if failure.is_none() {
            admitted.names = names;
            #[cfg(test)]
            {
                admitted.changes += u64::from(!new.is_empty());
            }
            admitted.in_force.extend(new);
        }
        for reply in accepted {
            let failed = |error: &String| Error::system("admit a name")(io::Error::other(error.clone()));
            let _ = reply.send(failure.as_ref().map_or(Ok(()), |error| Err(failed(error))));
        }
    }

    /// Returns the ports at which a name may be reached, if it and its addresses may be admitted.
    fn check(
        &self,
        egress: &Egress,
        admission: &Admission,
        admitted: &Admitted,
        names: usize,
    ) -> Result<BTreeSet<u16>, Error> {
        let refused = |message: &str| Err(Error::Refused("not_listed", message.to_owned()));
        let Admission { name, addresses, .. } = admission;
        let ports = egress.ports_of(name);
        if ports.is_empty() {
            return refused("the name is not on the allow-list");
        }
        if !addresses.iter().all(|address| self.blocked.allow(*address))
            || addresses.len() > MAX_ADDRESSES_PER_NAME
        {
            return refused("the addresses are not public");
        }
        if names + addresses.len() > MAX_ADMISSIONS || admitted.in_force.len() > MAX_ENDPOINTS {
            return refused("the VM has resolved too many names in a short time");
        }
        Ok(ports)
    }

    #[cfg(test)]
    pub(super) fn changes(&self) -> u64 {
        self.admitted.lock().unwrap().changes
    }

    /// Puts `policy` in force. Addresses of names that it still lists stay admitted.
    pub(super) fn set_policy(
        &self,
        config: &NetworkConfig,
        netns: &Path,
        policy: &Policy,
    ) -> Result<(), Error> {
        let mut admitted = self.admitted.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        admitted
            .names
            .retain(|(name, _), expires| *expires > now && !policy.egress().ports_of(name).is_empty());
        let mut kept = BTreeMap::new();
        for ((name, address), expires) in &admitted.names {
            for port in policy.egress().ports_of(name) {
                let latest = kept.entry((*address, port)).or_insert(*expires);
                *latest = (*latest).max(*expires);
            }
        }
        let endpoints: Vec<_> = kept.iter().map(|(endpoint, expires)| (*endpoint, *expires - now)).collect();
        admitted.in_force = kept;
        let (config, policy) = (config.clone(), policy.clone());
        let replace = rules::replace_admitted(&endpoints);
        on_thread(netns, in_namespace(netns, move || rules::apply_policy(&config, &policy, &replace)))
    }
}

#[cfg(test)]
mod tests;
