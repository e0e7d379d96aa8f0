//! Passes a response on as it comes, and counts it on the way. It goes on when the client has hung up, because the provider's figures come
//! last.

use std::io;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use rigbox_core::ids::WorkspaceId;
use rigbox_proto::ai::Ending;
use rigbox_shares::{Bounds, Place, Shares};
use tokio::sync::mpsc;

use crate::dialect::{Meter, Step};
use crate::echo::{self, EchoSearch, Echoed};
use crate::error::{CallError, ErrorKind, Form};
use crate::skeleton::Skeleton;
use crate::sse::{Piece, Splitter};

/// Text for a client whose answer our limit has ended.
pub(crate) const LIMIT_MESSAGE: &str = "The credits or the budget of this workspace allowed no longer answer. `rig ai credits` shows what is left.";
/// Size of a response that is held back whole, in bytes. Its client may read it slowly.
const MAX_HELD_BYTES: usize = 4 << 20;
/// Size from which it needs a place among the large ones, in bytes.
const LARGE_BYTES: usize = 1 << 20;
/// Large responses at once that are held back.
const LARGE_RESPONSES: Bounds = Bounds { total: 16, per_key: 4 };
/// Responses that are read on without their client.
const DRAINS: Bounds = Bounds { total: 256, per_key: 16 };

/// Responses that are read on without their client.
pub(crate) type Drains = Shares<WorkspaceId>;

/// Returns the pool of large responses that are held back.
pub(crate) fn large_responses() -> Shares<WorkspaceId> {
    Shares::new(LARGE_RESPONSES)
}

/// Returns the pool of responses that are read on without their client.
pub(crate) fn drains() -> Drains {
    Shares::new(DRAINS)
}

/// Response on its way.
pub(crate) struct Pump<'a> {
    pub(crate) meter: Box<dyn Meter>,
    pub(crate) form: &'a Form,
    pub(crate) idle: Duration,
    pub(crate) after_hang_up: Duration,
    pub(crate) stops_billing_on_abort: bool,
    pub(crate) workspace: &'a WorkspaceId,
    pub(crate) drains: &'a Drains,
    pub(crate) large_responses: &'a Shares<WorkspaceId>,
    pub(crate) client: Client,
}

/// The client's end of a response.
pub(crate) struct Client {
    /// None once it has hung up, or got all that it is to get.
    pub(crate) sender: Option<mpsc::Sender<io::Result<Bytes>>>,
    pub(crate) has_hung_up: bool,
    /// Search for the key that the call was made with.
    pub(crate) search: EchoSearch,
}

/// End of a response, with what it has said.
pub(crate) struct Outcome {
    pub(crate) meter: Box<dyn Meter>,
    pub(crate) ending: Ending,
}

/// Reading on without a client.
struct Drain {
    _place: Place<WorkspaceId>,
    until: Instant,
}

impl Client {
    /// Sends what a provider has sent to the client, unless it is gone, or the key is in it.
    async fn send(&mut self, bytes: Bytes, idle: Duration) {
        match self.search.pass(bytes) {
            Ok(bytes) => self.send_searched(bytes, idle).await,
            Err(Echoed) => {
                tracing::error!("a provider's answer has its key in it; it was broken off");
                self.break_off().await;
            }
        }
    }

    /// Sends what was held back at the end of an answer.
    async fn send_rest(&mut self, idle: Duration) {
        let rest = self.search.rest();
        self.send_searched(rest, idle).await;
    }

    /// Resets the connection: the client must not take the answer for whole.
    async fn break_off(&mut self) {
        if let Some(sender) = self.sender.take() {
            let _ = sender.send(Err(io::ErrorKind::ConnectionAborted.into())).await;
        }
    }

    /// Sends to the client, unless it is gone. One that reads nothing for the length of `idle` counts as gone.
    async fn send_searched(&mut self, bytes: Bytes, idle: Duration) {
        let Some(sender) = &self.sender else { return };
        if bytes.is_empty() {
            return;
        }
        let sent = tokio::time::timeout(idle, sender.send(Ok(bytes))).await;
        if !matches!(sent, Ok(Ok(()))) {
            self.sender = None;
            self.has_hung_up = true;
        }
    }

    /// Resolves when the client hangs up.
    async fn hung_up(&self) {
        match &self.sender {
            Some(sender) => sender.closed().await,
            None => std::future::pending().await,
        }
    }
}

