//! One client's connection: how long it may be silent, and how many there are. A connection that is busy with an exchange is bounded by
//! that (`exchange`); any other by the time within which a head has to come.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use slab::Slab;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::AbortHandle;

/// Milliseconds since the role began, as of the last tick: exact enough for limits of seconds, and free of cost.
#[derive(Debug)]
pub(crate) struct Clock {
    began: Instant,
    now: AtomicU64,
}

/// How often the clock goes on and limits are looked at.
pub(crate) const TICK: Duration = Duration::from_millis(250);
const NEVER: u64 = u64::MAX;

impl Clock {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { began: Instant::now(), now: AtomicU64::new(0) })
    }

    pub(crate) fn tick(&self) {
        let elapsed = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(NEVER);
        self.now.store(elapsed, Ordering::Relaxed);
    }

    pub(crate) fn now(&self) -> u64 {
        self.now.load(Ordering::Relaxed)
    }

    /// The time in `after`.
    pub(crate) fn then(&self, after: Duration) -> u64 {
        self.now().saturating_add(u64::try_from(after.as_millis()).unwrap_or(NEVER))
    }
}

/// How long a connection may be silent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// From a head's first byte to its last.
    pub(crate) head: Duration,
    /// Between two exchanges.
    pub(crate) between: Duration,
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Line {
    clock: Arc<Clock>,
    patience: Patience,
    /// When it is closed unless it is busy.
    due: AtomicU64,
    exchanges: AtomicUsize,
}

impl Line {
    fn new(clock: Arc<Clock>, patience: Patience) -> Self {
        let due = AtomicU64::new(clock.then(patience.head));
        Self { clock, patience, due, exchanges: AtomicUsize::new(0) }
    }

    /// The first byte of a head has come.
    pub(crate) fn begins_head(&self) {
        self.due.store(self.clock.then(self.patience.head), Ordering::Relaxed);
    }

    /// A head is whole.
    pub(crate) fn has_head(&self) {
        self.due.store(self.clock.then(self.patience.between), Ordering::Relaxed);
    }

    /// An exchange begins.
    pub(crate) fn begin(&self) {
        self.exchanges.fetch_add(1, Ordering::Relaxed);
    }

    /// An exchange has ended.
    pub(crate) fn end(&self) {
        self.has_head();
        self.exchanges.fetch_sub(1, Ordering::Relaxed);
    }

    pub(crate) fn is_busy(&self) -> bool {
        self.exchanges.load(Ordering::Relaxed) > 0
    }

    fn is_overdue(&self, now: u64) -> bool {
        !self.is_busy() && self.due.load(Ordering::Relaxed) < now
    }
}

/// All connections of one core.
#[derive(Debug)]
pub(crate) struct Lines {
    open: Mutex<Slab<(Arc<Line>, Option<AbortHandle>)>>,
    clock: Arc<Clock>,
    patience: Patience,
    /// All cores share it: the kernel does not spread connections evenly.
    room: Arc<Semaphore>,
}

/// A connection's place among [`Lines`]; free again when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    lines: Arc<Lines>,
    key: usize,
    pub(crate) line: Arc<Line>,
    _seat: OwnedSemaphorePermit,
}

impl Lines {
    pub(crate) fn new(clock: Arc<Clock>, patience: Patience, room: Arc<Semaphore>) -> Arc<Self> {
        Arc::new(Self { open: Mutex::default(), clock, patience, room })
    }

    /// A place for one more; none when there are too many.
    pub(crate) fn open(self: &Arc<Self>) -> Option<Place> {
        let seat = Arc::clone(&self.room).try_acquire_owned().ok()?;
        let line = Arc::new(Line::new(Arc::clone(&self.clock), self.patience));
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let key = open.insert((Arc::clone(&line), None));
        Some(Place { lines: Arc::clone(self), key, line, _seat: seat })
    }

    /// Which task to end when a connection's time is over.
    pub(crate) fn is_served(&self, key: usize, task: AbortHandle) {
        if let Some(entry) = self.open.lock().unwrap_or_else(PoisonError::into_inner).get_mut(key) {
            entry.1 = Some(task);
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Closes those whose time is over.
    pub(crate) fn close_overdue(&self) {
        let now = self.clock.now();
        for (_, (line, task)) in &*self.open.lock().unwrap_or_else(PoisonError::into_inner) {
            if line.is_overdue(now)
                && let Some(task) = task
            {
                task.abort();
            }
        }
    }
}

impl Place {
    pub(crate) fn key(&self) -> usize {
        self.key
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.lines.open.lock().unwrap_or_else(PoisonError::into_inner).try_remove(self.key);
    }
}
