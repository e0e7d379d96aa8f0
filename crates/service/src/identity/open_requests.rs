//! Open requests of the API, each with the credential that authenticated it. When something changes that decides what a credential opens,
//! or a credential expires, they are decided again, and those that are no longer allowed end: executions, transfers and followed logs do
//! not outlive the key that opened them.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use rigbox_core::authz::{Action, Principal, Target, TargetKind, authorize};
use rigbox_core::ids::{SessionId, WorkspaceId};
use rigbox_core::time::Timestamp;
use rigbox_store::tokens::TokenHash;
use rigbox_store::{Error, Store};
use slab::Slab;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::clock;
use crate::transitions::WorkspaceTransitions;

/// Interval at which changes, also those by other processes, and expired credentials are looked for.
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// Time for which requests stay open that cannot be decided again, because the database fails.
const MAX_UNDECIDED: Duration = Duration::from_secs(10);
/// Time between the end of a request and that of its connection: enough to tell a client that reads.
const GRACE: Duration = Duration::from_secs(1);

/// Credential that can be looked up again. It has no secret.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum CredentialRef {
    /// Secret of an API key: a key that is being rotated has two, which expire at different times.
    Key(TokenHash),
    /// Browser session.
    Session(SessionId),
    /// A workspace's own key.
    WorkspaceKey(WorkspaceId, TokenHash),
    /// Workspace at the other end of its bridge, without a key.
    Workspace(WorkspaceId),
}

impl CredentialRef {
    fn is_of(&self, workspace: &WorkspaceId) -> bool {
        match self {
            Self::Key(_) | Self::Session(_) => false,
            Self::WorkspaceKey(own, _) | Self::Workspace(own) => own == workspace,
        }
    }
}

/// Authenticated caller of a request.
#[derive(Debug, Clone)]
pub struct Authenticated {
    /// The user, with the scope of the credential.
    pub principal: Principal,
    /// Credential that was presented.
    pub credential: CredentialRef,
    /// Time until which it is valid, if it expires.
    pub until: Option<Timestamp>,
}

/// Registry of the open requests. Clones are handles of the same registry.
#[derive(Clone)]
pub struct OpenRequests(Arc<Registry>);

struct Registry {
    store: Store,
    open: Mutex<Slab<Weak<OpenRequest>>>,
    /// Count of grants at which requests were last decided again.
    epoch: AtomicI64,
}

/// Open request. Dropping it removes it from the registry.
pub struct OpenRequest {
    credential: CredentialRef,
    principal: Principal,
    /// Count of grants at which the request was decided.
    epoch: AtomicI64,
    /// Unix time in milliseconds at which the credential expires.
    until_ms: AtomicI64,
    workspace: Mutex<Option<WorkspaceId>>,
    /// True once there is a response that goes on.
    is_responding: AtomicBool,
    allows: fn(&Principal, Option<&WorkspaceId>) -> bool,
    ended: CancellationToken,
    /// Ends the connection.
    abort: Box<dyn Fn() + Send + Sync>,
    registry: Arc<Registry>,
    key: usize,
}

impl fmt::Debug for OpenRequest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "OpenRequest({})", self.principal.credential)
    }
}

impl OpenRequests {
    /// Creates an empty registry.
    pub fn new(store: Store) -> Self {
        let registry = Registry { store, open: Mutex::default(), epoch: AtomicI64::new(0) };
        Self(Arc::new(registry))
    }

    /// Returns the count of grants to register a request with. To be read before its credential, so that no change in between is missed.
    pub fn epoch(&self) -> i64 {
        self.0.epoch.load(Ordering::Acquire)
    }

    /// Registers a request for `A` whose credential was read after `epoch`. `abort` ends the connection of a client that does not read.
    pub fn register<A: Action>(
        &self,
        epoch: i64,
        authenticated: &Authenticated,
        abort: Box<dyn Fn() + Send + Sync>,
    ) -> Arc<OpenRequest> {
        let mut open = self.0.open();
        let entry = open.vacant_entry();
        let request = Arc::new(OpenRequest {
            credential: authenticated.credential.clone(),
            principal: authenticated.principal.clone(),
            epoch: AtomicI64::new(epoch),
            until_ms: AtomicI64::new(until_ms(authenticated.until)),
            workspace: Mutex::default(),
            is_responding: AtomicBool::new(false),
            allows: allows::<A>,
            ended: CancellationToken::new(),
            abort,
            registry: Arc::clone(&self.0),
            key: entry.key(),
        });
        entry.insert(Arc::downgrade(&request));
        request
    }

    /// Decides again for as long as it is polled.
    pub async fn run(&self, transitions: &WorkspaceTransitions) {
        let mut changed = transitions.subscribe();
        let mut poll = tokio::time::interval(POLL_INTERVAL);
        let mut decided_at = tokio::time::Instant::now();
        loop {
            let outcome = tokio::select! {
                _ = poll.tick() => self.decide(|_| false).await,
                change = changed.recv() => match change {
                    // A workspace's key ends with its boot, and a log with its workspace.
                    Ok(change) => self.decide(|request| request.concerns(&change.id)).await,
                    Err(RecvError::Lagged(_)) => self.decide(|_| true).await,
                    Err(RecvError::Closed) => return,
                },
            };
            match outcome {
                Ok(()) => decided_at = tokio::time::Instant::now(),
                Err(error) if decided_at.elapsed() >= MAX_UNDECIDED => {
                    error!(%error, "ended open requests, whose permission cannot be read");
                    self.0.all().iter().for_each(OpenRequest::end);
                }
                // The next attempt follows at once.
                Err(_) => {}
            }
        }
    }

