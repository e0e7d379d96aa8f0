//! What control has said, for as long as it counts. All cores share it.
//!
//! Time is counted in moments: each notice of a change begins one. An answer belongs to the moment in which it was asked for, so an
//! answer that was on its way when the notice came does not count either.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use rigbox_core::ids::WorkspaceId;
use tokio::sync::watch;

use crate::remembered::Remembered;
use crate::route::{Identity, Route};

/// Apps of one generation, see [`Remembered`].
const ROUTES: usize = 131_072;
/// Host names without an app.
const ABSENT: usize = 8_192;
/// How long it counts that there is no app: a custom domain's first moment is not worth more.
const ABSENT_FOR: Duration = Duration::from_secs(10);
/// Users' credentials at one app each.
const IDENTITIES: usize = 65_536;
/// Those that do not count have a memory of their own: who makes up keys does not push out others'.
const INVALID: usize = 4_096;
/// Workspaces with a change of their own; with more, all counts as changed.
const CHANGED: usize = 16_384;

/// Hash of a credential and the app it is shown to.
pub(crate) type Shown = [u8; 32];

/// See the module.
#[derive(Debug)]
pub(crate) struct Known {
    moment: AtomicU64,
    routes: Remembered<Arc<str>, Route>,
    absent: Remembered<Arc<str>, (u64, Instant)>,
    identities: Remembered<Shown, Identity>,
    invalid: Remembered<Shown, Identity>,
    changes: RwLock<Changes>,
    /// Nothing counts after it; none before control's first word and after its silence.
    lease: watch::Sender<Option<Instant>>,
}

/// The first moments of what still counts.
#[derive(Debug, Default)]
struct Changes {
    all_routes: u64,
    workspaces: HashMap<WorkspaceId, u64>,
    grants: u64,
}

/// What changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    Workspace(WorkspaceId),
    Grants,
    Everything,
}

impl Known {
    pub(crate) fn new() -> Self {
        Self {
            moment: AtomicU64::new(1),
            routes: Remembered::new(ROUTES),
            absent: Remembered::new(ABSENT),
            identities: Remembered::new(IDENTITIES),
            invalid: Remembered::new(INVALID),
            changes: RwLock::default(),
            lease: watch::Sender::new(None),
        }
    }

    /// To be read before control is asked.
    pub(crate) fn moment(&self) -> u64 {
        self.moment.load(Ordering::SeqCst)
    }

    /// What stands at `host`: `Some(None)` is nothing.
    pub(crate) fn route(&self, host: &str) -> Option<Option<Arc<Route>>> {
        if let Some(route) = self.routes.get(host) {
            return self.is_current(&route).then_some(Some(route));
        }
        let absent = self.absent.get(host)?;
        let (moment, until) = *absent;
        (moment >= self.moment() && Instant::now() < until).then_some(None)
    }

    pub(crate) fn add_route(&self, host: &str, route: &Arc<Route>) {
        self.routes.insert(host.into(), Arc::clone(route));
    }

    pub(crate) fn add_absent(&self, host: &str, moment: u64) {
        self.absent.insert(host.into(), Arc::new((moment, Instant::now() + ABSENT_FOR)));
    }

    /// Whom a credential stands for, if that lasts beyond `now_ms`.
    pub(crate) fn identity(&self, shown: &Shown, now_ms: i64) -> Option<Arc<Identity>> {
        let identity = self.identities.get(shown).or_else(|| self.invalid.get(shown))?;
        (now_ms < identity.fresh_until_ms && self.is_current_identity(&identity)).then_some(identity)
    }

    pub(crate) fn add_identity(&self, shown: Shown, identity: &Arc<Identity>) {
        let memory = if identity.person.is_some() { &self.identities } else { &self.invalid };
        memory.insert(shown, Arc::clone(identity));
    }

    /// Whether nothing has changed since.
    pub(crate) fn is_current(&self, route: &Route) -> bool {
        let changes = self.changes.read().unwrap_or_else(PoisonError::into_inner);
        let workspace = changes.workspaces.get(&route.app.workspace).copied().unwrap_or_default();
        route.moment >= changes.all_routes.max(workspace)
    }

    /// Whether nothing has changed since.
    pub(crate) fn is_current_identity(&self, identity: &Identity) -> bool {
        identity.moment >= self.changes.read().unwrap_or_else(PoisonError::into_inner).grants
    }

    /// Forgets what `change` concerns.
    pub(crate) fn forget(&self, change: &Change) {
        let mut changes = self.changes.write().unwrap_or_else(PoisonError::into_inner);
        let moment = self.moment.fetch_add(1, Ordering::SeqCst) + 1;
        match change {
            Change::Workspace(id) if changes.workspaces.len() < CHANGED => {
                changes.workspaces.insert(id.clone(), moment);
            }
            Change::Workspace(_) => {
                changes.all_routes = moment;
                changes.workspaces.clear();
            }
            Change::Grants => changes.grants = moment,
            Change::Everything => {
                (changes.all_routes, changes.grants) = (moment, moment);
                changes.workspaces.clear();
                drop(changes);
                self.routes.clear();
                self.absent.clear();
                self.identities.clear();
                self.invalid.clear();
            }
        }
    }

    /// What is known counts until `end`.
    pub(crate) fn renew(&self, end: Instant) {
        self.lease.send_replace(Some(end));
    }

    /// Nothing that is known counts.
    pub(crate) fn lapse(&self) {
        self.lease.send_replace(None);
    }

    /// Whether control is heard.
    pub(crate) fn is_leased(&self) -> bool {
        self.lease.borrow().is_some_and(|end| Instant::now() < end)
    }

    /// Waits until control is heard; whether it was in time.
    pub(crate) async fn leased(&self, within: Duration) -> bool {
        if self.is_leased() {
            return true;
        }
        let mut lease = self.lease.subscribe();
        let heard = lease.wait_for(|end| end.is_some_and(|end| Instant::now() < end));
        Box::pin(tokio::time::timeout(within, heard)).await.is_ok_and(|heard| heard.is_ok())
    }
}
