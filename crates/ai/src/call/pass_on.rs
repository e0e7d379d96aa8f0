//! The response of a provider, on its way to the client, and what it used.

use std::io;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http::{HeaderName, HeaderValue, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;
use rigbox_proto::ai::{Ending, Operation, Provider, SettleRequest, Usage};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;

use super::prepare::Prepared;
use super::settlement::settlement;
use crate::dialect::Counted;
use crate::echo::{self, EchoSearch};
use crate::error::{CallError, ErrorKind};
use crate::pump::{Client, Outcome, Pump};
use crate::response::{ResponseBody, full};
use crate::setup::Key;
use crate::state::State;

/// Chunks of a response on their way to a client.
const MAX_CHUNKS: usize = 8;
/// Headers of a provider that a client gets.
const RETURNED_HEADERS: [&str; 8] = [
    "content-type",
    "openai-processing-ms",
    "openai-version",
    "request-id",
    "retry-after",
    "retry-after-ms",
    "x-request-id",
    "x-should-retry",
];
/// Limit of output that was lowered.
const LIMIT: HeaderName = HeaderName::from_static("rigbox-ai-limit");
/// Fields that were not forwarded.
const STRIPPED: HeaderName = HeaderName::from_static("rigbox-ai-stripped");

/// Response without its body, or the error in its place.
pub(super) type Head = Result<Response<ResponseBody>, CallError>;

/// Passes a response on. Returns its settlement. `sent` is when its request was: providers work, and count, before they answer.
pub(super) async fn pass_on(
    state: &State,
    prepared: &Prepared,
    response: Response<Incoming>,
    key: &Key,
    sent: Instant,
    head: oneshot::Sender<Head>,
) -> SettleRequest {
    let arrived = &prepared.arrived;
    let (parts, body) = response.into_parts();
    let kind = parts
        .headers
        .get(CONTENT_TYPE)
        .map(|value| value.as_bytes().to_ascii_lowercase())
        .unwrap_or_default();
    let is_stream = kind.starts_with(b"text/event-stream");
    let is_encoded =
        parts.headers.get(CONTENT_ENCODING).is_some_and(|encoding| encoding.as_bytes() != b"identity");
    let is_success = parts.status.is_success();
    let pump = |sender| Pump {
        meter: prepared.dialect.meter(&prepared.asked, prepared.terms.limit.is_lowered),
        form: &arrived.form,
        idle: state.limits.idle,
        after_hang_up: state.limits.after_hang_up,
        stops_billing_on_abort: prepared.terms.upstream.stops_billing_on_abort,
        workspace: &arrived.workspace,
        drains: &state.drains,
        large_responses: &state.large_responses,
        client: Client { sender, has_hung_up: false, search: EchoSearch::new(key.secret()) },
    };
    let mut settled = settlement(state, &arrived.form.call_id, Ending::Completed);
    settled.key_id.clone_from(&key.id);
    settled.status = parts.status.as_u16().into();
    settled.provider_request_id = ["request-id", "x-request-id"]
        .iter()
        .find_map(|name| parts.headers.get(*name)?.to_str().ok())
        .map(|id| id.chars().take(128).collect())
        .unwrap_or_default();
    let outcome = if is_encoded {
        // It was asked for as it is. What it used cannot be read.
        let error = CallError::new(
            ErrorKind::Upstream,
            "The provider's answer has an encoding that was not asked for.",
        );
        let _ = head.send(Err(error));
        settled.at_bound = is_success;
        settled.estimated = is_success;
        settled.set_ending(Ending::Refused);
        return settled;
    } else if is_success && !is_stream && prepared.terms.limit.is_lowered {
        let (outcome, answer) = pump(None).held_back(body).await;
        if let Err(error) = &answer {
            settled.status = error.kind.status().as_u16().into();
        }
        let _ = head.send(answer.map(|bytes| returned(prepared, key, &parts, full(bytes))));
        outcome
    } else {
        #[expect(
            clippy::disallowed_methods,
            reason = "bound: chunks of one response on their way to its client, per call"
        )]
        let (sender, receiver) = mpsc::channel(MAX_CHUNKS);
        // A channel has places for 32 items, and frames are three times as large as what is in them.
        let frame = |chunk: io::Result<Bytes>| chunk.map(Frame::data);
        let stream = StreamBody::new(ReceiverStream::new(receiver).map(frame));
        // The receiver goes with it if the client is gone already.
        let _ = head.send(Ok(returned(prepared, key, &parts, BodyExt::boxed_unsync(stream))));
        // They keep the buffer that they were read into.
        drop(parts);
        let pump = pump(Some(sender));
        if is_stream && is_success { pump.stream(body).await } else { pump.document(body).await }
    };
    if !is_success {
        // Providers do not charge for what they refuse.
        settled.set_ending(Ending::Refused);
        return settled;
    }
    count(prepared, &outcome, sent.elapsed(), &mut settled);
    settled
}

/// Returns a response with the headers that a client gets.
fn returned(
    prepared: &Prepared,
    key: &Key,
    parts: &http::response::Parts,
    body: ResponseBody,
) -> Response<ResponseBody> {
    let mut response = Response::new(body);
    *response.status_mut() = match parts.status {
        // The proxy follows no redirect, and no client of it may.
        status if status.is_redirection() => StatusCode::BAD_GATEWAY,
        status => status,
    };
    let headers = response.headers_mut();
    for name in RETURNED_HEADERS {
        if let Some(value) = parts.headers.get(name)
            && !echo::is_in(key.secret(), value.as_bytes())
        {
            headers.insert(HeaderName::from_static(name), value.clone());
        }
    }
    if prepared.terms.limit.is_lowered {
        headers.insert(LIMIT, HeaderValue::from(prepared.terms.limit.output_tokens));
    }
    if !prepared.stripped.is_empty()
        && let Ok(names) = HeaderValue::from_str(&prepared.stripped.join(", "))
    {
        headers.insert(STRIPPED, names);
    }
    response
}

/// Writes what a call used: the provider's figures, or, of an answer that broke off or failed, what it can have been at most.
fn count(prepared: &Prepared, outcome: &Outcome, time: Duration, settled: &mut SettleRequest) {
    let Counted { usage, has_input, has_usage, has_failed, cost_micro, .. } = outcome.meter.counted().clone();
    settled.set_ending(outcome.ending);
    // Others have fields of that name in units of their own.
    settled.cost_micro = cost_micro.filter(|_| prepared.arrived.form.provider == Provider::Openrouter);
    if prepared.operation == Operation::Count {
        return;
    }
    if has_usage {
        settled.usage = Some(usage);
        return;
    }
    settled.estimated = true;
    if outcome.ending == Ending::Completed && !has_failed {
        settled.at_bound = true;
        return;
    }
    let seconds = time.as_secs().saturating_add(1);
    let spoken = seconds.saturating_mul(prepared.terms.model.max_tokens_per_second);
    let answers = u64::from(prepared.asked.candidates.max(1));
    let output = spoken.min(prepared.terms.limit.output_tokens).saturating_mul(answers).max(usage.output);
    settled.usage = Some(if has_input {
        Usage { output, ..usage }
    } else {
        Usage { input: prepared.terms.input_bound, output, ..Usage::default() }
    });
}
