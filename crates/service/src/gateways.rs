//! Propagation of changes to the gateways.
//!
//! A gateway caches control's decisions for as long as it hears from control at least once per lease. A
//! change is therefore in force when every gateway has acknowledged it, or is disconnected and its lease has
//! expired. [`Gateways::wait_in_force`] waits for that, and the API responds to a change only afterwards.

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

/// Time for which a gateway may use its cache without hearing from control.
pub const LEASE: Duration = Duration::from_secs(2);
const KEEPALIVE_INTERVAL: Duration = Duration::from_millis(400);
/// Interval at which changes by other processes are read from the database. (`rigboxd admin` disables users,
/// for example.)
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// Queued events of one gateway. A gateway with a full queue counts as dead.
const QUEUE_LEN: usize = 1024;

/// Registry of the connected gateways.
#[derive(Clone)]
pub struct Gateways(Arc<Inner>);

struct Inner {
    store: Store,
    state: Mutex<State>,
    /// Notified when a gateway acknowledges or disconnects.
    progress: watch::Sender<()>,
    /// Public keys of assertions, sent with the lease.
    assertion_keys: String,
}

struct State {
    sequence: u64,
    /// Id of the next gateway.
    next_id: u64,
    gateways: HashMap<u64, Gateway>,
    /// End of the leases of gateways that disconnected, or that were connected to a previous process.
    leases_end: Instant,
    /// Last published epoch of grants.
    grants: i64,
    /// Users that were disabled at that epoch, as [`Store::disabled_users`] tells them.
    disabled: (i64, i64),
}

struct Gateway {
    events: mpsc::Sender<WatchEvent>,
    acknowledged: u64,
}

impl State {
    /// Removes gateways for which `keep` is false. Their leases have to expire from now on. Returns their
    /// number.
    fn retain(&mut self, mut keep: impl FnMut(&Gateway) -> bool) -> usize {
        let before = self.gateways.len();
        self.gateways.retain(|_, gateway| keep(gateway));
        let removed = before - self.gateways.len();
        if removed > 0 {
            self.leases_end = Instant::now() + LEASE;
        }
        removed
    }
}

/// Connection of a gateway, removed when dropped.
pub struct GatewaySession {
    gateways: Gateways,
    id: u64,
}

impl Gateways {
    /// Creates the registry. `expected` tells whether gateways are configured.
    pub fn new(store: Store, assertion_keys: String, expected: bool) -> Result<Self, rigbox_store::Error> {
        let state = State {
            sequence: 0,
            next_id: 0,
            gateways: HashMap::new(),
            leases_end: Instant::now() + if expected { LEASE } else { Duration::ZERO },
            grants: store.grants_epoch()?,
            disabled: store.disabled_users()?,
        };
        let progress = watch::channel(()).0;
        Ok(Self(Arc::new(Inner { store, state: Mutex::new(state), progress, assertion_keys })))
    }

    /// Publishes changes and keepalives for as long as it is polled.
    pub async fn run(&self, transitions: &WorkspaceTransitions) {
        let mut changed = transitions.subscribe();
        let (mut poll, mut keepalive) =
            (tokio::time::interval(POLL_INTERVAL), tokio::time::interval(KEEPALIVE_INTERVAL));
        loop {
            tokio::select! {
                change = changed.recv() => match change {
                    Ok(change) => drop(self.publish(workspace(&change.id))),
                    Err(RecvError::Lagged(_)) => drop(self.publish(Event::Reset(Reset {}))),
                    Err(RecvError::Closed) => return,
                },
                _ = poll.tick() => {
                    if let Err(error) = self.publish_grants() {
                        warn!(%error, "failed to read the epoch of grants");
                    }
                }
                _ = keepalive.tick() => self.send_keepalive(),
            }
        }
    }

    /// Publishes a change of a workspace's apps and waits until it is in force.
    pub async fn apps_changed(&self, id: &WorkspaceId) {
        let sequence = self.publish(workspace(id));
        self.wait_acknowledged(sequence).await;
    }

    /// Waits until everything granted or revoked up to now is in force.
    pub async fn wait_in_force(&self) -> Result<(), rigbox_store::Error> {
        let sequence = self.publish_grants()?;
        self.wait_acknowledged(sequence).await;
        Ok(())
    }

