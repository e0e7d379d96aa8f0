//! Stream of the AI proxy's reservations and settlements. Each is passed to the [`Ledger`] as it arrives. Responses that are known together
//! share a message.

use std::sync::Arc;

use futures_util::future::{BoxFuture, FutureExt};
use futures_util::stream::{self, FuturesUnordered, Stream, StreamExt};
use rigbox_core::ai::money::Money;
use rigbox_core::ai::prices;
use rigbox_core::ai::provider::Provider;
use rigbox_core::ai::reservation::Ask;
use rigbox_proto::ai::ledger_request::Request;
use rigbox_proto::ai::ledger_response::Response;
use rigbox_proto::ai::reserve_response::Outcome;
use rigbox_proto::ai::{
    self, Denied, FailureReason, Granted, LedgerFailure, LedgerRequest, LedgerRequests, LedgerResponse,
    LedgerResponses, ReserveRequest, ReserveResponse, SettleRequest, SettleResponse, Usage,
};
use rigbox_service::ai::ledger::{Call, Ledger, LedgerError, Operation};
use rigbox_service::ai::{Denial, DenialReason};
use rigbox_service::records::{AiEnding, AiSettlement};
use tonic::{Status, Streaming};

use crate::gateway_rpc::id;

/// Maximum length of a provider's id of a call in the record.
const MAX_REQUEST_ID_CHARS: usize = 128;

/// Requests of a stream that are not answered yet. No other message is read before there are fewer.
const MAX_REQUESTS: usize = 4_096;

/// Stream with the requests that are not answered yet.
struct Open {
    ledger: Arc<Ledger>,
    /// Absent once the proxy has ended its side.
    requests: Option<Streaming<LedgerRequests>>,
    waiting: FuturesUnordered<BoxFuture<'static, LedgerResponse>>,
}

/// Returns the responses to a stream of requests.
pub(super) fn responses(
    ledger: Arc<Ledger>,
    requests: Streaming<LedgerRequests>,
) -> impl Stream<Item = Result<LedgerResponses, Status>> + Send {
    let open = Open { ledger, requests: Some(requests), waiting: FuturesUnordered::new() };
    stream::unfold(open, |mut open| async move { Some((open.next().await?, open)) })
}

impl Open {
    /// Returns the next responses, or `None` if all requests are answered and no more come.
    async fn next(&mut self) -> Option<Result<LedgerResponses, Status>> {
        loop {
            let has_room = self.waiting.len() < MAX_REQUESTS;
            tokio::select! {
                Some(first) = self.waiting.next() => return Some(Ok(self.ready(first))),
                message = read(&mut self.requests), if has_room && self.requests.is_some() => match message {
                    Ok(Some(LedgerRequests { requests })) => {
                        let answer = |request| answer(self.ledger.clone(), request).boxed();
                        self.waiting.extend(requests.into_iter().map(answer));
                    }
                    Ok(None) => self.requests = None,
                    Err(status) => return Some(Err(status)),
                },
                else => return None,
            }
        }
    }

    /// Returns a response with all others that are known.
    fn ready(&mut self, first: LedgerResponse) -> LedgerResponses {
        let mut responses = vec![first];
        while let Some(Some(next)) = self.waiting.next().now_or_never() {
            responses.push(next);
        }
        LedgerResponses { responses }
    }
}

async fn read(requests: &mut Option<Streaming<LedgerRequests>>) -> Result<Option<LedgerRequests>, Status> {
    match requests {
        Some(requests) => requests.message().await,
        None => Ok(None),
    }
}

async fn answer(ledger: Arc<Ledger>, LedgerRequest { number, request }: LedgerRequest) -> LedgerResponse {
    let response = match request {
        Some(Request::Reserve(request)) => reserve(&ledger, request).await,
        Some(Request::Settle(request)) => settle(&ledger, request).await,
        None => failure(FailureReason::Invalid, "no request"),
    };
    LedgerResponse { number, response: Some(response) }
}

async fn reserve(ledger: &Ledger, request: ReserveRequest) -> Response {
    let call = match call(request) {
        Ok(call) => call,
        Err(status) => return failure(FailureReason::Invalid, status.message()),
    };
    let outcome = match ledger.reserve(call).await {
        Ok(grant) => Outcome::Granted(Granted {
            reserved_micro: grant.reserved.micro(),
            output_tokens: grant.output_tokens,
            lowered: grant.lowered,
        }),
        Err(LedgerError::Denied(denial)) => Outcome::Denied(denied(denial)),
        Err(error) => return failed(&error),
    };
    Response::Reserve(ReserveResponse { outcome: Some(outcome) })
}

