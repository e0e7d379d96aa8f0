//! Cache of control's decisions, shared by all workers. An entry is valid only under the lease, and only while nothing it depends on has
//! changed since the epoch in which it was requested ([`Epochs`]).

use std::sync::Arc;
use std::time::{Duration, Instant};

use rigbox_gateway::epochs::{Change, Epochs};

use crate::decision::generational_cache::GenerationalCache;
use crate::decision::route::{Identity, Route};

/// Routes per generation.
const MAX_ROUTES: usize = 131_072;
/// Host names without an app, per generation.
const MAX_ABSENT: usize = 8_192;
/// Time for which a host name is known to have no app. A new custom domain may therefore take this long to work.
const ABSENT_TTL: Duration = Duration::from_secs(10);
/// Identities of users at one app each, per generation.
const MAX_IDENTITIES: usize = 65_536;
/// Invalid credentials, per generation. They have a cache of their own, so that made-up keys do not evict valid ones.
const MAX_INVALID: usize = 4_096;

/// Digest of a credential and the app it was presented to.
pub(crate) type CredentialDigest = [u8; 32];

/// Cache of routes and identities.
#[derive(Debug)]
pub(crate) struct DecisionCache {
    epochs: Epochs,
    routes: GenerationalCache<Arc<str>, Route>,
    absent: GenerationalCache<Arc<str>, (u64, Instant)>,
    identities: GenerationalCache<CredentialDigest, Identity>,
    invalid: GenerationalCache<CredentialDigest, Identity>,
}

impl DecisionCache {
    pub(crate) fn new() -> Self {
        Self {
            epochs: Epochs::default(),
            routes: GenerationalCache::new(MAX_ROUTES),
            absent: GenerationalCache::new(MAX_ABSENT),
            identities: GenerationalCache::new(MAX_IDENTITIES),
            invalid: GenerationalCache::new(MAX_INVALID),
        }
    }

    /// Returns the epochs that entries are valid in.
    pub(crate) fn epochs(&self) -> &Epochs {
        &self.epochs
    }

    /// Returns the cached route of a host. `Some(None)` means that it has no app.
    pub(crate) fn route(&self, host: &str) -> Option<Option<Arc<Route>>> {
        if let Some(route) = self.routes.get(host) {
            return self.is_current(&route).then_some(Some(route));
        }
        let absent = self.absent.get(host)?;
        let (epoch, until) = *absent;
        (epoch >= self.epochs.current() && Instant::now() < until).then_some(None)
    }

    pub(crate) fn add_route(&self, host: &str, route: &Arc<Route>) {
        self.routes.insert(host.into(), Arc::clone(route));
    }

    pub(crate) fn add_absent(&self, host: &str, epoch: u64) {
        self.absent.insert(host.into(), Arc::new((epoch, Instant::now() + ABSENT_TTL)));
    }

    /// Returns the cached identity of a credential, if it is valid beyond `now_ms`.
    pub(crate) fn identity(&self, digest: &CredentialDigest, now_ms: i64) -> Option<Arc<Identity>> {
        let identity = self.identities.get(digest).or_else(|| self.invalid.get(digest))?;
        (now_ms < identity.fresh_until_ms && self.is_current_identity(&identity)).then_some(identity)
    }

    pub(crate) fn add_identity(&self, digest: CredentialDigest, identity: &Arc<Identity>) {
        let cache = if identity.forwarded.is_some() { &self.identities } else { &self.invalid };
        cache.insert(digest, Arc::clone(identity));
    }

    /// Returns whether nothing that a route depends on has changed.
    pub(crate) fn is_current(&self, route: &Route) -> bool {
        self.epochs.is_workspace_current(&route.app.workspace, route.epoch)
    }

    /// Returns whether nothing that an identity depends on has changed.
    pub(crate) fn is_current_identity(&self, identity: &Identity) -> bool {
        self.epochs.are_grants_current(identity.epoch)
    }

    /// Drops all entries if everything changed. For smaller changes their epoch suffices.
    pub(crate) fn invalidate(&self, change: &Change) {
        if *change == Change::Everything {
            self.routes.clear();
            self.absent.clear();
            self.identities.clear();
            self.invalid.clear();
        }
    }
}
