//! A request that was read, and the terms under which it may become a call: where it goes, with which key and which limit.

use std::sync::Arc;

use rigbox_core::ids::WorkspaceId;
use rigbox_proto::ai::{Denied, Ending, Model, Operation, Reason};
use rigbox_shares::Place;

use super::outgoing::Arrived;
use super::settlement::settlement;
use crate::dialect::{Asked, Dialect, Limit};
use crate::error::{CallError, ErrorKind};
use crate::json::Document;
use crate::setup::{Key, Setup, Upstream};
use crate::state::State;
use crate::table::Findings;

/// Tokens that a provider may add to what stands in the request: its own words about tools and forms.
const OVERHEAD_TOKENS: u64 = 4_096;

/// Request that was read and walked through.
pub(super) struct Checked<'a> {
    pub(super) setup: &'a Setup,
    pub(super) arrived: &'a Arrived,
    pub(super) document: &'a Document<'a>,
    pub(super) dialect: Dialect,
    pub(super) operation: Operation,
    pub(super) asked: &'a Asked,
    pub(super) findings: &'a Findings,
    /// Length of the body.
    pub(super) bytes: usize,
    /// It has something in it that only one organization's keys can use.
    pub(super) is_tied: bool,
}

/// Terms of a call, which control has recorded.
pub(super) struct Terms {
    pub(super) limit: Limit,
    pub(super) input_bound: u64,
    pub(super) model: Model,
    pub(super) upstream: Arc<Upstream>,
    /// Key of the user's own, which alone the call is made with.
    pub(super) own_key: Option<Key>,
}

impl Checked<'_> {
    /// Returns the bound of the input's tokens: no token is shorter than a byte.
    pub(super) fn input_bound(&self, model: &Model) -> u64 {
        let text = u64::try_from(self.bytes).unwrap_or(u64::MAX).saturating_add(OVERHEAD_TOKENS);
        let images = self.findings.images.saturating_mul(model.max_tokens_per_image);
        let context = model.context_tokens.saturating_mul(self.asked.inputs);
        let bound = if self.findings.fills_context { context } else { text.saturating_add(images) };
        bound.min(context).saturating_mul(self.findings.rounds().into())
    }
}

/// Call that gets no terms.
pub(super) enum NoTerms {
    /// It is refused.
    Refused(CallError),
    /// Control has said nothing of it, and may have recorded it all the same.
    NotRecorded,
}

impl From<CallError> for NoTerms {
    fn from(error: CallError) -> Self {
        Self::Refused(error)
    }
}

impl NoTerms {
    /// Returns the error for the client. Control is told, until it hears it, that a call which it may have recorded was not made; the call
    /// keeps its place for as long, so that they do not pile up.
    pub(super) fn error(self, state: &State, arrived: &Arrived, place: Place<WorkspaceId>) -> CallError {
        match self {
            Self::Refused(error) => error,
            Self::NotRecorded => {
                let settlement = settlement(state, &arrived.form.call_id, Ending::NotSent);
                let ledger = state.ledger.clone();
                tokio::spawn(async move {
                    ledger.settle(settlement).await;
                    drop(place);
                });
                CallError::new(ErrorKind::Unavailable, "Calls cannot be recorded now. Try again.")
            }
        }
    }
}

/// Returns the error of a call that control has refused.
pub(super) fn refusal(denied: Denied) -> CallError {
    let kind = match denied.reason() {
        Reason::InsufficientCredits => ErrorKind::InsufficientCredits,
        Reason::UnknownModel => ErrorKind::NotFound,
        Reason::UrlNotAllowed => ErrorKind::InvalidRequest,
        Reason::TooManyCalls => ErrorKind::RateLimit,
        Reason::ModelNotAllowed | Reason::NotManaged | Reason::Stopped | Reason::Unspecified => {
            ErrorKind::NotAllowed
        }
    };
    CallError::new(kind, denied.text)
}
