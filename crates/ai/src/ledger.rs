//! Ledger of control, which reserves and settles calls. All requests to it share one stream. The first request opens it, and so does the
//! first one after it broke.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::Stream;
use futures_util::stream::unfold;
use rigbox_proto::ai::ai_client::AiClient;
use rigbox_proto::ai::ledger_request::Request;
use rigbox_proto::ai::ledger_response::Response;
use rigbox_proto::ai::{
    FailureReason, LedgerFailure, LedgerRequest, LedgerRequests, ReserveRequest, ReserveResponse,
    SettleRequest,
};
use rigbox_proto::transport::client::Channel;
use rigbox_proto::transport::unix;
use tokio::sync::{mpsc, oneshot};
use tonic::Status;

/// Timeout of one request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Delay after a settlement that failed.
const RETRY_DELAY: Duration = Duration::from_millis(200);
const MAX_RETRY_DELAY: Duration = Duration::from_secs(5);
/// Requests that wait to be sent. Calls beyond them wait for a place.
const QUEUE_LEN: usize = 1_024;
/// Requests sent with one message.
const MESSAGE_LEN: usize = 256;

/// Error of a request to the ledger.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LedgerError {
    /// Control does not answer.
    #[error("no response within 5 s")]
    Timeout,
    /// It may have been carried out all the same.
    #[error("the stream to control broke: {0}")]
    Broken(String),
    /// Control knows no such call.
    #[error("control does not know this call")]
    UnknownCall,
    /// Control could not carry it out.
    #[error("{0}")]
    Failed(String),
}

/// Ledger of control.
pub(crate) struct Ledger {
    channel: Channel,
    /// Stream that was opened last.
    current: Mutex<Arc<RequestStream>>,
}

/// One stream of requests and their responses.
struct RequestStream {
    queue: mpsc::Sender<LedgerRequest>,
    numbers: AtomicU64,
    /// Requests without a response. `None` once the stream is over.
    waiting: Mutex<Option<Waiting>>,
}

type Waiting = HashMap<u64, oneshot::Sender<Result<Response, LedgerError>>>;

/// Place of a request among those that wait.
struct Place<'a> {
    stream: &'a RequestStream,
    number: u64,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if let Some(waiting) = self.stream.waiting().as_mut() {
            waiting.remove(&self.number);
        }
    }
}

impl Ledger {
    /// Connects lazily.
    pub(crate) fn new(socket: &Path) -> Self {
        let (stream, _) = RequestStream::new(None);
        Self { channel: unix::channel(socket), current: Mutex::new(Arc::new(stream)) }
    }

    /// Reserves a call.
    ///
    /// # Errors
    /// Control does not respond, or not in time: the call must not be made, and control settles what it may have reserved at once
    /// ([`settle`](Self::settle) with nothing sent).
    pub(crate) async fn reserve(&self, request: ReserveRequest) -> Result<ReserveResponse, LedgerError> {
        match self.ask(Request::Reserve(request)).await? {
            Response::Reserve(response) => Ok(response),
            other => Err(error(other)),
        }
    }

    /// Settles a call: until control has acknowledged it, or does not know of it.
    pub(crate) async fn settle(&self, request: SettleRequest) {
        let mut delay = RETRY_DELAY;
        loop {
            let call = request.call_id.as_str();
            match self.try_settle(request.clone()).await {
                Ok(()) => return,
                Err(error @ LedgerError::UnknownCall) => {
                    tracing::debug!(call, %error, "a call needs no settlement");
                    return;
                }
                Err(error) => tracing::warn!(call, %error, "failed to settle a call; retrying"),
            }
            tokio::time::sleep(delay).await;
            delay = (delay * 2).min(MAX_RETRY_DELAY);
        }
    }

    async fn try_settle(&self, request: SettleRequest) -> Result<(), LedgerError> {
        match self.ask(Request::Settle(request)).await? {
            Response::Settle(_) => Ok(()),
            other => Err(error(other)),
        }
    }

    async fn ask(&self, request: Request) -> Result<Response, LedgerError> {
        let response = tokio::time::timeout(REQUEST_TIMEOUT, async { self.stream().ask(request).await });
        response.await.map_err(|_| LedgerError::Timeout)?
    }

    /// Returns the stream, and opens one if there is none.
    fn stream(&self) -> Arc<RequestStream> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.waiting().is_none() {
            let (stream, requests) = RequestStream::new(Some(HashMap::new()));
            *current = Arc::new(stream);
            let (stream, client) = (current.clone(), AiClient::new(self.channel.clone()));
            tokio::spawn(async move {
                let ended = stream.follow(client, requests).await;
                stream.end(
                    &ended.map_or_else(|status| status.message().to_owned(), |()| "it ended".to_owned()),
                );
            });
        }
        current.clone()
    }
}

impl RequestStream {
    fn new(waiting: Option<Waiting>) -> (Self, mpsc::Receiver<LedgerRequest>) {
        #[expect(
            clippy::disallowed_methods,
            reason = "bound: reservations and settlements to send to control, over all workspaces"
        )]
        let (queue, requests) = mpsc::channel(QUEUE_LEN);
        (Self { queue, numbers: AtomicU64::new(0), waiting: Mutex::new(waiting) }, requests)
    }

    fn waiting(&self) -> MutexGuard<'_, Option<Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn ask(&self, request: Request) -> Result<Response, LedgerError> {
        let over = || LedgerError::Broken("it is over".to_owned());
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let (sender, response) = oneshot::channel();
        self.waiting().as_mut().ok_or_else(over)?.insert(number, sender);
        let _place = Place { stream: self, number };
        let request = LedgerRequest { number, request: Some(request) };
        self.queue.send(request).await.map_err(|_| over())?;
        response.await.map_err(|_| over())?
    }

    /// Sends requests and passes responses on until the stream breaks.
    async fn follow(
        &self,
        mut client: AiClient<Channel>,
        requests: mpsc::Receiver<LedgerRequest>,
    ) -> Result<(), Status> {
        let mut responses = client.ledger(messages(requests)).await?.into_inner();
        while let Some(message) = responses.message().await? {
            let mut waiting = self.waiting();
            for response in message.responses {
                let asked = waiting.as_mut().and_then(|waiting| waiting.remove(&response.number));
                if let (Some(asked), Some(response)) = (asked, response.response) {
                    // Who asked may have waited long enough.
                    let _ = asked.send(Ok(response));
                }
            }
        }
        Ok(())
    }

    /// Fails all requests that wait.
    fn end(&self, reason: &str) {
        let waiting = self.waiting().take();
        for asked in waiting.into_iter().flatten().map(|(_, asked)| asked) {
            let _ = asked.send(Err(LedgerError::Broken(reason.to_owned())));
        }
    }
}

/// Returns the messages of a stream: each has all requests that wait.
fn messages(requests: mpsc::Receiver<LedgerRequest>) -> impl Stream<Item = LedgerRequests> + Send {
    unfold(requests, |mut queue| async move {
        let mut requests = Vec::new();
        let received = queue.recv_many(&mut requests, MESSAGE_LEN).await;
        (received > 0).then_some((LedgerRequests { requests }, queue))
    })
}

fn error(response: Response) -> LedgerError {
    match response {
        Response::Failure(LedgerFailure { reason, text }) => {
            if reason == i32::from(FailureReason::UnknownCall) {
                LedgerError::UnknownCall
            } else {
                LedgerError::Failed(text)
            }
        }
        Response::Reserve(_) | Response::Settle(_) => {
            LedgerError::Failed("control has answered another question".to_owned())
        }
    }
}
