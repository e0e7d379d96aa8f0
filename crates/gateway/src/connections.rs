//! Client connections of the workers: how many there may be, which one gives way when there are too many, and how long one may be silent. A
//! connection that serves a request is bounded by that request's grant ([`crate::active_grants`]), any other by the time in which the next
//! request's head has to arrive.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use rigbox_shares::{AddressBlock, Bounds, Evict, EvictingShares, Held, Refused};
use tokio::task::AbortHandle;

use crate::clock::Clock;

/// Number of requests of a connection that is being closed, and takes no more.
const CLOSED: usize = usize::MAX / 2;

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
    /// Precise time at which the connection was opened, or its last request ended.
    idle_since: AtomicU64,
    requests: AtomicUsize,
    /// Task to abort when the connection is closed.
    task: OnceLock<AbortHandle>,
}

impl Connection {
    fn new(clock: Arc<Clock>, timeouts: ConnectionTimeouts) -> Self {
        let deadline = AtomicU64::new(clock.deadline(timeouts.head));
        let idle_since = AtomicU64::new(clock.precise_now());
        Self { clock, timeouts, deadline, idle_since, requests: AtomicUsize::new(0), task: OnceLock::new() }
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
        (1..CLOSED).contains(&self.requests.load(Ordering::Relaxed))
    }

    /// Sets the task to abort when the connection is closed.
    pub fn set_task(&self, task: AbortHandle) {
        // A connection has one task.
        let _ = self.task.set(task);
    }

    /// Closes the connection unless a request is being served. From then on, it takes no request. Returns whether it was closed.
    fn close_if_idle(&self) -> bool {
        let Some(task) = self.task.get() else { return false };
        let closed = self.requests.compare_exchange(0, CLOSED, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        if closed {
            task.abort();
        }
        closed
    }

    fn is_overdue(&self, now: u64) -> bool {
        self.deadline.load(Ordering::Relaxed) < now
    }
}

impl Evict for Connection {
    fn idle_since(&self) -> Option<Instant> {
        let is_idle = self.requests.load(Ordering::Acquire) == 0;
        is_idle.then(|| self.clock.instant(self.idle_since.load(Ordering::Relaxed)))
    }

    fn evict(&self) -> bool {
        self.close_if_idle()
    }
}

/// Connections of all workers: the kernel does not spread them evenly.
#[derive(Debug)]
pub struct Connections {
    open: EvictingShares<AddressBlock, Arc<Connection>>,
    clock: Arc<Clock>,
    timeouts: ConnectionTimeouts,
}

/// Place of a connection among [`Connections`], released on drop.
#[derive(Debug)]
pub struct ConnectionGuard {
    connection: Arc<Connection>,
    _place: Held<AddressBlock, Arc<Connection>>,
}

impl Connections {
    /// Creates an empty set, which `bounds` bounds.
    pub fn new(clock: Arc<Clock>, timeouts: ConnectionTimeouts, bounds: Bounds) -> Arc<Self> {
        Arc::new(Self { open: EvictingShares::new(bounds), clock, timeouts })
    }

    /// Registers a new connection. If there are too many, the one that has waited for its client's next request longest gives way.
    ///
    /// # Errors
    /// [`Refused`], if this client has its share, or if all connections serve requests.
    pub async fn open(&self, client: AddressBlock) -> Result<ConnectionGuard, Refused> {
        let connection = Arc::new(Connection::new(Arc::clone(&self.clock), self.timeouts));
        let place = self.open.take(client, Arc::clone(&connection)).await?;
        Ok(ConnectionGuard { connection, _place: place })
    }

    /// Returns whether no connection is open.
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Returns whether at least `least` connections, and a quarter of all, have closed since there were most. If so, counting starts anew.
    pub fn has_fallen(&self, least: usize) -> bool {
        self.open.has_fallen(least)
    }

    /// Closes the connections that have timed out.
    pub fn close_overdue(&self) {
        let now = self.clock.now();
        self.open.for_each(|connection| {
            if connection.is_overdue(now) {
                connection.close_if_idle();
            }
        });
    }
}

impl ConnectionGuard {
    /// Returns the connection.
    #[inline]
    pub fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }
}

/// Marks a connection as busy with one request, until dropped.
#[derive(Debug)]
pub struct BusyGuard(Arc<ConnectionGuard>);

impl BusyGuard {
    /// Marks the connection as busy. Returns `None` if it is being closed.
    #[inline]
    pub fn new(guard: &Arc<ConnectionGuard>) -> Option<Self> {
        if guard.connection.requests.fetch_add(1, Ordering::AcqRel) >= CLOSED {
            return None;
        }
        Some(Self(Arc::clone(guard)))
    }
}

impl Clone for BusyGuard {
    #[inline]
    fn clone(&self) -> Self {
        // The connection is busy, so it is not being closed.
        self.0.connection.requests.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(&self.0))
    }
}

impl Drop for BusyGuard {
    #[inline]
    fn drop(&mut self) {
        let connection = &self.0.connection;
        connection.head_finished();
        connection.idle_since.store(connection.clock.precise_now(), Ordering::Relaxed);
        connection.requests.fetch_sub(1, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn closing_and_busy_exclude_each_other() {
        let timeouts = ConnectionTimeouts { head: Duration::ZERO, keep_alive: Duration::ZERO };
        let connections = Connections::new(Clock::new(), timeouts, Bounds { total: 1, per_key: 1 });
        let client = AddressBlock::from(std::net::IpAddr::from([192, 0, 2, 1]));
        let guard = Arc::new(connections.open(client).await.unwrap());
        let connection = Arc::clone(guard.connection());
        assert!(!connection.evict(), "it has no task yet that could be ended");
        let task = tokio::spawn(std::future::pending::<()>());
        connection.set_task(task.abort_handle());
        let busy = BusyGuard::new(&guard).unwrap();
        let more = busy.clone();
        drop(busy);
        assert!(connection.is_busy() && connection.idle_since().is_none() && !connection.evict());
        drop(more);
        assert!(connection.idle_since().is_some());
        assert!(connection.evict());
        assert!(BusyGuard::new(&guard).is_none(), "its client's request is not begun");
        assert!(!connection.is_busy() && connection.idle_since().is_none() && !connection.evict());
        assert!(task.await.unwrap_err().is_cancelled());
    }
}
