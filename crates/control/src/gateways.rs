//! What the gateways were told, and when a change has reached all of them.
//!
//! A gateway remembers answers for as long as control has something to say at least once per lease. So a change is in force when every
//! gateway has acknowledged it, or has not been heard of and its lease is over: [`Gateways::settle`] waits for that, and the API answers
//! nobody who changed something before.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rigbox_core::ids::WorkspaceId;
use rigbox_proto::gateway::watch_event::Event;
use rigbox_proto::gateway::{GrantsChanged, Lease, Reset, WatchEvent};
use rigbox_store::Store;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tracing::warn;

use crate::changes::Lives;

pub(crate) mod service;

/// How long a gateway goes on with what it remembers when it hears nothing.
pub(crate) const LEASE: Duration = Duration::from_secs(2);
const SIGN_OF_LIFE: Duration = Duration::from_millis(400);
/// How soon a change that another process made in the database is told. (`rigboxd admin` disables users, for example.)
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Notices on their way to one gateway; one that has more to take is taken for dead.
const QUEUE: usize = 1024;

#[derive(Clone)]
pub(crate) struct Gateways(Arc<Parts>);

struct Parts {
    store: Store,
    state: Mutex<State>,
    /// Changes whenever somebody acknowledges or goes.
    moved: watch::Sender<()>,
    /// The public keys of assertions, told with the lease.
    assertion_keys: String,
}

struct State {
    sequence: u64,
    /// How many gateways have come; the next one's id.
    joined: u64,
    gateways: HashMap<u64, Gateway>,
    /// A gateway that went without a word, or that a process before this one knew, may use what it remembers until then.
    leases_end: Instant,
    /// The count of grants that was told last.
    grants: i64,
}

struct Gateway {
    notices: mpsc::Sender<WatchEvent>,
    acknowledged: u64,
}

impl State {
    /// Lets the others go, whose leases have to be waited for from now on; how many those are.
    fn keep(&mut self, mut stays: impl FnMut(&Gateway) -> bool) -> usize {
        let before = self.gateways.len();
        self.gateways.retain(|_, gateway| stays(gateway));
        let gone = before - self.gateways.len();
        if gone > 0 {
            self.leases_end = Instant::now() + LEASE;
        }
        gone
    }
}

/// A gateway's session; ends when it is dropped.
pub(crate) struct Session {
    gateways: Gateways,
    id: u64,
}

impl Gateways {
    /// `expected` says whether there are any.
    pub(crate) fn new(
        store: Store,
        assertion_keys: String,
        expected: bool,
    ) -> Result<Self, rigbox_store::Error> {
        let state = State {
            sequence: 0,
            joined: 0,
            gateways: HashMap::new(),
            leases_end: Instant::now() + if expected { LEASE } else { Duration::ZERO },
            grants: store.grants_epoch()?,
        };
        let moved = watch::channel(()).0;
        Ok(Self(Arc::new(Parts { store, state: Mutex::new(state), moved, assertion_keys })))
    }

    /// Tells gateways what changes by itself, for as long as it is polled.
    pub(crate) async fn run(&self, lives: &Lives) {
        let mut changed = lives.subscribe();
        let (mut look, mut live) = (tokio::time::interval(LOOK_EVERY), tokio::time::interval(SIGN_OF_LIFE));
        loop {
            tokio::select! {
                id = changed.recv() => match id {
                    Ok(id) => drop(self.tell(workspace(&id))),
                    Err(RecvError::Lagged(_)) => drop(self.tell(Event::Reset(Reset {}))),
                    Err(RecvError::Closed) => return,
                },
                _ = look.tick() => {
                    if let Err(error) = self.tell_grants() {
                        warn!(%error, "cannot read whether credentials have changed");
                    }
                }
                _ = live.tick() => self.give_sign_of_life(),
            }
        }
    }

    /// Tells of the apps of a workspace, and waits until that is in force.
    pub(crate) async fn apps_changed(&self, id: &WorkspaceId) {
        let sequence = self.tell(workspace(id));
        self.in_force(sequence).await;
    }

