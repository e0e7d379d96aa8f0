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

use crate::transitions::WorkspaceTransitions;

/// How long a gateway goes on with what it remembers when it hears nothing.
pub const LEASE: Duration = Duration::from_secs(2);
const KEEPALIVE_INTERVAL: Duration = Duration::from_millis(400);
/// How soon a change that another process made in the database is told. (`rigboxd admin` disables users, for example.)
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// Notices on their way to one gateway; one that has more to take is taken for dead.
const QUEUE_LEN: usize = 1024;

#[derive(Clone)]
pub struct Gateways(Arc<Parts>);

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
    next_id: u64,
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
    fn retain(&mut self, mut stays: impl FnMut(&Gateway) -> bool) -> usize {
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
pub struct GatewaySession {
    gateways: Gateways,
    id: u64,
}

impl Gateways {
    /// `expected` says whether there are any.
    pub fn new(store: Store, assertion_keys: String, expected: bool) -> Result<Self, rigbox_store::Error> {
        let state = State {
            sequence: 0,
            next_id: 0,
            gateways: HashMap::new(),
            leases_end: Instant::now() + if expected { LEASE } else { Duration::ZERO },
            grants: store.grants_epoch()?,
        };
        let moved = watch::channel(()).0;
        Ok(Self(Arc::new(Parts { store, state: Mutex::new(state), moved, assertion_keys })))
    }

    /// Tells gateways what changes by itself, for as long as it is polled.
    pub async fn run(&self, transitions: &WorkspaceTransitions) {
        let mut changed = transitions.subscribe();
        let (mut look, mut live) =
            (tokio::time::interval(POLL_INTERVAL), tokio::time::interval(KEEPALIVE_INTERVAL));
        loop {
            tokio::select! {
                id = changed.recv() => match id {
                    Ok(id) => drop(self.publish(workspace(&id))),
                    Err(RecvError::Lagged(_)) => drop(self.publish(Event::Reset(Reset {}))),
                    Err(RecvError::Closed) => return,
                },
                _ = look.tick() => {
                    if let Err(error) = self.publish_grants() {
                        warn!(%error, "cannot read whether credentials have changed");
                    }
                }
                _ = live.tick() => self.send_keepalive(),
            }
        }
    }

    /// Tells of the apps of a workspace, and waits until that is in force.
    pub async fn apps_changed(&self, id: &WorkspaceId) {
        let sequence = self.publish(workspace(id));
        self.wait_acknowledged(sequence).await;
    }

    /// Waits until whatever was granted or revoked up to now is in force.
    pub async fn wait_in_force(&self) -> Result<(), rigbox_store::Error> {
        let sequence = self.publish_grants()?;
        self.wait_acknowledged(sequence).await;
        Ok(())
    }

    fn publish_grants(&self) -> Result<u64, rigbox_store::Error> {
        let grants = self.0.store.grants_epoch()?;
        let mut state = self.state();
        if state.grants == grants {
            return Ok(state.sequence);
        }
        state.grants = grants;
        Ok(self.publish_locked(&mut state, Event::GrantsChanged(GrantsChanged {})))
    }

    fn publish(&self, event: Event) -> u64 {
        self.publish_locked(&mut self.state(), event)
    }

    fn publish_locked(&self, state: &mut State, event: Event) -> u64 {
        state.sequence += 1;
        let notice = WatchEvent { sequence: state.sequence, event: Some(event) };
        self.send(state, &notice);
        state.sequence
    }

    fn send_keepalive(&self) {
        let mut state = self.state();
        let notice = self.lease(state.sequence);
        self.send(&mut state, &notice);
    }

    /// To every gateway; one that takes no more is let go.
    fn send(&self, state: &mut State, notice: &WatchEvent) {
        if state.retain(|gateway| gateway.notices.try_send(notice.clone()).is_ok()) > 0 {
            self.0.moved.send_replace(());
        }
    }

    fn lease(&self, sequence: u64) -> WatchEvent {
        let lease_ms = u32::try_from(LEASE.as_millis()).unwrap_or(u32::MAX);
        let lease = Lease { lease_ms, assertion_keys: self.0.assertion_keys.clone() };
        WatchEvent { sequence, event: Some(Event::Lease(lease)) }
    }

    /// A gateway has come: from now on it hears of everything.
    pub fn join(&self) -> (GatewaySession, mpsc::Receiver<WatchEvent>) {
        let (notices, receiver) = mpsc::channel(QUEUE_LEN);
        let mut state = self.state();
        // There is room: it is new.
        let _ = notices.try_send(self.lease(state.sequence));
        // Never one that was there before: who was let go may still have something to say.
        let id = state.next_id;
        state.next_id += 1;
        let acknowledged = state.sequence;
        state.gateways.insert(id, Gateway { notices, acknowledged });
        (GatewaySession { gateways: self.clone(), id }, receiver)
    }

    /// Waits until every gateway has acknowledged `sequence`, or cannot know better any more.
    async fn wait_acknowledged(&self, sequence: u64) {
        let mut moved = self.0.moved.subscribe();
        let deadline = Instant::now() + LEASE;
        loop {
            let until = {
                let mut state = self.state();
                // One that does not answer is let go: what it remembers ends with its lease.
                if Instant::now() >= deadline && state.retain(|gateway| gateway.acknowledged >= sequence) > 0
                {
                    warn!("a gateway does not acknowledge changes and is let go");
                }
                let waits = state.gateways.values().any(|gateway| gateway.acknowledged < sequence);
                if !waits && Instant::now() >= state.leases_end {
                    return;
                }
                if waits { deadline } else { state.leases_end }
            };
            let _ = tokio::time::timeout_at(until, moved.changed()).await;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl GatewaySession {
    pub fn acknowledge(&self, sequence: u64) {
        let mut state = self.gateways.state();
        if let Some(gateway) = state.gateways.get_mut(&self.id) {
            gateway.acknowledged = gateway.acknowledged.max(sequence);
        }
        drop(state);
        self.gateways.0.moved.send_replace(());
    }
}

impl Drop for GatewaySession {
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
