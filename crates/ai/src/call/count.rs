//! The provider's own count of a request's input, which costs nothing. It is asked for where the bound by bytes does not fit.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};

use super::outgoing::{Arrived, request};
use crate::dialect::Dialect;
use crate::json::Document;
use crate::setup::Upstream;
use crate::state::State;

/// Time for a count.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Size of an answer in bytes.
const MAX_ANSWER_BYTES: usize = 64 << 10;
/// Tokens added to a count, and the part of it that is: providers call it an estimate.
const MARGIN_TOKENS: u64 = 64;
const MARGIN_PART: u64 = 50;

/// Returns the tokens of a request's input with a margin, or none if the provider does not tell.
pub(super) async fn count(
    state: &State,
    arrived: &Arrived,
    dialect: Dialect,
    document: &Document<'_>,
    upstream: &Upstream,
    is_tied: bool,
) -> Option<u64> {
    let (call, body) = dialect.counting(&arrived.call, document)?;
    let key = state.upstreams.keys(&arrived.workspace, upstream, is_tied).into_iter().next()?;
    let request = request(arrived, &call, Bytes::from(body), upstream, &key).ok()?;
    let answer = async {
        let response = state.upstreams.send(&arrived.workspace, request).await.ok()?;
        if state.upstreams.rest(&key, &response) || !response.status().is_success() {
            return None;
        }
        let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await.ok()?;
        dialect.counted(&body.to_bytes())
    };
    let counted = tokio::time::timeout(TIMEOUT, answer).await.ok()??;
    Some(counted.saturating_add(counted / MARGIN_PART).saturating_add(MARGIN_TOKENS))
}