async fn settle(ledger: &Ledger, request: SettleRequest) -> Response {
    match ledger.settle(settlement(request)).await {
        Ok(cost) => Response::Settle(SettleResponse { cost_micro: cost.micro() }),
        Err(error) => failed(&error),
    }
}

fn failed(error: &LedgerError) -> Response {
    let reason = match error {
        LedgerError::Denied(_) | LedgerError::InvalidName => FailureReason::Invalid,
        LedgerError::OtherRun => FailureReason::OtherRun,
        LedgerError::UnknownCall => FailureReason::UnknownCall,
        LedgerError::Unavailable => FailureReason::Unavailable,
    };
    failure(reason, &error.to_string())
}

fn failure(reason: FailureReason, text: &str) -> Response {
    Response::Failure(LedgerFailure { reason: reason.into(), text: text.to_owned() })
}

/// Returns the kind of a call.
pub(super) fn operation(operation: ai::Operation) -> Result<Operation, Status> {
    match operation {
        ai::Operation::Generate => Ok(Operation::Generate),
        ai::Operation::Embed => Ok(Operation::Embed),
        ai::Operation::Count => Ok(Operation::Count),
        ai::Operation::Unspecified => Err(Status::invalid_argument("no operation")),
    }
}

fn call(request: ReserveRequest) -> Result<Call, Status> {
    Ok(Call {
        workspace: id(&request.workspace_id)?,
        provider: provider(request.provider())?,
        operation: operation(request.operation())?,
        ask: Ask {
            input_tokens: request.input_tokens,
            output_tokens: request.output_tokens,
            candidates: request.candidates,
            thinking_tokens: request.thinking_tokens,
        },
        id: request.call_id,
        run: request.run_id,
        model: request.model,
        fetches_urls: request.fetches_urls,
        options: request.options,
    })
}

fn settlement(request: SettleRequest) -> AiSettlement {
    let ending = match request.ending() {
        ai::Ending::Completed => AiEnding::Completed,
        ai::Ending::Refused => AiEnding::Refused,
        ai::Ending::HungUp => AiEnding::HungUp,
        ai::Ending::CutOff => AiEnding::CutOff,
        ai::Ending::NotSent => AiEnding::NotSent,
        ai::Ending::Unspecified => AiEnding::Unknown,
    };
    let some = |text: String| (!text.is_empty()).then_some(text);
    // Without its usage, nothing is known of a call.
    let at_bound = request.at_bound || (request.usage.is_none() && request.cost_micro.is_none());
    let Usage { input, cache_read, cache_write_5m, cache_write_1h, output, reasoning } =
        request.usage.unwrap_or_default();
    AiSettlement {
        id: request.call_id,
        usage: prices::Usage { input, cache_read, cache_write_5m, cache_write_1h, output, reasoning },
        estimated: request.estimated,
        at_bound,
        status: request.status,
        ending,
        key: some(request.key_id),
        provider_request_id: some(request.provider_request_id.chars().take(MAX_REQUEST_ID_CHARS).collect()),
        duration_ms: request.duration_ms,
        told_cost: request.cost_micro.map(Money::from_micro),
    }
}

/// Returns a provider as the domain names it.
pub(super) fn provider(provider: ai::Provider) -> Result<Provider, Status> {
    match provider {
        ai::Provider::Anthropic => Ok(Provider::Anthropic),
        ai::Provider::Openai => Ok(Provider::OpenAi),
        ai::Provider::Google => Ok(Provider::Google),
        ai::Provider::Openrouter => Ok(Provider::OpenRouter),
        ai::Provider::Unspecified => Err(Status::invalid_argument("no provider")),
    }
}

/// Returns a refusal of the ledger.
pub(super) fn denied(denial: Denial) -> Denied {
    let reason = match denial.reason {
        DenialReason::InsufficientCredits => ai::Reason::InsufficientCredits,
        DenialReason::UnknownModel => ai::Reason::UnknownModel,
        DenialReason::ModelNotAllowed => ai::Reason::ModelNotAllowed,
        DenialReason::NotManaged => ai::Reason::NotManaged,
        DenialReason::Stopped => ai::Reason::Stopped,
        DenialReason::UrlNotAllowed => ai::Reason::UrlNotAllowed,
        DenialReason::TooManyCalls => ai::Reason::TooManyCalls,
    };
    Denied { reason: reason.into(), text: denial.text }
}
