//! Exchanges under way: requests whose answer has not ended, and WebSockets. Each can be ended from outside, because what allowed it
//! may not hold any more, its VM may be another one by now, or it has been silent for too long.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::task::AtomicWaker;
use rigbox_core::app_access::{Initiator, RequestKind};
use slab::Slab;

use crate::control::Credential;
use crate::line::{Clock, Place};
use crate::route::{Identity, Route};

/// Why an exchange was ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// What allowed it does not hold any more.
    Forbidden,
    /// The app cannot be reached any more, or has moved to another VM.
    Gone,
    /// Nothing has moved for too long.
    Silent,
    /// Control is not heard, so nobody knows.
    Unknown,
}

impl Ended {
    const ALL: [Self; 4] = [Self::Forbidden, Self::Gone, Self::Silent, Self::Unknown];

    fn number(self) -> u8 {
        self as u8 + 1
    }

    fn of(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|ended| ended.number() == number)
    }
}

/// What was decided about, to be decided again.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) credential: Option<Credential>,
    pub(crate) kind: RequestKind,
    pub(crate) source: Initiator,
}

/// Which of its two tasks waits.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Side {
    /// The one that carries the request's body.
    Up,
    /// The one that carries everything else.
    Down,
}

/// One exchange.
#[derive(Debug)]
pub(crate) struct Exchange {
    pub(crate) asked: Asked,
    pub(crate) route: Arc<Route>,
    /// The app was told of a user.
    pub(crate) told: bool,
    /// Unix time, ms, at which that user's credential ends.
    pub(crate) until_ms: i64,
    ended: AtomicU8,
    up: AtomicWaker,
    down: AtomicWaker,
    /// When it has been silent for too long.
    due: AtomicU64,
    home: Arc<Exchanges>,
    key: usize,
    _busy: Busy,
}

/// A connection that is busy.
#[derive(Debug)]
pub(crate) struct Busy(Arc<Place>);

impl Busy {
    pub(crate) fn new(place: &Arc<Place>) -> Self {
        place.line.begin();
        Self(Arc::clone(place))
    }
}

impl Clone for Busy {
    fn clone(&self) -> Self {
        Self::new(&self.0)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.line.end();
    }
}

/// All exchanges of one core.
#[derive(Debug)]
pub(crate) struct Exchanges {
    open: Mutex<Slab<Weak<Exchange>>>,
    clock: Arc<Clock>,
}

impl Exchanges {
    pub(crate) fn new(clock: Arc<Clock>) -> Arc<Self> {
        Arc::new(Self { open: Mutex::default(), clock })
    }

    /// Begins one; `user` is whom the app is told of.
    pub(crate) fn begin(
        self: &Arc<Self>,
        asked: Asked,
        route: Arc<Route>,
        user: Option<&Identity>,
        busy: Busy,
        patience: Duration,
    ) -> Arc<Exchange> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = open.vacant_entry();
        let exchange = Arc::new(Exchange {
            asked,
            route,
            told: user.is_some(),
            until_ms: user.map_or(i64::MAX, |user| user.until_ms),
            ended: AtomicU8::new(0),
            up: AtomicWaker::new(),
            down: AtomicWaker::new(),
            due: AtomicU64::new(self.clock.then(patience)),
            home: Arc::clone(self),
            key: entry.key(),
            _busy: busy,
        });
        entry.insert(Arc::downgrade(&exchange));
        exchange
    }

    /// Those that `wanted` picks.
    pub(crate) fn pick(&self, wanted: impl Fn(&Exchange) -> bool) -> Vec<Arc<Exchange>> {
        let all: Vec<Arc<Exchange>> = {
            let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
            open.iter().filter_map(|(_, exchange)| exchange.upgrade()).collect()
        };
        // The last hold on one may end here, which takes the lock.
        all.into_iter().filter(|exchange| wanted(exchange)).collect()
    }

    /// Ends those that have been silent for too long.
    pub(crate) fn end_silent(&self) {
        let now = self.clock.now();
        for exchange in self.pick(|exchange| exchange.due.load(Ordering::Relaxed) < now) {
            exchange.end(Ended::Silent);
        }
    }
}

impl Exchange {
    /// Something has moved; the next thing has to within `patience`.
    pub(crate) fn moves(&self, patience: Duration) {
        self.due.store(self.home.clock.then(patience), Ordering::Relaxed);
    }

    /// Ends it; the first reason counts.
    pub(crate) fn end(&self, why: Ended) {
        if self.ended.compare_exchange(0, why.number(), Ordering::AcqRel, Ordering::Acquire).is_ok() {
            self.up.wake();
            self.down.wake();
        }
    }

    /// Ready when it was ended.
    pub(crate) fn poll_ended(&self, side: Side, cx: &Context<'_>) -> Poll<Ended> {
        let ended = || Ended::of(self.ended.load(Ordering::Acquire));
        if let Some(ended) = ended() {
            return Poll::Ready(ended);
        }
        match side {
            Side::Up => self.up.register(cx.waker()),
            Side::Down => self.down.register(cx.waker()),
        }
        ended().map_or(Poll::Pending, Poll::Ready)
    }

    /// What `future` gives, unless the exchange is ended before.
    pub(crate) async fn unless_ended<T>(&self, future: impl Future<Output = T>) -> Result<T, Ended> {
        let mut future = std::pin::pin!(future);
        std::future::poll_fn(|cx| {
            if let Poll::Ready(ended) = self.poll_ended(Side::Down, cx) {
                return Poll::Ready(Err(ended));
            }
            future.as_mut().poll(cx).map(Ok)
        })
        .await
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.home.open.lock().unwrap_or_else(PoisonError::into_inner).try_remove(self.key);
    }
}
