//! One call, from its arrival to its settlement. Once it is reserved it runs in a task of its own, which a client that vanishes does not end.

mod count;
mod exchange;
mod managed;
mod outgoing;
mod own;
mod pass_on;
mod prepare;
mod settlement;
mod terms;

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response};
use hyper::body::Incoming;
use rigbox_proto::ai::{Ending, Usage};
use tokio::sync::oneshot;

use crate::error::{CallError, ErrorKind};
use crate::response::{ResponseBody, full};
use crate::state::State;

use exchange::exchange;
pub(crate) use outgoing::Arrived;
use pass_on::{Head, pass_on};
use prepare::{Prepared, prepare};
use settlement::settlement;

/// Id of a call, in the response to its client.
const CALL_ID: HeaderName = HeaderName::from_static("rigbox-call-id");

/// Answers a call. It runs in a task of its own from the start: a client that vanishes while control reserves leaves nothing reserved.
pub(crate) async fn answer(state: Arc<State>, arrived: Arrived, body: Incoming) -> Response<ResponseBody> {
    let form = arrived.form.clone();
    let (head, receiver) = oneshot::channel();
    tokio::spawn(run(state, arrived, body, head));
    let lost = |_| Err(CallError::new(ErrorKind::Unavailable, "The proxy failed. Try again."));
    let mut response =
        receiver.await.unwrap_or_else(lost).unwrap_or_else(|error| form.response(&error).map(full));
    if let Ok(id) = HeaderValue::from_str(&form.call_id) {
        response.headers_mut().insert(CALL_ID, id);
    }
    response
}

/// Runs a call from its arrival to its settlement. `head` is closed if the client is gone.
async fn run(state: Arc<State>, arrived: Arrived, body: Incoming, head: oneshot::Sender<Head>) {
    // What is only needed before the response takes no place while it streams.
    match Box::pin(prepare(&state, arrived, body)).await {
        Err(error) => drop(head.send(Err(error))),
        Ok((prepared, place)) => {
            make(&state, prepared, head).await;
            drop(place);
        }
    }
}

/// Makes a reserved call, gives its head to `head`, and settles it.
async fn make(state: &State, mut prepared: Prepared, head: oneshot::Sender<Head>) {
    let call_id = &prepared.arrived.form.call_id;
    let mut settled = if head.is_closed() {
        settlement(state, call_id, Ending::NotSent)
    } else {
        let sent = Instant::now();
        let exchanged = Box::pin(exchange(state, &prepared)).await;
        // A stream may be open for long, and what was sent may be large.
        prepared.body = Bytes::new();
        prepared.arrived.headers = HeaderMap::new();
        prepared.terms.own_key = None;
        match exchanged {
            Ok((response, key)) => pass_on(state, &prepared, response, &key, sent, head).await,
            Err(failed) => {
                let mut settled = settlement(state, call_id, failed.ending);
                settled.at_bound = failed.ending == Ending::CutOff;
                settled.estimated = settled.at_bound;
                settled.status = failed.error.kind.status().as_u16().into();
                settled.key_id = failed.key_id;
                let _ = head.send(Err(failed.error));
                settled
            }
        }
    };
    let used_nothing = !settled.at_bound && settled.usage == Some(Usage::default());
    if used_nothing {
        state.free_calls.count(&prepared.arrived.workspace, Instant::now());
    }
    settled.duration_ms = u64::try_from(prepared.began.elapsed().as_millis()).unwrap_or(u64::MAX);
    tracing::info!(
        call = call_id,
        workspace = %prepared.arrived.workspace,
        model = prepared.asked.model,
        status = settled.status,
        ending = settled.ending().as_str_name(),
        milliseconds = settled.duration_ms,
        "AI call ended"
    );
    state.ledger.settle(settled).await;
}
