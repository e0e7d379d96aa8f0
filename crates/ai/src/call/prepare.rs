//! A call before it is made: read, checked and reserved.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use hyper::body::Incoming;
use rigbox_core::ids::WorkspaceId;
use rigbox_proto::ai::reserve_response::Outcome as Reserved;
use rigbox_proto::ai::{Ending, Model, Operation, Reason, ReserveRequest};

use super::count::count;
use super::outgoing::Arrived;
use super::settlement::settlement;
use crate::dialect::{Asked, Dialect, Limit, apply, removals};
use crate::error::{CallError, ErrorKind};
use crate::json::Document;
use crate::setup::Upstream;
use crate::state::State;
use crate::table::Findings;

/// Tokens that a provider may add to what stands in the request: its own words about tools and forms.
const OVERHEAD_TOKENS: u64 = 4_096;

/// Call that may be made.
pub(super) struct Prepared {
    pub(super) arrived: Arrived,
    pub(super) dialect: Dialect,
    pub(super) operation: Operation,
    pub(super) asked: Asked,
    pub(super) limit: Limit,
    pub(super) input_bound: u64,
    pub(super) model: Model,
    pub(super) upstream: Arc<Upstream>,
    pub(super) body: Bytes,
    pub(super) stripped: Vec<String>,
    pub(super) is_tied: bool,
    pub(super) began: Instant,
}

/// Reads, checks and reserves a call.
pub(super) async fn prepare(
    state: &State,
    arrived: Arrived,
    body: Incoming,
) -> Result<(Prepared, rigbox_shares::Place<WorkspaceId>), CallError> {
    let began = Instant::now();
    let Some(setup) = state.control.setup() else {
        return Err(CallError::new(ErrorKind::Unavailable, "The AI proxy is not ready. Try again."));
    };
    // Control decides it again, in the transaction that reserves. Here it spares a stopped installation the bodies and the transactions of
    // clients that try again and again.
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
    let Some((model, upstream)) = setup.model(arrived.form.provider, &asked.model) else {
        let text =
            format!("The model `{}` is not offered here. GET /v1/models lists those that are.", asked.model);
        return Err(CallError::new(ErrorKind::NotFound, text));
    };
    let mut input_bound = input_bound(body.bytes.len(), &findings, model);
    let candidates = asked.candidates.saturating_add(findings.rounds() - 1);
    let request = ReserveRequest {
        run_id: state.control.run_id.clone(),
        call_id: arrived.form.call_id.clone(),
        workspace_id: arrived.workspace.to_string(),
        provider: arrived.form.provider.into(),
        operation: operation.into(),
        model: asked.model.clone(),
        input_tokens: input_bound,
        output_tokens: asked.output_tokens,
        candidates,
        thinking_tokens: asked.thinking_tokens,
        fetches_urls: findings.fetches_urls,
        options: findings.options.iter().cloned().collect(),
    };
    let is_tied = is_tied(&body.bytes);
    let limit = match reserve(state, &arrived, request.clone(), operation).await {
        Err(error) if error.kind == ErrorKind::InsufficientCredits && operation == Operation::Generate => {
            // The bound is far from what most texts take, and the provider counts for nothing.
            let counted = count(state, &arrived, dialect, &document, upstream, is_tied).await;
            let Some(counted) = counted.map(|counted| counted.saturating_mul(findings.rounds().into()))
            else {
                return Err(error);
            };
            if counted >= input_bound {
                return Err(error);
            }
            input_bound = counted;
            reserve(state, &arrived, ReserveRequest { input_tokens: counted, ..request }, operation).await?
        }
        reserved => reserved?,
    };
    let mut edits = removals(&findings);
    // A count makes nothing that would be limited or kept.
    if operation != Operation::Count {
        edits.extend(dialect.edits(&document, &asked, &findings, model, arrived.form.provider, limit));
    }
    let prepared = Prepared {
        dialect,
        operation,
        limit,
        input_bound,
        body: apply(&body.bytes, &document, &edits),
        stripped: findings.stripped,
        is_tied,
        asked,
        model: model.clone(),
        upstream: upstream.clone(),
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
    bound.min(model.context_tokens).saturating_mul(findings.rounds().into())
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
            tracing::warn!(call = arrived.form.call_id, %status, "failed to reserve a call");
            // It may have been reserved all the same.
            let settlement = settlement(state, &arrived.form.call_id, Ending::NotSent);
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
