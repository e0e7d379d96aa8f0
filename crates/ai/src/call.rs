//! One call, from its arrival to its settlement. Once it is reserved it runs in a task of its own, which a client that vanishes does not end.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt;
use http::header::{ACCEPT_ENCODING, AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Incoming;
use rigbox_core::ids::WorkspaceId;
use rigbox_proto::ai::reserve_response::Outcome as Reserved;
use rigbox_proto::ai::{Ending, Model, Operation, Provider, Reason, ReserveRequest, SettleRequest, Usage};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;

use crate::dialect::{Asked, Counted, Dialect, Limit, apply};
use crate::error::{CallError, ErrorKind};
use crate::json::Document;
use crate::pump::{Client, Outcome, Pump};
use crate::route::Call;
use crate::setup::{Key, Upstream};
use crate::state::State;
use crate::table::Findings;

/// Body of a response to a VM.
pub(crate) type ResponseBody = UnsyncBoxBody<Bytes, io::Error>;

/// Tokens that a provider may add to what stands in the request: its own words about tools and forms.
const OVERHEAD_TOKENS: u64 = 4_096;
/// Chunks of a response on their way to a client.
const MAX_CHUNKS: usize = 8;
/// Headers of a client that a provider gets.
const FORWARDED_HEADERS: [&str; 8] = [
    "accept",
    "anthropic-beta",
    "anthropic-version",
    "content-type",
    "openai-beta",
    "user-agent",
    "x-app",
    "x-goog-api-client",
];
/// Prefix of what SDKs say about themselves.
const SDK_HEADERS: &str = "x-stainless-";
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
const CALL_ID: HeaderName = HeaderName::from_static("rigbox-call-id");
const LIMIT: HeaderName = HeaderName::from_static("rigbox-ai-limit");
const STRIPPED: HeaderName = HeaderName::from_static("rigbox-ai-stripped");
const PROVIDERS_CALL_ID: HeaderName = HeaderName::from_static("x-client-request-id");

/// Call that has arrived.
pub(crate) struct Arrived {
    pub(crate) workspace: WorkspaceId,
    pub(crate) provider: Provider,
    pub(crate) call: Call,
    pub(crate) call_id: String,
    pub(crate) headers: HeaderMap,
    pub(crate) query: Option<String>,
}

/// Call that may be made.
struct Prepared {
    arrived: Arrived,
    dialect: Dialect,
    operation: Operation,
    asked: Asked,
    limit: Limit,
    input_bound: u64,
    model: Model,
    upstream: Arc<crate::setup::Setup>,
    body: Bytes,
    stripped: Vec<String>,
    is_tied: bool,
    began: Instant,
}

/// What there is to answer with at once.
type Head = Result<Response<ResponseBody>, CallError>;

/// Answers a call.
pub(crate) async fn answer(state: Arc<State>, arrived: Arrived, body: Incoming) -> Response<ResponseBody> {
    let (provider, call_id) = (arrived.provider, arrived.call_id.clone());
    let is_responses = matches!(arrived.call, Call::OpenAiResponses | Call::OpenAiCount);
    let head = match prepare(&state, arrived, body).await {
        Err(error) => Err(error),
        Ok((prepared, place)) => {
            let (sender, receiver) = oneshot::channel();
            tokio::spawn(async move {
                make(&state, prepared, sender).await;
                drop(place);
            });
            let lost = || CallError::new(ErrorKind::Unavailable, "The proxy failed. Try again.");
            receiver.await.unwrap_or_else(|_| Err(lost()))
        }
    };
    let mut response =
        head.unwrap_or_else(|error| error.response(provider, is_responses, &call_id).map(full));
    if let Ok(id) = HeaderValue::from_str(&call_id) {
        response.headers_mut().insert(CALL_ID, id);
    }
    response
}

/// Returns a body that is whole.
pub(crate) fn full(bytes: Bytes) -> ResponseBody {
    Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}

/// Reads, checks and reserves a call.
async fn prepare(
    state: &State,
    arrived: Arrived,
    body: Incoming,
) -> Result<(Prepared, rigbox_shares::Place<WorkspaceId>), CallError> {
    let began = Instant::now();
    let Some(setup) = state.control.setup() else {
        return Err(CallError::new(ErrorKind::Unavailable, "The AI proxy is not ready. Try again."));
    };
    if setup.is_stopped {
        return Err(CallError::new(ErrorKind::NotAllowed, "The operator has stopped all AI calls."));
    }
    let place = state.calls.take(arrived.workspace.clone()).map_err(|refused| {
        let text = match refused {
            rigbox_shares::Refused::Share(share) => {
                format!("This workspace has {share} AI calls open. Wait for one to end.")
            }
            rigbox_shares::Refused::Full(_) => "Too many AI calls are open on this host. Try again.".into(),
        };
        CallError::new(ErrorKind::RateLimit, text)
    })?;
    let body = state.bodies.read(&arrived.workspace, &arrived.headers, body).await?;
    let invalid = |text: String| CallError::new(ErrorKind::InvalidRequest, text);
    let document = Document::parse(&body.bytes).map_err(|problem| invalid(problem.to_string()))?;
    let (dialect, operation) = Dialect::of(&arrived.call);
    let findings =
        dialect.table(&state.tables).walk(&document).map_err(|problem| invalid(problem.to_string()))?;
    let asked = dialect.asked(&arrived.call, &document).map_err(|problem| invalid(problem.to_string()))?;
    let Some((model, _)) = setup.model(arrived.provider, &asked.model) else {
        let text =
            format!("The model `{}` is not offered here. GET /v1/models lists those that are.", asked.model);
        return Err(CallError::new(ErrorKind::NotFound, text));
    };
    let model = model.clone();
    let input_bound = input_bound(body.bytes.len(), &findings, &model);
    let candidates = asked.candidates.saturating_add(u32::from(findings.has_rounds));
    let request = ReserveRequest {
        run_id: state.control.run_id.clone(),
        call_id: arrived.call_id.clone(),
        workspace_id: arrived.workspace.to_string(),
        provider: arrived.provider.into(),
        operation: operation.into(),
        model: asked.model.clone(),
        input_tokens: input_bound,
        output_tokens: asked.output_tokens,
        candidates,
        thinking_tokens: asked.thinking_tokens,
        fetches_urls: findings.fetches_urls,
        options: findings.options.iter().cloned().collect(),
    };
    let limit = reserve(state, &arrived, request, operation).await?;
    let edits = if operation == Operation::Count {
        // Nothing is made, so nothing is limited or kept.
        findings.stripped.iter().map(|name| (name.clone(), crate::dialect::Edit::Remove)).collect()
    } else {
        dialect.edits(&document, &asked, &findings, &model, arrived.provider, limit)
    };
    let prepared = Prepared {
        dialect,
        operation,
        limit,
        input_bound,
        body: apply(&body.bytes, &document, &edits),
        stripped: findings.stripped.clone(),
        is_tied: is_tied(&body.bytes),
        asked,
        model,
        upstream: setup,
        began,
        arrived,
    };
    Ok((prepared, place))
}

/// Returns the bound of the input's tokens: no token is shorter than a byte.
fn input_bound(bytes: usize, findings: &Findings, model: &Model) -> u64 {
    let text = u64::try_from(bytes).unwrap_or(u64::MAX).saturating_add(OVERHEAD_TOKENS);
    let images = findings.images.saturating_mul(model.max_tokens_per_image);
    let mut bound = text.saturating_add(images);
    if findings.fills_context {
        bound = model.context_tokens;
    }
    // A model that answers more than once reads more than once.
    bound.min(model.context_tokens).saturating_mul(1 + u64::from(findings.has_rounds))
}

/// Tells if a request has something in it that a provider encrypted or signed, which only the same organization's keys can use.
fn is_tied(body: &[u8]) -> bool {
    [
        &b"\"encrypted_content\""[..],
        b"\"signature\"",
        b"\"thoughtSignature\"",
        b"\"thought_signature\"",
        b"redacted_thinking",
    ]
    .iter()
    .any(|mark| memchr::memmem::find(body, mark).is_some())
}

async fn reserve(
    state: &State,
    arrived: &Arrived,
    request: ReserveRequest,
    operation: Operation,
) -> Result<Limit, CallError> {
    let asked = request.output_tokens;
    let reserved = state.control.reserve(request).await;
    let unavailable = || CallError::new(ErrorKind::Unavailable, "Credits cannot be reserved now. Try again.");
    let response = match reserved {
        Ok(response) => response,
        Err(status) => {
            tracing::warn!(call = arrived.call_id, %status, "failed to reserve a call");
            // It may have been reserved all the same.
            let settlement = settlement(state, &arrived.call_id, Ending::NotSent);
            let control = state.control.clone();
            tokio::spawn(async move { control.settle(settlement).await });
            return Err(unavailable());
        }
    };
    match response.outcome {
        Some(Reserved::Granted(granted)) => {
            let is_lowered = granted.lowered && operation == Operation::Generate;
            Ok(Limit { output_tokens: granted.output_tokens.min(asked.unwrap_or(u64::MAX)), is_lowered })
        }
        Some(Reserved::Denied(denied)) => {
            let kind = match denied.reason() {
                Reason::InsufficientCredits => ErrorKind::InsufficientCredits,
                Reason::UnknownModel => ErrorKind::NotFound,
                Reason::UrlNotAllowed => ErrorKind::InvalidRequest,
                Reason::TooManyCalls => ErrorKind::RateLimit,
                Reason::ModelNotAllowed | Reason::NotManaged | Reason::Stopped | Reason::Unspecified => {
                    ErrorKind::NotAllowed
                }
            };
            Err(CallError::new(kind, denied.text))
        }
        None => Err(unavailable()),
    }
}

/// Returns the settlement of a call that used nothing. Without any usage, control would take it for unknown.
fn settlement(state: &State, call_id: &str, ending: Ending) -> SettleRequest {
    SettleRequest {
        usage: Some(Usage::default()),
        run_id: state.control.run_id.clone(),
        call_id: call_id.to_owned(),
        ending: ending.into(),
        ..SettleRequest::default()
    }
}

/// Makes a reserved call, gives its head to `head`, and settles it.
async fn make(state: &State, prepared: Prepared, head: oneshot::Sender<Head>) {
    let call_id = prepared.arrived.call_id.clone();
    let began = prepared.began;
    let mut settled = match exchange(state, &prepared).await {
        Ok((response, key)) => pass_on(state, &prepared, response, &key, head).await,
        Err(failed) => {
            let mut settled = settlement(state, &call_id, failed.ending);
            settled.at_bound = failed.ending == Ending::CutOff;
            settled.estimated = settled.at_bound;
            settled.status = failed.error.kind.status().as_u16().into();
            settled.key_id = failed.key_id;
            let _ = head.send(Err(failed.error));
            settled
        }
    };
    settled.duration_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    tracing::info!(
        call = call_id,
        workspace = %prepared.arrived.workspace,
        model = prepared.asked.model,
        status = settled.status,
        ending = settled.ending().as_str_name(),
        milliseconds = settled.duration_ms,
        "AI call ended"
    );
    state.control.settle(settled).await;
}

/// Call that got no response.
struct Failed {
    error: CallError,
    ending: Ending,
    key_id: String,
}

/// Sends a call, with one key after the other where a provider does not take one.
async fn exchange(state: &State, prepared: &Prepared) -> Result<(Response<Incoming>, Key), Failed> {
    let not_sent = |text: &str| Failed {
        error: CallError::new(ErrorKind::Unavailable, text),
        ending: Ending::NotSent,
        key_id: String::new(),
    };
    let arrived = &prepared.arrived;
    let Some((_, upstream)) = prepared.upstream.model(arrived.provider, &prepared.asked.model) else {
        return Err(not_sent("The model's provider is not set up."));
    };
    let keys = state.upstreams.keys(&arrived.workspace, upstream, prepared.is_tied);
    let last = keys.len().saturating_sub(1);
    for (index, key) in keys.into_iter().enumerate() {
        let request = request(prepared, upstream, &key)
            .map_err(|_| not_sent("The provider's address is not valid."))?;
        let sent = tokio::time::timeout(state.limits.first_byte, state.upstreams.send(request)).await;
        let failed = |kind, text: &str, ending| {
            Err(Failed { error: CallError::new(kind, text), ending, key_id: key.id.clone() })
        };
        match sent {
            Err(_) => {
                return failed(
                    ErrorKind::UpstreamTimeout,
                    "The provider did not answer in time.",
                    Ending::CutOff,
                );
            }
            Ok(Err(error)) => {
                tracing::warn!(call = arrived.call_id, upstream = upstream.name, error = %chain(&error), "a provider was not reached");
                let ending = if error.is_connect() { Ending::NotSent } else { Ending::CutOff };
                return failed(ErrorKind::Upstream, "The provider was not reached, or broke off.", ending);
            }
            Ok(Ok(response)) => {
                if !state.upstreams.rest(&key, &response) {
                    state.upstreams.remember(&arrived.workspace, upstream, &key);
                    return Ok((response, key));
                }
                if index == last {
                    return Ok((response, key));
                }
            }
        }
    }
    Err(not_sent("The operator has set no key for this provider."))
}

/// Returns an error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// Builds the request to the provider: our own, with what is on the lists of the client's.
fn request(prepared: &Prepared, upstream: &Upstream, key: &Key) -> Result<Request<Full<Bytes>>, http::Error> {
    let arrived = &prepared.arrived;
    let query = query(&arrived.call, arrived.query.as_deref());
    let mut request = Request::post(upstream.uri(&arrived.call.upstream_path(), query.as_deref())?);
    if let Some(headers) = request.headers_mut() {
        for (name, value) in &arrived.headers {
            if FORWARDED_HEADERS.contains(&name.as_str()) || name.as_str().starts_with(SDK_HEADERS) {
                headers.append(name, value.clone());
            }
        }
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        headers.insert(PROVIDERS_CALL_ID, HeaderValue::from_str(&arrived.call_id)?);
        if !headers.contains_key(CONTENT_TYPE) {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        match arrived.provider {
            // Newer versions of the API want a bearer token, and each SDK sends what its version wants.
            Provider::Anthropic
                if !arrived.headers.contains_key("x-api-key")
                    && arrived.headers.contains_key(AUTHORIZATION) =>
            {
                headers.insert(AUTHORIZATION, key.bearer());
            }
            Provider::Anthropic => {
                headers.insert("x-api-key", key.bare());
            }
            Provider::Google => {
                headers.insert("x-goog-api-key", key.bare());
            }
            Provider::Openai | Provider::Openrouter | Provider::Unspecified => {
                headers.insert(AUTHORIZATION, key.bearer());
            }
        }
    }
    request.body(Full::new(prepared.body.clone()))
}

/// Returns the parameters of a query that are on the list. Keys in a query are dropped with the rest.
fn query(call: &Call, query: Option<&str>) -> Option<String> {
    let sent: Vec<_> = form_urlencoded::parse(query?.as_bytes()).collect();
    let mut kept = form_urlencoded::Serializer::new(String::new());
    let mut is_empty = true;
    for (name, value) in call.query_parameters() {
        if sent.iter().any(|(sent_name, sent_value)| sent_name == name && sent_value == value) {
            kept.append_pair(name, value);
            is_empty = false;
        }
    }
    (!is_empty).then(|| kept.finish())
}

/// Passes a response on. Returns its settlement.
async fn pass_on(
    state: &State,
    prepared: &Prepared,
    response: Response<Incoming>,
    key: &Key,
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
    #[expect(
        clippy::disallowed_methods,
        reason = "bound: chunks of one response on their way to its client, per call"
    )]
    let (sender, receiver) = mpsc::channel(MAX_CHUNKS);
    let holds_back = is_success && !is_stream && prepared.limit.is_lowered;
    let pump = Pump {
        meter: prepared.dialect.meter(&prepared.asked, prepared.limit.is_lowered),
        provider: arrived.provider,
        is_responses: prepared.dialect == Dialect::Responses,
        call_id: &arrived.call_id,
        idle: state.limits.idle,
        after_hang_up: state.limits.after_hang_up,
        stops_billing_on_abort: prepared
            .upstream
            .model(arrived.provider, &prepared.asked.model)
            .is_some_and(|(_, upstream)| upstream.stops_billing_on_abort),
        workspace: &arrived.workspace,
        drains: &state.drains,
        client: Client { sender: Some(sender), has_hung_up: false },
    };
    let mut settled = settlement(state, &arrived.call_id, Ending::Completed);
    settled.key_id.clone_from(&key.id);
    settled.status = parts.status.as_u16().into();
    settled.provider_request_id = ["request-id", "x-request-id"]
        .iter()
        .find_map(|name| parts.headers.get(*name)?.to_str().ok())
        .map(|id| id.chars().take(128).collect())
        .unwrap_or_default();
    let reading = Instant::now();
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
    } else if holds_back {
        drop(receiver);
        let (outcome, answer) =
            Pump { client: Client { sender: None, has_hung_up: false }, ..pump }.held_back(body).await;
        if let Err(error) = &answer {
            settled.status = error.kind.status().as_u16().into();
        }
        let _ = head.send(answer.map(|bytes| returned(prepared, &parts, full(bytes))));
        outcome
    } else {
        let stream =
            StreamBody::new(ReceiverStream::new(receiver).map(|frame: io::Result<Frame<Bytes>>| frame));
        let sent = head.send(Ok(returned(prepared, &parts, BodyExt::boxed_unsync(stream))));
        // A client that is gone already drops the receiver.
        drop(sent);
        if is_stream && is_success { pump.stream(body).await } else { pump.document(body).await }
    };
    if !is_success {
        // Providers do not charge for what they refuse.
        settled.set_ending(Ending::Refused);
        return settled;
    }
    count(prepared, &outcome, reading.elapsed(), &mut settled);
    settled
}

