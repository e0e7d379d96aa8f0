//! Google's Gemini API. Keys may be in camel or in snake case.

use rigbox_proto::ai::Usage;
use serde::Deserialize;

use super::{Asked, Counted, Edit, Edits, Limit, Meter, Step, candidates, count, is_above, output_limit};
use crate::json::{Document, Field, Value};
use crate::route::{Call, GoogleMethod};
use crate::table::Refusal;

const CONFIG: [&str; 2] = ["generationConfig", "generation_config"];
const LIMIT: [&str; 2] = ["maxOutputTokens", "max_output_tokens"];

pub(super) fn asked(call: &Call, request: &Document<'_>) -> Result<Asked, Refusal> {
    let Call::Google { model, method, .. } = call else {
        return Err(Refusal { path: "model".into(), why: "has to name a model".into() });
    };
    let config = config(request).map(|field| &field.value);
    let of_config = |names: [&str; 2]| config.and_then(|config| either(config, names));
    let thinking = of_config(["thinkingConfig", "thinking_config"])
        .and_then(|thinking| either(thinking, ["thinkingBudget", "thinking_budget"]))
        // -1 leaves it to the model.
        .filter(|budget| **budget != Value::Number(-1.0));
    Ok(Asked {
        output_tokens: if *method == GoogleMethod::Embed {
            Some(0)
        } else {
            output_limit(of_config(LIMIT), "generationConfig.maxOutputTokens")?
        },
        candidates: candidates(
            of_config(["candidateCount", "candidate_count"]),
            "generationConfig.candidateCount",
        )?,
        thinking_tokens: count(thinking, "generationConfig.thinkingConfig.thinkingBudget")?,
        is_stream: *method == GoogleMethod::Stream,
        ..Asked::of(model.clone())
    })
}

fn config<'r, 'a>(request: &'r Document<'a>) -> Option<&'r Field<'a>> {
    request.fields.iter().find(|field| CONFIG.contains(&field.name.as_ref()))
}

fn either<'v, 'a>(value: &'v Value<'a>, names: [&str; 2]) -> Option<&'v Value<'a>> {
    names.iter().find_map(|name| value.get(name))
}

pub(super) fn edits(request: &Document<'_>, limit: Limit, edits: &mut Edits) {
    if !limit.is_lowered {
        return;
    }
    let value = Edit::Set(limit.output_tokens.to_string());
    let config = config(request);
    // Its fields keep their bytes too. What it has was parsed before.
    let inner = config.and_then(|field| Document::parse(field.raw.as_bytes()).ok());
    let (name, changed) = match (config, inner) {
        (Some(field), Some(inner)) => {
            let asked = inner.fields.iter().find(|field| LIMIT.contains(&field.name.as_ref()));
            if !is_above(asked.map(|asked| &asked.value), limit) {
                return;
            }
            let name = asked.map_or(LIMIT[0], |asked| asked.name.as_ref()).to_owned();
            (field.name.to_string(), super::write(&inner, &vec![(name, value)]))
        }
        // There is none, or it is null.
        _ => (
            config.map_or(CONFIG[0], |field| &field.name).to_owned(),
            format!("{{\"{}\":{}}}", LIMIT[0], limit.output_tokens),
        ),
    };
    edits.push((name, Edit::Set(changed)));
}

/// Returns the request for a count: the whole request in another one.
pub(super) fn counting(model: &str, request: &Document<'_>) -> String {
    let name = serde_json::Value::from(format!("models/{model}")).to_string();
    let whole = super::write(request, &vec![("model".to_owned(), Edit::Set(name))]);
    format!("{{\"generateContentRequest\":{whole}}}")
}

/// Reader of one response.
pub(super) struct GoogleMeter {
    counted: Counted,
    is_lowered: bool,
    has_calls: bool,
}

impl GoogleMeter {
    pub(super) fn new(is_lowered: bool) -> Self {
        Self { counted: Counted::default(), is_lowered, has_calls: false }
    }

