//! Client connections of one worker: how many there may be, and how long one may be silent. A connection that serves a request is bounded
//! by that request's grant ([`crate::active_grants`]), any other by the time in which the next request's head has to arrive.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rigbox_shares::{AddressBlock, Place, Shares};
use slab::Slab;
use tokio::task::AbortHandle;

use crate::clock::Clock;

/// Timeouts of a client connection.
#[derive(Debug, Clone, Copy)]
pub struct ConnectionTimeouts {
    /// From the first byte of a head to its last.
    pub head: Duration,
    /// Between two requests.
    pub keep_alive: Duration,
}

/// Client connection.
#[derive(Debug)]
pub struct Connection {
    clock: Arc<Clock>,
    timeouts: ConnectionTimeouts,
    /// Time at which the connection is closed unless it is busy.
    deadline: AtomicU64,
    requests: AtomicUsize,
}

impl Connection {
    fn new(clock: Arc<Clock>, timeouts: ConnectionTimeouts) -> Self {
        let deadline = AtomicU64::new(clock.deadline(timeouts.head));
        Self { clock, timeouts, deadline, requests: AtomicUsize::new(0) }
    }

    /// Records the first byte of a head.
    #[inline]
    pub fn head_started(&self) {
        self.deadline.store(self.clock.deadline(self.timeouts.head), Ordering::Relaxed);
    }

    /// Records the last byte of a head.
    #[inline]
    pub fn head_finished(&self) {
        self.deadline.store(self.clock.deadline(self.timeouts.keep_alive), Ordering::Relaxed);
    }

    /// Returns whether a request is being served.
    #[inline]
    pub fn is_busy(&self) -> bool {
        self.requests.load(Ordering::Relaxed) > 0
    }

    fn is_overdue(&self, now: u64) -> bool {
        !self.is_busy() && self.deadline.load(Ordering::Relaxed) < now
    }
}

/// Connections of one worker.
#[derive(Debug)]
pub struct Connections {
    open: Mutex<Slab<(Arc<Connection>, Option<AbortHandle>)>>,
    clock: Arc<Clock>,
    timeouts: ConnectionTimeouts,
    /// Shared by all workers: the kernel does not spread connections evenly.
    places: Shares<AddressBlock>,
}

/// Slot of a connection among [`Connections`], released on drop.
#[derive(Debug)]
pub struct ConnectionGuard {
    connections: Arc<Connections>,
    key: usize,
    connection: Arc<Connection>,
    _place: Place<AddressBlock>,
}

impl Connections {
    /// Creates an empty set, whose size `places` bounds.
    pub fn new(clock: Arc<Clock>, timeouts: ConnectionTimeouts, places: Shares<AddressBlock>) -> Arc<Self> {
        Arc::new(Self { open: Mutex::default(), clock, timeouts, places })
    }

    /// Registers a new connection. Returns `None` if there are too many, in all or of this client.
    pub fn open(self: &Arc<Self>, client: AddressBlock) -> Option<ConnectionGuard> {
        let place = self.places.take(client).ok()?;
        let connection = Arc::new(Connection::new(Arc::clone(&self.clock), self.timeouts));
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let key = open.insert((Arc::clone(&connection), None));
        Some(ConnectionGuard { connections: Arc::clone(self), key, connection, _place: place })
    }

    /// Sets the task to abort when the connection times out.
    pub fn set_task(&self, key: usize, task: AbortHandle) {
        if let Some(entry) = self.open.lock().unwrap_or_else(PoisonError::into_inner).get_mut(key) {
            entry.1 = Some(task);
        }
    }

    /// Returns whether no connection is open.
    pub fn is_empty(&self) -> bool {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Closes the connections that have timed out.
    pub fn close_overdue(&self) {
        let now = self.clock.now();
        for (_, (connection, task)) in &*self.open.lock().unwrap_or_else(PoisonError::into_inner) {
            if connection.is_overdue(now)
                && let Some(task) = task
            {
                task.abort();
            }
        }
    }
}

impl ConnectionGuard {
    /// Returns the key for [`Connections::set_task`].
    pub fn key(&self) -> usize {
        self.key
    }

    /// Returns the connection.
    #[inline]
    pub fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.connections.open.lock().unwrap_or_else(PoisonError::into_inner).try_remove(self.key);
    }
}

/// Marks a connection as busy with one request, until dropped.
#[derive(Debug)]
pub struct BusyGuard(Arc<ConnectionGuard>);

impl BusyGuard {
    /// Marks the connection as busy.
    #[inline]
    pub fn new(guard: &Arc<ConnectionGuard>) -> Self {
        guard.connection.requests.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(guard))
    }
}

impl Clone for BusyGuard {
    #[inline]
    fn clone(&self) -> Self {
        Self::new(&self.0)
    }
}

impl Drop for BusyGuard {
    #[inline]
    fn drop(&mut self) {
        let connection = &self.0.connection;
        connection.head_finished();
        connection.requests.fetch_sub(1, Ordering::Relaxed);
    }
}
