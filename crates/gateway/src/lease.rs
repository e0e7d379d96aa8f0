//! Lease on control's decisions: follows control's watch, advances the epochs at each change, has the change put into effect, and
//! acknowledges it. Without a word from control for the length of a lease, everything lapses: a change may be in force that this gateway
//! has not heard of.

use std::time::Duration;

use futures_util::StreamExt;
use rigbox_proto::gateway::{Lease, WatchAck, WatchEvent, watch_event};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::control_client::ControlClient;
use crate::epochs::{Change, Epochs};

/// Delay before a broken watch is opened again.
const RETRY_DELAY: Duration = Duration::from_millis(200);
/// Timeout of the first event of a new watch.
const FIRST_EVENT_TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum length of a lease: a longer one would keep stale decisions alive.
const MAX_LEASE: Duration = Duration::from_secs(60);
/// Maximum number of acknowledgements that control has not read.
const ACK_QUEUE_LEN: usize = 64;

/// Effects of the watch on a gateway.
pub struct Effects<C, L, K> {
    /// Puts a change into effect: drops what it invalidates, and starts to decide again about active grants.
    pub changed: C,
    /// Ends everything that rests on cached decisions.
    pub lapsed: L,
    /// Stores the public keys of identity assertions (a JSON Web Key Set).
    pub assertion_keys: K,
}

/// Reason for the end of a watch.
#[derive(Debug, thiserror::Error)]
enum WatchError {
    #[error("control failed: {0}")]
    Status(#[from] tonic::Status),
    #[error("no event within the lease")]
    TimedOut,
    #[error("the first event is not a lease")]
    NoLease,
    #[error("control closed the stream")]
    Closed,
}

/// Follows control's watch for as long as it is polled.
pub async fn follow<C, L, K>(control: &ControlClient, epochs: &Epochs, effects: &Effects<C, L, K>)
where
    C: Fn(&Change) + Sync,
    L: Fn() + Sync,
    K: Fn(String) + Sync,
{
    let watch = Watch { control, epochs, effects };
    let mut lease_end = None;
    loop {
        let Err(error) = watch.run(&mut lease_end).await;
        tracing::warn!(%error, "watch on control ended; reconnecting");
        if matches!(error, WatchError::TimedOut) {
            watch.lapse();
            lease_end = None;
        }
        tokio::time::sleep(RETRY_DELAY).await;
        if lease_end.is_some_and(|end| end <= epochs.now()) {
            watch.lapse();
            lease_end = None;
        }
    }
}

enum Never {}

struct Watch<'a, C, L, K> {
    control: &'a ControlClient,
    epochs: &'a Epochs,
    effects: &'a Effects<C, L, K>,
}

impl<C: Fn(&Change), L: Fn(), K: Fn(String)> Watch<'_, C, L, K> {
    /// Runs one watch. `lease_end` may be left over from the previous one.
    async fn run(&self, lease_end: &mut Option<Duration>) -> Result<Never, WatchError> {
        #[expect(
            clippy::disallowed_methods,
            reason = "bound: acknowledgements to control, one queue per gateway"
        )]
        let (acknowledge, acknowledgements) = mpsc::channel(ACK_QUEUE_LEN);
        let mut client = self.control.changes();
        let opened = client.watch(ReceiverStream::new(acknowledgements));
        let deadline = lease_end.unwrap_or_else(|| self.epochs.now() + FIRST_EVENT_TIMEOUT);
        let opened = self.until(deadline, opened).await?;
        let mut events = opened?.into_inner();
        let mut lease = None;
        loop {
            let deadline = lease_end.unwrap_or_else(|| self.epochs.now() + FIRST_EVENT_TIMEOUT);
            let event = self.until(deadline, events.next()).await?.ok_or(WatchError::Closed)??;
            let (sequence, age) = (event.sequence, event.age());
            let is_first = lease.is_none();
            if let Some(Lease { lease_ms, assertion_keys }) = self.handle(event, is_first)? {
                lease = Some(Duration::from_millis(lease_ms.into()).min(MAX_LEASE));
                (self.effects.assertion_keys)(assertion_keys);
            }
            // From the time at which control sent it: control waits for no gateway longer than that.
            let left = lease.ok_or(WatchError::NoLease)?.checked_sub(age).ok_or(WatchError::TimedOut)?;
            let end = self.epochs.now() + left;
            *lease_end = Some(end);
            self.epochs.renew(end);
            // Control that does not take acknowledgements is as good as gone.
            acknowledge.try_send(WatchAck { sequence }).map_err(|_| WatchError::Closed)?;
        }
    }

    /// Awaits something until a time. Timers stand still while the machine sleeps, so the time is looked at afterwards too: an event may
    /// also have been queued for long.
    async fn until<T>(
        &self,
        deadline: Duration,
        something: impl Future<Output = T>,
    ) -> Result<T, WatchError> {
        let left = deadline.saturating_sub(self.epochs.now());
        let output = tokio::time::timeout(left, something).await.map_err(|_| WatchError::TimedOut)?;
        if self.epochs.now() < deadline { Ok(output) } else { Err(WatchError::TimedOut) }
    }

    /// Puts an event into effect. Returns the lease, if it is one.
    fn handle(&self, event: WatchEvent, is_first: bool) -> Result<Option<Lease>, WatchError> {
        let change = match event.event {
            Some(watch_event::Event::Lease(lease)) => {
                if is_first {
                    self.change(&Change::Everything);
                }
                return Ok(Some(lease));
            }
            _ if is_first => return Err(WatchError::NoLease),
            Some(watch_event::Event::WorkspaceChanged(id)) => {
                id.parse().map_or(Change::Everything, Change::Workspace)
            }
            Some(watch_event::Event::GrantsChanged(_)) => Change::Grants,
            // An event that this version does not know may mean anything.
            Some(watch_event::Event::Reset(_)) | None => Change::Everything,
        };
        self.change(&change);
        Ok(None)
    }

    fn change(&self, change: &Change) {
        self.epochs.advance(change);
        (self.effects.changed)(change);
    }

    fn lapse(&self) {
        self.epochs.lapse();
        (self.effects.lapsed)();
    }
}
