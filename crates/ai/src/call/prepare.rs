//! A call before it is made: read, checked, and reserved or recorded.

use std::time::Instant;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use hyper::body::Incoming;
use rigbox_core::ai::environment::KeyOwner;
use rigbox_core::ai::prices::LONG_CACHE;
use rigbox_core::ids::WorkspaceId;
use rigbox_proto::ai::Operation;

use super::outgoing::Arrived;
use super::terms::{Checked, Terms};
use super::{managed, own};
use crate::dialect::{Asked, Dialect, apply, removals};
use crate::error::{CallError, ErrorKind};
use crate::json::{Document, shown};
use crate::state::State;

/// Option of Anthropic's by which some models read a million tokens, at prices of their own.
const LONG_CONTEXT: &str = "context-1m";
/// Context of a model that does so by itself.
const LONG_CONTEXT_TOKENS: u64 = 1_000_000;
/// Header with such options.
const BETA: HeaderName = HeaderName::from_static("anthropic-beta");

/// Call that may be made.
pub(super) struct Prepared {
    pub(super) arrived: Arrived,
    pub(super) dialect: Dialect,
    pub(super) operation: Operation,
    pub(super) asked: Asked,
    pub(super) terms: Terms,
    pub(super) body: Bytes,
    /// Names of the fields that are not forwarded, for the client.
    pub(super) stripped: Vec<String>,
    pub(super) is_tied: bool,
    pub(super) began: Instant,
}

/// Reads, checks, and reserves or records a call.
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
    state.free_calls.check(&arrived.workspace, began)?;
    let body = state.bodies.read(&arrived.workspace, &arrived.headers, body).await?;
    let invalid = |text: String| CallError::new(ErrorKind::InvalidRequest, text);
    let document = Document::parse(&body.bytes).map_err(|problem| invalid(problem.to_string()))?;
    let (dialect, operation) = Dialect::of(&arrived.call);
    let mut findings =
        dialect.table(&setup.tables).walk(&document).map_err(|problem| invalid(problem.to_string()))?;
    let mut asked =
        dialect.asked(&arrived.call, &document).map_err(|problem| invalid(problem.to_string()))?;
    asked.writes_long_cache = findings.options.contains(LONG_CACHE);
    if arrived.owner == KeyOwner::User {
        // What is forced keeps the operator's account apart from its users.
        findings.forced.clear();
    }
    let checked = Checked {
        setup: &setup,
        arrived: &arrived,
        document: &document,
        dialect,
        operation,
        asked: &asked,
        findings: &findings,
        bytes: body.bytes.len(),
        is_tied: is_tied(&body.bytes),
    };
    let terms = match arrived.owner {
        KeyOwner::Operator => managed::terms(state, &checked).await,
        KeyOwner::User => Box::pin(own::terms(state, &checked)).await,
    };
    let terms = match terms {
        Ok(terms) => terms,
        Err(none) => return Err(none.error(state, &arrived, place)),
    };
    let mut edits = removals(&findings);
    // A count makes nothing that would be limited or kept.
    if operation != Operation::Count {
        let (model, provider) = (&terms.model, arrived.form.provider);
        edits.extend(dialect.edits(&document, &asked, &findings, model, provider, terms.limit));
    }
    let is_tied = checked.is_tied;
    let mut arrived = arrived;
    if terms.own_key.is_none() && terms.model.context_tokens < LONG_CONTEXT_TOKENS {
        remove_long_context(&mut arrived.headers);
    }
    let prepared = Prepared {
        dialect,
        operation,
        terms,
        body: apply(&body.bytes, &document, &edits),
        stripped: findings.stripped.iter().map(|name| named(name)).collect(),
        is_tied,
        asked,
        began,
        arrived,
    };
    Ok((prepared, place))
}

/// Removes the option by which a model reads more than the price table says, which is what bounds the input.
fn remove_long_context(headers: &mut HeaderMap) {
    let is_other = |option: &&[u8]| !option.trim_ascii().starts_with(LONG_CONTEXT.as_bytes());
    let kept: Vec<Vec<u8>> = headers
        .get_all(&BETA)
        .iter()
        .map(|value| {
            value.as_bytes().split(|byte| *byte == b',').filter(is_other).collect::<Vec<_>>().join(&b',')
        })
        .collect();
    headers.remove(&BETA);
    for value in kept.into_iter().filter(|value| !value.is_empty()) {
        if let Ok(value) = HeaderValue::from_bytes(&value) {
            headers.append(BETA, value);
        }
    }
}

/// Returns a field's name for a header, which has visible ASCII.
fn named(field: &str) -> String {
    shown(field).chars().map(|character| if character.is_ascii() { character } else { '?' }).collect()
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
