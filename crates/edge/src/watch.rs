//! Hears from control what has changed, and tells it once that is in force here: what is remembered of it is forgotten, and what is
//! under way is being looked at again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use rigbox_proto::gateway::{Lease, WatchAck, WatchEvent, watch_event};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::Core;
use crate::exchange::{Ended, Exchange};
use crate::gate;
use crate::known::Change;

/// After a break.
const PAUSE: Duration = Duration::from_millis(200);
/// For the first word of a new watch.
const FIRST_WORD: Duration = Duration::from_secs(5);
/// A longer lease would let what is wrong live on.
const LONGEST_LEASE: Duration = Duration::from_secs(60);
/// Exchanges that are looked at at once.
const AT_ONCE: usize = 64;

/// The keys of assertions, as control last said them.
pub(crate) type AssertionKeys = std::sync::RwLock<String>;

/// Why a watch ended.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("control ended it: {0}")]
    Ended(#[from] tonic::Status),
    #[error("control was not heard for a whole lease")]
    Silent,
    #[error("it began without a lease")]
    NoLease,
    #[error("it is over")]
    Over,
}

/// Watches for as long as the role runs.
pub(crate) async fn watch(cores: Vec<Arc<Core>>) {
    let Some(first) = cores.first().map(Arc::clone) else { return };
    let cores: Arc<[Arc<Core>]> = cores.into();
    let mut end = None;
    loop {
        let Err(broken) = Watch { cores: &cores, core: &first }.run(&mut end).await;
        tracing::warn!(%broken, "the watch on control is broken; beginning another");
        if matches!(broken, Broken::Silent) {
            lapse(&cores, &first);
            end = None;
        }
        tokio::time::sleep(PAUSE).await;
        if end.is_some_and(|end| end <= Instant::now()) {
            lapse(&cores, &first);
            end = None;
        }
    }
}

/// Control is not heard: a change may be in force that nobody here knows of.
fn lapse(cores: &[Arc<Core>], first: &Core) {
    first.control.known.lapse();
    for core in cores {
        for exchange in core.exchanges.pick(|_| true) {
            exchange.end(Ended::Unknown);
        }
    }
}

enum Never {}

struct Watch<'a> {
    cores: &'a Arc<[Arc<Core>]>,
    core: &'a Arc<Core>,
}

impl Watch<'_> {
    /// `end` of the lease, which the watch before this one may have left.
    async fn run(&self, end: &mut Option<Instant>) -> Result<Never, Broken> {
        let (acknowledge, acknowledged) = mpsc::channel(64);
        let mut client = self.core.control.client();
        let opened = client.watch(ReceiverStream::new(acknowledged));
        let limit = end.unwrap_or_else(|| Instant::now() + FIRST_WORD);
        let opened = tokio::time::timeout_at(limit.into(), opened).await.map_err(|_| Broken::Silent)?;
        let mut notices = opened?.into_inner();
        let mut lease = None;
        loop {
            let limit = end.unwrap_or_else(|| Instant::now() + FIRST_WORD);
            let heard = tokio::time::timeout_at(limit.into(), notices.next()).await;
            let notice = heard.map_err(|_| Broken::Silent)?.ok_or(Broken::Over)??;
            // What was said before a silence may have been waiting here for long.
            if limit <= Instant::now() {
                return Err(Broken::Silent);
            }
            let sequence = notice.sequence;
            let first = lease.is_none();
            if let Some(Lease { lease_ms, assertion_keys }) = self.take(notice, first)? {
                lease = Some(Duration::from_millis(lease_ms.into()).min(LONGEST_LEASE));
                *self.core.assertion_keys.write().unwrap_or_else(std::sync::PoisonError::into_inner) =
                    assertion_keys;
            }
            let until = Instant::now() + lease.ok_or(Broken::NoLease)?;
            *end = Some(until);
            self.core.control.known.renew(until);
            // Control that takes no acknowledgement is as good as gone.
            acknowledge.try_send(WatchAck { sequence }).map_err(|_| Broken::Over)?;
        }
    }

    fn take(&self, notice: WatchEvent, first: bool) -> Result<Option<Lease>, Broken> {
        let change = match notice.event {
            Some(watch_event::Event::Lease(lease)) => {
                if first {
                    self.changed(&Change::Everything);
                }
                return Ok(Some(lease));
            }
            _ if first => return Err(Broken::NoLease),
            Some(watch_event::Event::WorkspaceChanged(id)) => {
                id.parse().map_or(Change::Everything, Change::Workspace)
            }
            Some(watch_event::Event::GrantsChanged(_)) => Change::Grants,
            // One that this version does not know may mean anything.
            Some(watch_event::Event::Reset(_)) | None => Change::Everything,
        };
        self.changed(&change);
        Ok(None)
    }

    fn changed(&self, change: &Change) {
        self.core.control.known.forget(change);
        for core in &**self.cores {
            core.pool.forget(change);
            let concerned = core.exchanges.pick(|exchange| match change {
                Change::Workspace(id) => exchange.route.app.workspace == *id,
                Change::Grants => exchange.asked.credential.is_some(),
                Change::Everything => true,
            });
            review(Arc::clone(self.core), concerned);
        }
    }
}

/// Looks at exchanges again, in the background.
pub(crate) fn review(core: Arc<Core>, exchanges: Vec<Arc<Exchange>>) {
    if exchanges.is_empty() {
        return;
    }
    tokio::spawn(async move {
        let core = &core;
        futures_util::stream::iter(exchanges)
            .for_each_concurrent(
                AT_ONCE,
                |exchange| async move { gate::review(&core.control, &exchange).await },
            )
            .await;
    });
}