    /// Decides again about everything that was granted or revoked up to now.
    ///
    /// # Errors
    /// Failures of the database.
    pub async fn settle(&self) -> Result<(), Error> {
        if self.0.store.grants_epoch()? == self.epoch() {
            return Ok(());
        }
        self.decide(|_| false).await
    }

    /// Decides again about requests that rest on an earlier count of grants, whose credential has expired, or that `filter` selects.
    async fn decide(&self, filter: impl Fn(&OpenRequest) -> bool) -> Result<(), Error> {
        let (epoch, now) = (self.0.store.grants_epoch()?, clock::now());
        let mut credentials = HashMap::new();
        for request in self.0.all() {
            if request.ended.is_cancelled() || !(request.is_stale(epoch, now) || filter(&request)) {
                continue;
            }
            if !credentials.contains_key(&request.credential) {
                let holder = self.holder(&request, now).await?;
                credentials.insert(request.credential.clone(), holder);
            }
            match credentials.get(&request.credential) {
                Some(Some((principal, until))) if self.is_allowed(&request, principal).await? => {
                    request.epoch.store(epoch, Ordering::Release);
                    request.until_ms.store(until_ms(*until), Ordering::Release);
                }
                _ => OpenRequest::end(&request),
            }
        }
        self.0.epoch.fetch_max(epoch, Ordering::AcqRel);
        Ok(())
    }

    /// Returns what a request's credential opens at `now`, and until when.
    async fn holder(
        &self,
        request: &OpenRequest,
        now: Timestamp,
    ) -> Result<Option<(Principal, Option<Timestamp>)>, Error> {
        let store = &self.0.store;
        Ok(match &request.credential {
            CredentialRef::Key(hash) => {
                store.key_holder_until(hash, now).await?.map(|(holder, until)| (holder.principal, until))
            }
            CredentialRef::Session(id) => store
                .session_holder(id, now)
                .await?
                .map(|holder| (request.principal.clone(), Some(holder.idle_at.min(holder.ends_at)))),
            CredentialRef::WorkspaceKey(_, hash) => {
                store.workspace_key_principal(hash).await?.map(|principal| (principal, None))
            }
            CredentialRef::Workspace(id) => {
                store.workspace_principal(id).await?.map(|principal| (principal, None))
            }
        })
    }

    async fn is_allowed(&self, request: &OpenRequest, principal: &Principal) -> Result<bool, Error> {
        let workspace = request.workspace();
        let exists = match &workspace {
            Some(id) => {
                self.0.store.workspace(id).await?.is_some_and(|found| found.user_id == principal.user)
            }
            None => true,
        };
        // Until there is a response, the handler says best that the workspace is gone.
        let exists = exists || !request.is_responding.load(Ordering::Acquire);
        Ok(exists && (request.allows)(principal, workspace.as_ref()))
    }
}

impl Registry {
    fn open(&self) -> std::sync::MutexGuard<'_, Slab<Weak<OpenRequest>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns all requests. The lock is free again: dropping the last reference to a request takes it.
    fn all(&self) -> Vec<Arc<OpenRequest>> {
        self.open().iter().filter_map(|(_, request)| request.upgrade()).collect()
    }
}

impl OpenRequest {
    /// Records the workspace that the request is about.
    pub fn concern(&self, workspace: &WorkspaceId) {
        *self.workspace.lock().unwrap_or_else(PoisonError::into_inner) = Some(workspace.clone());
        // It was authorized by what the credential opened at the start, and is decided again with its workspace.
        self.epoch.store(0, Ordering::Release);
    }

    /// Records that there is a response that goes on.
    pub fn respond(&self) {
        self.is_responding.store(true, Ordering::Release);
        self.epoch.store(0, Ordering::Release);
    }

    /// Returns a token that is cancelled at the end.
    pub fn ended(&self) -> &CancellationToken {
        &self.ended
    }

    /// Ends the request: what serves it can say so to the client, and after a moment the connection ends.
    fn end(self: &Arc<Self>) {
        if self.ended.is_cancelled() {
            return;
        }
        self.ended.cancel();
        info!(credential = %self.principal.credential, user = %self.principal.user, "ended an open request");
        let request = Arc::downgrade(self);
        tokio::spawn(async move {
            tokio::time::sleep(GRACE).await;
            if let Some(request) = request.upgrade() {
                (request.abort)();
            }
        });
    }

    fn workspace(&self) -> Option<WorkspaceId> {
        self.workspace.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn is_stale(&self, epoch: i64, now: Timestamp) -> bool {
        self.epoch.load(Ordering::Acquire) < epoch || self.until_ms.load(Ordering::Acquire) <= now.unix_ms()
    }

    fn concerns(&self, workspace: &WorkspaceId) -> bool {
        self.credential.is_of(workspace) || self.workspace().as_ref() == Some(workspace)
    }
}

impl Drop for OpenRequest {
    fn drop(&mut self) {
        self.registry.open().try_remove(self.key);
    }
}

fn until_ms(until: Option<Timestamp>) -> i64 {
    until.map_or(i64::MAX, Timestamp::unix_ms)
}

/// Returns whether a principal may perform `A`, on its own workspace if `A` concerns one.
fn allows<A: Action>(principal: &Principal, workspace: Option<&WorkspaceId>) -> bool {
    let target = match (A::TARGET, workspace) {
        (TargetKind::Workspace, Some(id)) => {
            Target::Workspace { id: id.clone(), owner: principal.user.clone() }
        }
        // The handler has not come to it yet.
        (TargetKind::Workspace, None) => return true,
        (TargetKind::Account, _) => Target::Account,
        (TargetKind::Installation, _) => Target::Installation,
    };
    authorize::<A>(principal, target).is_ok()
}
