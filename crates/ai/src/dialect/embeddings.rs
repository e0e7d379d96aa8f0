//! OpenAI's Embeddings API.

use serde::Deserialize;

use super::{Asked, Counted, Meter, Step, micro, model};
use crate::json::{Document, Value};
use crate::table::Refusal;

pub(super) fn asked(request: &Document<'_>) -> Result<Asked, Refusal> {
    let wish = Asked::of(model(request)?);
    Ok(Asked { output_tokens: Some(0), inputs: inputs(request.get("input")), ..wish })
}

/// Returns the number of inputs: those of a list of texts, or of lists of tokens. A list of tokens is one.
fn inputs(input: Option<&Value<'_>>) -> u64 {
    let is_input = |value: &&Value<'_>| matches!(value, Value::String(_) | Value::Array(_));
    let inputs = match input {
        Some(Value::Array(values)) => values.iter().filter(is_input).count(),
        _ => 1,
    };
    u64::try_from(inputs).unwrap_or(u64::MAX).max(1)
}

/// Reader of one response.
#[derive(Default)]
pub(super) struct EmbeddingsMeter {
    counted: Counted,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Embeddings {
    usage: Option<Figures>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Figures {
    prompt_tokens: u64,
    /// In US dollars (OpenRouter).
    cost: Option<f64>,
}

impl Meter for EmbeddingsMeter {
    fn event(&mut self, _: &[u8]) -> Step {
        Step::Pass
    }

    fn body(&mut self, body: &[u8]) -> bool {
        let Ok(embeddings) = serde_json::from_slice::<Embeddings>(body) else { return false };
        self.counted.is_complete = true;
        if let Some(figures) = embeddings.usage {
            self.counted.usage.input = figures.prompt_tokens;
            self.counted.has_input = true;
            self.counted.has_usage = true;
            self.counted.cost_micro = figures.cost.and_then(micro);
        }
        false
    }

    fn counted(&self) -> &Counted {
        &self.counted
    }
}