impl Pump<'_> {
    /// Passes a stream of events on, to its end.
    pub(crate) async fn stream(mut self, mut response: Incoming) -> Outcome {
        let (mut splitter, mut drain) = (Splitter::default(), None);
        let mut long = Skeleton::default();
        let is_whole = loop {
            let chunk = match self.next(&mut response, &mut drain).await {
                Ok(Some(chunk)) => chunk,
                Ok(None) => break true,
                Err(Broken) => break false,
            };
            splitter.push(&chunk);
            let mut passed = BytesMut::new();
            while let Some(piece) = splitter.next() {
                match piece {
                    Piece::Part { raw, is_last } => {
                        passed.extend_from_slice(&raw);
                        long.push(&raw);
                        if is_last && self.ends_long_event(&std::mem::take(&mut long)) {
                            self.client.send(passed.split().freeze(), self.idle).await;
                            self.client.break_off().await;
                        }
                    }
                    Piece::Event { raw, data } => match self.meter.event(&data) {
                        Step::Pass => passed.extend_from_slice(&raw),
                        Step::Hide => {}
                        Step::EndInstead(event) => {
                            let event = event.unwrap_or_else(|| self.limit_event());
                            passed.extend_from_slice(&event);
                            self.client.send(passed.split().freeze(), self.idle).await;
                            // What follows is read for its figures.
                            self.client.sender = None;
                        }
                    },
                }
            }
            self.client.send(passed.freeze(), self.idle).await;
        };
        if is_whole {
            self.client.send(splitter.rest(), self.idle).await;
        }
        let is_complete = self.meter.counted().is_complete;
        if !is_complete {
            let cut = CallError::new(ErrorKind::Upstream, "The provider's answer broke off.");
            self.client.send(self.form.event(&cut), self.idle).await;
        }
        self.client.send_rest(self.idle).await;
        self.end(is_complete)
    }

    /// Reads the skeleton of an event that has passed in parts. Returns true if the client must not take the answer for whole.
    fn ends_long_event(&mut self, event: &Skeleton) -> bool {
        let step = event.get().map(|data| self.meter.event(data));
        matches!(step, Some(Step::EndInstead(_)))
    }

    fn limit_event(&self) -> Bytes {
        let error = CallError::new(ErrorKind::InsufficientCredits, LIMIT_MESSAGE);
        self.form.event(&error)
    }

    /// Passes a response on that is one document.
    pub(crate) async fn document(mut self, mut response: Incoming) -> Outcome {
        let (mut skeleton, mut drain) = (Skeleton::default(), None);
        let is_whole = loop {
            match self.next(&mut response, &mut drain).await {
                Ok(Some(chunk)) => {
                    skeleton.push(&chunk);
                    self.client.send(chunk, self.idle).await;
                }
                Ok(None) => break true,
                Err(Broken) => break false,
            }
        };
        if is_whole {
            self.client.send_rest(self.idle).await;
        } else {
            self.client.break_off().await;
        }
        if is_whole && let Some(skeleton) = skeleton.get() {
            self.meter.body(skeleton);
        }
        self.end(is_whole)
    }

    /// Reads a response whole that our limit may have ended, before the client gets any of it. Returns it, if it may be passed on.
    pub(crate) async fn held_back(mut self, mut response: Incoming) -> (Outcome, Result<Bytes, CallError>) {
        let (mut whole, mut drain, mut place) = (BytesMut::new(), None, None);
        let is_whole = loop {
            match self.next(&mut response, &mut drain).await {
                Ok(Some(chunk)) if whole.len() + chunk.len() <= MAX_HELD_BYTES => {
                    if place.is_none() && whole.len() + chunk.len() > LARGE_BYTES {
                        let wait = self.large_responses.wait(self.workspace.clone());
                        let Ok(waited) = tokio::time::timeout(self.idle, wait).await else { break false };
                        place = Some(waited);
                    }
                    whole.extend_from_slice(&chunk);
                }
                Ok(None) => break true,
                Ok(Some(_)) | Err(Broken) => break false,
            }
        };
        let answer = if !is_whole {
            Err(CallError::new(ErrorKind::Upstream, "The provider's answer broke off."))
        } else if echo::is_in(self.client.search.secret(), &whole) {
            Err(CallError::new(ErrorKind::Upstream, "The provider's answer has its key in it."))
        } else if self.meter.body(&whole) {
            Err(CallError::new(ErrorKind::InsufficientCredits, LIMIT_MESSAGE))
        } else {
            Ok(whole.freeze())
        };
        (self.end(is_whole), answer)
    }

    /// Reads the next chunk. Without a client, for a bounded time.
    async fn next(
        &mut self,
        response: &mut Incoming,
        drain: &mut Option<Drain>,
    ) -> Result<Option<Bytes>, Broken> {
        loop {
            if self.client.has_hung_up && drain.is_none() {
                if self.stops_billing_on_abort {
                    return Err(Broken);
                }
                let place = self.drains.take(self.workspace.clone()).map_err(|_| Broken)?;
                *drain = Some(Drain { _place: place, until: Instant::now() + self.after_hang_up });
            }
            let left = drain.as_ref().map(|drain| drain.until.saturating_duration_since(Instant::now()));
            let time = left.map_or(self.idle, |left| left.min(self.idle));
            tokio::select! {
                frame = tokio::time::timeout(time, response.frame()) => {
                    let Some(frame) = frame.map_err(|_| Broken)? else { return Ok(None) };
                    if let Ok(data) = frame.map_err(|_| Broken)?.into_data() {
                        return Ok(Some(data));
                    }
                }
                () = self.client.hung_up() => {
                    self.client.sender = None;
                    self.client.has_hung_up = true;
                }
            }
        }
    }

    fn end(self, is_complete: bool) -> Outcome {
        let ending = match (is_complete, self.client.has_hung_up) {
            (_, true) => Ending::HungUp,
            (true, false) => Ending::Completed,
            (false, false) => Ending::CutOff,
        };
        Outcome { meter: self.meter, ending }
    }
}

/// A response that broke off, or that is read no further.
struct Broken;
