//! A call with the operator's key: its bound is reserved before it is made.

use rigbox_proto::ai::reserve_response::Outcome;
use rigbox_proto::ai::{Operation, ReserveRequest};

use super::count::count;
use super::terms::{Checked, NoTerms, Terms, refusal};
use crate::dialect::Limit;
use crate::error::{CallError, ErrorKind};
use crate::state::State;

/// Reserves a call.
pub(super) async fn terms(state: &State, checked: &Checked<'_>) -> Result<Terms, NoTerms> {
    let Checked { arrived, asked, findings, operation, .. } = *checked;
    let Some((model, upstream)) = checked.setup.model(arrived.form.provider, &asked.model) else {
        let text =
            format!("The model `{}` is not offered here. GET /v1/models lists those that are.", asked.model);
        return Err(CallError::new(ErrorKind::NotFound, text).into());
    };
    let mut input_bound = checked.input_bound(model);
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
    let limit = match reserve(state, checked, request.clone()).await {
        // What is at a URL may be another thing when the call is made.
        Err(NoTerms::Refused(error))
            if error.kind == ErrorKind::InsufficientCredits
                && operation == Operation::Generate
                && !findings.fetches_urls =>
        {
            // The bound is far from what most texts take, and the provider counts for nothing.
            let (dialect, document) = (checked.dialect, checked.document);
            let counted = Box::pin(count(state, arrived, dialect, document, upstream, checked.is_tied)).await;
            let Some(counted) = counted.map(|counted| counted.saturating_mul(findings.rounds().into()))
            else {
                return Err(error.into());
            };
            if counted >= input_bound {
                return Err(error.into());
            }
            input_bound = counted;
            reserve(state, checked, ReserveRequest { input_tokens: counted, ..request }).await?
        }
        reserved => reserved?,
    };
    Ok(Terms { limit, input_bound, model: model.clone(), upstream: upstream.clone(), own_key: None })
}

async fn reserve(state: &State, checked: &Checked<'_>, request: ReserveRequest) -> Result<Limit, NoTerms> {
    let asked = request.output_tokens;
    let response = state.ledger.reserve(request).await.map_err(|error| {
        tracing::warn!(call = checked.arrived.form.call_id, %error, "failed to reserve a call");
        NoTerms::NotRecorded
    })?;
    match response.outcome {
        Some(Outcome::Granted(granted)) => {
            let is_lowered = granted.lowered && checked.operation == Operation::Generate;
            Ok(Limit { output_tokens: granted.output_tokens.min(asked.unwrap_or(u64::MAX)), is_lowered })
        }
        Some(Outcome::Denied(denied)) => Err(refusal(denied).into()),
        None => Err(NoTerms::NotRecorded),
    }
}
