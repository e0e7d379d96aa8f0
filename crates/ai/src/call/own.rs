//! A call with the user's own key: recorded before it is made, as each other one is, and limited by nobody.

use rigbox_proto::ai::open_own_call_response::Outcome;
use rigbox_proto::ai::{Model, OpenOwnCallRequest};

use super::terms::{Checked, NoTerms, Terms, refusal};
use crate::dialect::Limit;
use crate::setup::Key;
use crate::state::State;

/// Bound of the output's speed of a model without a price.
const MAX_TOKENS_PER_SECOND: u64 = 1_000;

/// Records a call.
pub(super) async fn terms(state: &State, checked: &Checked<'_>) -> Result<Terms, NoTerms> {
    let Checked { arrived, asked, setup, .. } = *checked;
    let request = OpenOwnCallRequest {
        run_id: state.control.run_id.clone(),
        call_id: arrived.form.call_id.clone(),
        workspace_id: arrived.workspace.to_string(),
        provider: arrived.form.provider.into(),
        operation: checked.operation.into(),
        model: asked.model.clone(),
        fetches_urls: checked.findings.fetches_urls,
    };
    let opened = state.control.open_own_call(&arrived.workspace, request).await.map_err(|status| {
        tracing::warn!(call = arrived.form.call_id, %status, "failed to open a call with a user's own key");
        NoTerms::NotRecorded
    })?;
    let own = match opened.outcome {
        Some(Outcome::OwnKey(own)) => own,
        Some(Outcome::Denied(denied)) => return Err(refusal(denied).into()),
        None => return Err(NoTerms::NotRecorded),
    };
    let (Some(upstream), Some(key)) = (setup.upstream(&own.upstream), Key::of_user(own.secret)) else {
        return Err(NoTerms::NotRecorded);
    };
    let model = model(checked);
    Ok(Terms {
        limit: Limit { output_tokens: u64::MAX, is_lowered: false },
        input_bound: checked.input_bound(&model),
        model,
        upstream: upstream.clone(),
        own_key: Some(key),
    })
}

/// Returns what is known of the model: that of the price table, or next to nothing of one that only the user's own key reaches.
fn model(checked: &Checked<'_>) -> Model {
    let Checked { arrived, asked, setup, .. } = *checked;
    let known = setup.model(arrived.form.provider, &asked.model).map(|(model, _)| model.clone());
    known.unwrap_or_else(|| Model {
        id: asked.model.clone(),
        context_tokens: u64::from(u32::MAX),
        max_tokens_per_second: MAX_TOKENS_PER_SECOND,
        ..Model::default()
    })
}