    /// Reads one response, or one of a stream. Returns true if the limit has ended it.
    fn read(&mut self, response: Response) -> bool {
        if let Some(figures) = response.usage_metadata {
            let cached = figures.cached_content_token_count;
            let prompt = figures.prompt_token_count.saturating_add(figures.tool_use_prompt_token_count);
            self.counted.usage = Usage {
                input: prompt.saturating_sub(cached),
                cache_read: cached,
                cache_write_5m: 0,
                cache_write_1h: 0,
                output: figures.candidates_token_count.saturating_add(figures.thoughts_token_count),
                reasoning: figures.thoughts_token_count,
            };
            self.counted.has_input = true;
        }
        let mut is_cut = false;
        for candidate in response.candidates.into_iter().flatten() {
            let parts = candidate.content.unwrap_or_default().parts.unwrap_or_default();
            self.has_calls |= parts.iter().any(|part| part.function_call.is_some());
            self.counted.is_complete |= candidate.finish_reason.is_some();
            is_cut |= candidate.finish_reason.as_deref() == Some("MAX_TOKENS");
        }
        self.counted.is_complete |= response.prompt_feedback.is_some();
        self.counted.has_usage = self.counted.is_complete && self.counted.has_input;
        is_cut && self.is_lowered
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Response {
    candidates: Option<Vec<Candidate>>,
    usage_metadata: Option<Figures>,
    prompt_feedback: Option<serde::de::IgnoredAny>,
    total_tokens: Option<u64>,
    embedding: Option<serde::de::IgnoredAny>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Candidate {
    content: Option<Content>,
    finish_reason: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Content {
    parts: Option<Vec<Part>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Part {
    function_call: Option<serde::de::IgnoredAny>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Figures {
    prompt_token_count: u64,
    cached_content_token_count: u64,
    candidates_token_count: u64,
    thoughts_token_count: u64,
    tool_use_prompt_token_count: u64,
}

impl Meter for GoogleMeter {
    fn event(&mut self, data: &[u8]) -> Step {
        let Ok(response) = serde_json::from_slice::<Response>(data) else { return Step::Pass };
        if self.read(response) && self.has_calls { Step::EndInstead(None) } else { Step::Pass }
    }

    fn body(&mut self, body: &[u8]) -> bool {
        let Ok(response) = serde_json::from_slice::<Response>(body) else {
            // A stream without `alt=sse` is a list of responses.
            let Ok(responses) = serde_json::from_slice::<Vec<Response>>(body) else { return false };
            return responses.into_iter().fold(false, |is_cut, response| self.read(response) | is_cut);
        };
        let is_other = response.total_tokens.is_some() || response.embedding.is_some();
        let is_cut = self.read(response);
        self.counted.is_complete |= is_other;
        is_cut
    }

    fn counted(&self) -> &Counted {
        &self.counted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_figures_count_and_thoughts_are_output() {
        let mut meter = GoogleMeter::new(false);
        meter.event(
            br#"{"candidates":[{"content":{"parts":[{"text":"a"}]}}],
            "usageMetadata":{"promptTokenCount":10,"candidatesTokenCount":1}}"#,
        );
        assert!(!meter.counted().is_complete);
        meter.event(br#"{"candidates":[{"finishReason":"STOP"}],"usageMetadata":{"promptTokenCount":10,
            "cachedContentTokenCount":4,"candidatesTokenCount":3,"thoughtsTokenCount":20,"toolUsePromptTokenCount":2}}"#);
        let usage = meter.counted().usage;
        assert_eq!((usage.input, usage.cache_read, usage.output, usage.reasoning), (8, 4, 23, 20));
        assert!(meter.counted().is_complete && meter.counted().has_usage);
    }

    #[test]
    fn limit_is_lowered_in_either_spelling() {
        let changed = |body: &str| {
            let request = Document::parse(body.as_bytes()).unwrap();
            let mut changes = Vec::new();
            edits(&request, Limit { output_tokens: 50, is_lowered: true }, &mut changes);
            let body = bytes::Bytes::copy_from_slice(body.as_bytes());
            String::from_utf8(super::super::apply(&body, &request, &changes).to_vec()).unwrap()
        };
        assert_eq!(
            changed(r#"{"contents":[]}"#),
            r#"{"contents":[],"generationConfig":{"maxOutputTokens":50}}"#
        );
        assert_eq!(
            changed(r#"{"generation_config":null}"#),
            r#"{"generation_config":{"maxOutputTokens":50}}"#
        );
        assert_eq!(
            changed(r#"{"generation_config":{"temperature": 1.0,"max_output_tokens":99}}"#),
            r#"{"generation_config":{"temperature":1.0,"max_output_tokens":50}}"#
        );
        assert_eq!(
            changed(r#"{"generationConfig":{"maxOutputTokens":9}}"#),
            r#"{"generationConfig":{"maxOutputTokens":9}}"#
        );
    }
}