/// Returns a response with the headers that a client gets.
fn returned(
    prepared: &Prepared,
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
        if let Some(value) = parts.headers.get(name) {
            headers.insert(HeaderName::from_static(name), value.clone());
        }
    }
    if prepared.limit.is_lowered {
        headers.insert(LIMIT, HeaderValue::from(prepared.limit.output_tokens));
    }
    if let Ok(names) = HeaderValue::from_str(&prepared.stripped.join(", "))
        && !prepared.stripped.is_empty()
    {
        headers.insert(STRIPPED, names);
    }
    response
}

/// Writes what a call used: the provider's figures, or, of an answer that was cut off, what it can have been at most.
fn count(prepared: &Prepared, outcome: &Outcome, time: Duration, settled: &mut SettleRequest) {
    let Counted { usage, has_input, has_usage, cost_micro, .. } = outcome.meter.counted().clone();
    settled.set_ending(outcome.ending);
    settled.cost_micro = cost_micro;
    if prepared.operation == Operation::Count {
        return;
    }
    if has_usage {
        settled.usage = Some(usage);
        return;
    }
    settled.estimated = true;
    if outcome.ending == Ending::Completed {
        settled.at_bound = true;
        return;
    }
    let seconds = time.as_secs().saturating_add(1);
    let spoken = seconds.saturating_mul(prepared.model.max_tokens_per_second);
    let answers = u64::from(prepared.asked.candidates.max(1));
    let output = spoken.min(prepared.limit.output_tokens).saturating_mul(answers).max(usage.output);
    settled.usage = Some(if has_input {
        Usage { output, ..usage }
    } else {
        Usage { input: prepared.input_bound, output, ..Usage::default() }
    });
}
