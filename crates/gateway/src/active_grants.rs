//! Active grants: requests whose response has not ended, and tunnels such as WebSockets. Each can be ended from outside, because its
//! permission was revoked, its VM was replaced, or nothing has moved for too long.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::task::AtomicWaker;
use slab::Slab;

use crate::clock::Clock;
use crate::connections::BusyGuard;

/// Reason for ending a grant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndReason {
    /// The permission was revoked.
    Revoked,
    /// The upstream is gone, or was replaced by another VM.
    UpstreamGone,
    /// Nothing has moved for too long.
    IdleTimeout,
    /// The lease has lapsed, so the permission cannot be verified.
    LeaseLapsed,
    /// The gateway is stopping.
    ShutDown,
}

impl EndReason {
    const ALL: [Self; 5] =
        [Self::Revoked, Self::UpstreamGone, Self::IdleTimeout, Self::LeaseLapsed, Self::ShutDown];

    fn number(self) -> u8 {
        self as u8 + 1
    }

    fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.number() == number)
    }
}

/// Task that waits for the end of a grant.
#[derive(Debug, Clone, Copy)]
pub enum Waiter {
    /// The one that carries the request body.
    RequestBody,
    /// The one that carries everything else.
    Response,
}

/// Active grant. `D` is the decision that it rests on.
#[derive(Debug)]
pub struct ActiveGrant<D> {
    decision: D,
    /// Unix time in milliseconds at which the credential expires.
    expires_at_ms: i64,
    ended: AtomicU8,
    request_body: AtomicWaker,
    response: AtomicWaker,
    /// Time at which the grant has been idle for too long.
    deadline: AtomicU64,
    grants: Arc<ActiveGrants<D>>,
    key: usize,
    _busy: BusyGuard,
}

/// Active grants of one worker.
#[derive(Debug)]
pub struct ActiveGrants<D> {
    open: Mutex<Slab<Weak<ActiveGrant<D>>>>,
    clock: Arc<Clock>,
}

impl<D> ActiveGrants<D> {
    /// Creates an empty set.
    pub fn new(clock: Arc<Clock>) -> Arc<Self> {
        Arc::new(Self { open: Mutex::default(), clock })
    }

    /// Registers a grant that rests on `decision`, expires with its credential at `expires_at_ms` (Unix time), and is idle after
    /// `idle_timeout`.
    #[inline]
    pub fn start(
        self: &Arc<Self>,
        decision: D,
        expires_at_ms: i64,
        busy: BusyGuard,
        idle_timeout: Duration,
    ) -> Arc<ActiveGrant<D>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = open.vacant_entry();
        let grant = Arc::new(ActiveGrant {
            decision,
            expires_at_ms,
            ended: AtomicU8::new(0),
            request_body: AtomicWaker::new(),
            response: AtomicWaker::new(),
            deadline: AtomicU64::new(self.clock.deadline(idle_timeout)),
            grants: Arc::clone(self),
            key: entry.key(),
            _busy: busy,
        });
        entry.insert(Arc::downgrade(&grant));
        grant
    }

    /// Returns the grants that `filter` selects.
    pub fn select(&self, filter: impl Fn(&ActiveGrant<D>) -> bool) -> Vec<Arc<ActiveGrant<D>>> {
        let all: Vec<Arc<ActiveGrant<D>>> = {
            let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
            open.iter().filter_map(|(_, grant)| grant.upgrade()).collect()
        };
        // Filtered outside of the lock, which dropping the last reference to a grant takes.
        all.into_iter().filter(|grant| filter(grant)).collect()
    }

    /// Ends the grants that have been idle for too long.
    pub fn end_idle(&self) {
        let now = self.clock.now();
        for grant in self.select(|grant| grant.deadline.load(Ordering::Relaxed) < now) {
            grant.end(EndReason::IdleTimeout);
        }
    }

    /// Ends all grants.
    pub fn end_all(&self, reason: EndReason) {
        for grant in self.select(|_| true) {
            grant.end(reason);
        }
    }
}

impl<D> ActiveGrant<D> {
    /// Returns the decision that the grant rests on.
    #[inline]
    pub fn decision(&self) -> &D {
        &self.decision
    }

    /// Returns whether the credential has expired at `now_ms` (Unix time).
    pub fn is_expired(&self, now_ms: i64) -> bool {
        self.expires_at_ms <= now_ms
    }

    /// Records progress, and restarts the idle timeout.
    #[inline]
    pub fn touch(&self, idle_timeout: Duration) {
        self.deadline.store(self.grants.clock.deadline(idle_timeout), Ordering::Relaxed);
    }

    /// Ends the grant. The first reason is kept.
    pub fn end(&self, reason: EndReason) {
        if self.ended.compare_exchange(0, reason.number(), Ordering::AcqRel, Ordering::Acquire).is_ok() {
            self.request_body.wake();
            self.response.wake();
        }
    }

    /// Polls for the end of the grant.
    #[inline]
    pub fn poll_ended(&self, waiter: Waiter, cx: &Context<'_>) -> Poll<EndReason> {
        let ended = || EndReason::from_number(self.ended.load(Ordering::Acquire));
        if let Some(reason) = ended() {
            return Poll::Ready(reason);
        }
        match waiter {
            Waiter::RequestBody => self.request_body.register(cx.waker()),
            Waiter::Response => self.response.register(cx.waker()),
        }
        ended().map_or(Poll::Pending, Poll::Ready)
    }

    /// Runs `future` unless the grant ends first.
    ///
    /// # Errors
    /// The reason for the end.
    pub async fn run_until_ended<T>(&self, future: impl Future<Output = T>) -> Result<T, EndReason> {
        let mut future = std::pin::pin!(future);
        std::future::poll_fn(|cx| {
            if let Poll::Ready(reason) = self.poll_ended(Waiter::Response, cx) {
                return Poll::Ready(Err(reason));
            }
            future.as_mut().poll(cx).map(Ok)
        })
        .await
    }
}

impl<D> Drop for ActiveGrant<D> {
    fn drop(&mut self) {
        self.grants.open.lock().unwrap_or_else(PoisonError::into_inner).try_remove(self.key);
    }
}