    fn publish_grants(&self) -> Result<u64, rigbox_store::Error> {
        let grants = self.0.store.grants_epoch()?;
        if self.state().grants == grants {
            return Ok(self.state().sequence);
        }
        let disabled = self.0.store.disabled_users()?;
        let mut state = self.state();
        if state.grants == grants {
            return Ok(state.sequence);
        }
        state.grants = grants;
        // Apps of a disabled user are not there, whoever asks, also without a credential.
        let event = if state.disabled == disabled {
            Event::GrantsChanged(GrantsChanged {})
        } else {
            Event::Reset(Reset {})
        };
        state.disabled = disabled;
        Ok(self.publish_locked(&mut state, event))
    }

    fn publish(&self, event: Event) -> u64 {
        self.publish_locked(&mut self.state(), event)
    }

    fn publish_locked(&self, state: &mut State, event: Event) -> u64 {
        state.sequence += 1;
        let event = WatchEvent::now(state.sequence, event);
        self.send(state, &event);
        state.sequence
    }

    fn send_keepalive(&self) {
        let mut state = self.state();
        let event = self.lease(state.sequence);
        self.send(&mut state, &event);
    }

    /// Sends an event to every gateway and removes those with a full queue.
    fn send(&self, state: &mut State, event: &WatchEvent) {
        if state.retain(|gateway| gateway.events.try_send(event.clone()).is_ok()) > 0 {
            self.0.progress.send_replace(());
        }
    }

    fn lease(&self, sequence: u64) -> WatchEvent {
        let lease_ms = u32::try_from(LEASE.as_millis()).unwrap_or(u32::MAX);
        let lease = Lease { lease_ms, assertion_keys: self.0.assertion_keys.clone() };
        WatchEvent::now(sequence, Event::Lease(lease))
    }

    /// Registers a gateway. From now on it receives every event.
    pub fn join(&self) -> (GatewaySession, mpsc::Receiver<WatchEvent>) {
        #[expect(
            clippy::disallowed_methods,
            reason = "bound: events for one gateway; a slow one is dropped and starts over"
        )]
        let (events, receiver) = mpsc::channel(QUEUE_LEN);
        let mut state = self.state();
        // The queue is new, so there is space.
        let _ = events.try_send(self.lease(state.sequence));
        // Ids are never reused: a removed gateway may still acknowledge.
        let id = state.next_id;
        state.next_id += 1;
        let acknowledged = state.sequence;
        state.gateways.insert(id, Gateway { events, acknowledged });
        (GatewaySession { gateways: self.clone(), id }, receiver)
    }

    /// Waits until every gateway has acknowledged `sequence`, or cannot have a valid lease.
    async fn wait_acknowledged(&self, sequence: u64) {
        let mut progress = self.0.progress.subscribe();
        let deadline = Instant::now() + LEASE;
        loop {
            let until = {
                let mut state = self.state();
                // A gateway that does not respond is removed; its cache expires with its lease.
                if Instant::now() >= deadline && state.retain(|gateway| gateway.acknowledged >= sequence) > 0
                {
                    warn!("removed a gateway that does not acknowledge changes");
                }
                let is_waiting = state.gateways.values().any(|gateway| gateway.acknowledged < sequence);
                if !is_waiting && Instant::now() >= state.leases_end {
                    return;
                }
                if is_waiting { deadline } else { state.leases_end }
            };
            let _ = tokio::time::timeout_at(until, progress.changed()).await;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl GatewaySession {
    /// Records that the gateway has applied all events up to `sequence`.
    pub fn acknowledge(&self, sequence: u64) {
        let mut state = self.gateways.state();
        if let Some(gateway) = state.gateways.get_mut(&self.id) {
            gateway.acknowledged = gateway.acknowledged.max(sequence);
        }
        drop(state);
        self.gateways.0.progress.send_replace(());
    }
}

impl Drop for GatewaySession {
    fn drop(&mut self) {
        let mut state = self.gateways.state();
        if state.gateways.remove(&self.id).is_some() {
            state.leases_end = Instant::now() + LEASE;
        }
        drop(state);
        self.gateways.0.progress.send_replace(());
    }
}

fn workspace(id: &WorkspaceId) -> Event {
    Event::WorkspaceChanged(id.to_string())
}