    /// Waits until whatever was granted or revoked up to now is in force.
    pub(crate) async fn settle(&self) -> Result<(), rigbox_store::Error> {
        let sequence = self.tell_grants()?;
        self.in_force(sequence).await;
        Ok(())
    }

    fn tell_grants(&self) -> Result<u64, rigbox_store::Error> {
        let grants = self.0.store.grants_epoch()?;
        let mut state = self.state();
        if state.grants == grants {
            return Ok(state.sequence);
        }
        state.grants = grants;
        Ok(self.tell_with(&mut state, Event::GrantsChanged(GrantsChanged {})))
    }

    fn tell(&self, event: Event) -> u64 {
        self.tell_with(&mut self.state(), event)
    }

    fn tell_with(&self, state: &mut State, event: Event) -> u64 {
        state.sequence += 1;
        let notice = WatchEvent { sequence: state.sequence, event: Some(event) };
        self.send(state, &notice);
        state.sequence
    }

    fn give_sign_of_life(&self) {
        let mut state = self.state();
        let notice = self.lease(state.sequence);
        self.send(&mut state, &notice);
    }

    /// To every gateway; one that takes no more is let go.
    fn send(&self, state: &mut State, notice: &WatchEvent) {
        if state.keep(|gateway| gateway.notices.try_send(notice.clone()).is_ok()) > 0 {
            self.0.moved.send_replace(());
        }
    }

    fn lease(&self, sequence: u64) -> WatchEvent {
        let lease_ms = u32::try_from(LEASE.as_millis()).unwrap_or(u32::MAX);
        let lease = Lease { lease_ms, assertion_keys: self.0.assertion_keys.clone() };
        WatchEvent { sequence, event: Some(Event::Lease(lease)) }
    }

    /// A gateway has come: from now on it hears of everything.
    pub(crate) fn join(&self) -> (Session, mpsc::Receiver<WatchEvent>) {
        let (notices, receiver) = mpsc::channel(QUEUE);
        let mut state = self.state();
        // There is room: it is new.
        let _ = notices.try_send(self.lease(state.sequence));
        // Never one that was there before: who was let go may still have something to say.
        let id = state.joined;
        state.joined += 1;
        let acknowledged = state.sequence;
        state.gateways.insert(id, Gateway { notices, acknowledged });
        (Session { gateways: self.clone(), id }, receiver)
    }

    /// Waits until every gateway has acknowledged `sequence`, or cannot know better any more.
    async fn in_force(&self, sequence: u64) {
        let mut moved = self.0.moved.subscribe();
        let given_up = Instant::now() + LEASE;
        loop {
            let until = {
                let mut state = self.state();
                // One that does not answer is let go: what it remembers ends with its lease.
                if Instant::now() >= given_up && state.keep(|gateway| gateway.acknowledged >= sequence) > 0 {
                    warn!("a gateway does not acknowledge changes and is let go");
                }
                let waits = state.gateways.values().any(|gateway| gateway.acknowledged < sequence);
                if !waits && Instant::now() >= state.leases_end {
                    return;
                }
                if waits { given_up } else { state.leases_end }
            };
            let _ = tokio::time::timeout_at(until, moved.changed()).await;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Session {
    pub(crate) fn acknowledge(&self, sequence: u64) {
        let mut state = self.gateways.state();
        if let Some(gateway) = state.gateways.get_mut(&self.id) {
            gateway.acknowledged = gateway.acknowledged.max(sequence);
        }
        drop(state);
        self.gateways.0.moved.send_replace(());
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let mut state = self.gateways.state();
        if state.gateways.remove(&self.id).is_some() {
            state.leases_end = Instant::now() + LEASE;
        }
        drop(state);
        self.gateways.0.moved.send_replace(());
    }
}

fn workspace(id: &WorkspaceId) -> Event {
    Event::WorkspaceChanged(id.to_string())
}
