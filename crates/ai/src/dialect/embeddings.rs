//! OpenAI's Embeddings API.

use serde::Deserialize;

use super::{Asked, Counted, Meter, Step, model};
use crate::json::Document;
use crate::table::Refusal;

pub(super) fn asked(request: &Document<'_>) -> Result<Asked, Refusal> {
    Ok(Asked {
        model: model(request)?,
        output_tokens: Some(0),
        candidates: 1,
        thinking_tokens: None,
        is_stream: false,
        hides_usage: false,
    })
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
        }
        false
    }

    fn counted(&self) -> &Counted {
        &self.counted
    }
}
