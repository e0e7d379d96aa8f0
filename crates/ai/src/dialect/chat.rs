//! OpenAI's Chat Completions API, and those that follow it.

use rigbox_proto::ai::{Provider, Usage};
use serde::Deserialize;

use super::{
    Asked, Counted, Edit, Edits, Limit, Meter, Step, candidates, count, is_above, is_true, micro, model,
};
use crate::json::{Document, Value};
use crate::table::Refusal;

const LIMIT: &str = "max_completion_tokens";
/// Older name, and that of other providers.
const OLD_LIMIT: &str = "max_tokens";
const STREAM_OPTIONS: &str = "stream_options";
const INCLUDE_USAGE: &str = "include_usage";

pub(super) fn asked(request: &Document<'_>) -> Result<Asked, Refusal> {
    let limits = [count(request.get(LIMIT), LIMIT)?, count(request.get(OLD_LIMIT), OLD_LIMIT)?];
    let is_stream = is_true(request.get("stream"));
    let wish = Asked::of(model(request)?);
    Ok(Asked {
        // The provider may read either.
        output_tokens: if limits.contains(&Some(0)) { None } else { limits.into_iter().max().flatten() },
        candidates: candidates(request.get("n"), "n")?,
        is_stream,
        hides_usage: is_stream && !includes_usage(request),
        ..wish
    })
}

fn includes_usage(request: &Document<'_>) -> bool {
    is_true(request.get(STREAM_OPTIONS).and_then(|options| options.get(INCLUDE_USAGE)))
}

pub(super) fn edits(
    request: &Document<'_>,
    asked: &Asked,
    provider: Provider,
    limit: Limit,
    edits: &mut Edits,
) {
    if limit.is_lowered {
        let value = Edit::Set(limit.output_tokens.to_string());
        let is_named = |name: &str| request.get(name).is_some_and(|value| *value != Value::Null);
        let mut names: Vec<_> = [LIMIT, OLD_LIMIT].into_iter().filter(|name| is_named(name)).collect();
        if names.is_empty() {
            names.push(if provider == Provider::Openai { LIMIT } else { OLD_LIMIT });
        }
        for name in names {
            if is_above(request.get(name), limit) {
                edits.push((name.into(), value.clone()));
            }
        }
    }
    if asked.hides_usage {
        edits.push((STREAM_OPTIONS.into(), Edit::Set(with_usage(request))));
    }
}

/// Returns the options of a stream, with the usage.
fn with_usage(request: &Document<'_>) -> String {
    let raw = request.fields.iter().find(|field| field.name == STREAM_OPTIONS).map(|field| field.raw);
    let mut options: serde_json::Map<String, serde_json::Value> =
        raw.and_then(|raw| serde_json::from_str(raw).ok()).unwrap_or_default();
    options.insert(INCLUDE_USAGE.into(), true.into());
    serde_json::Value::Object(options).to_string()
}

/// Reader of one response.
pub(super) struct ChatMeter {
    counted: Counted,
    is_lowered: bool,
    hides_usage: bool,
    writes_long_cache: bool,
    has_tool_calls: bool,
}

impl ChatMeter {
    pub(super) fn new(is_lowered: bool, asked: &Asked) -> Self {
        let Asked { hides_usage, writes_long_cache, .. } = *asked;
        Self {
            counted: Counted::default(),
            is_lowered,
            hides_usage,
            writes_long_cache,
            has_tool_calls: false,
        }
    }

    /// Takes the figures, if there are any.
    fn count(&mut self, figures: Option<Figures>) {
        let Some(figures) = figures else { return };
        let details = figures.prompt_tokens_details.unwrap_or_default();
        let (cached, written) = (details.cached_tokens.unwrap_or(0), details.cache_write_tokens.unwrap_or(0));
        self.counted.usage = Usage {
            // The prompt includes what came from the cache.
            input: figures.prompt_tokens.saturating_sub(cached).saturating_sub(written),
            cache_read: cached,
            // They are not told apart here.
            cache_write_5m: if self.writes_long_cache { 0 } else { written },
            cache_write_1h: if self.writes_long_cache { written } else { 0 },
            output: figures.completion_tokens,
            reasoning: figures.completion_tokens_details.unwrap_or_default().reasoning_tokens.unwrap_or(0),
        };
        self.counted.has_input = true;
        self.counted.has_usage = true;
        self.counted.cost_micro = figures.cost.and_then(micro);
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Completion {
    choices: Vec<Choice>,
    usage: Option<Figures>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Choice {
    finish_reason: Option<String>,
    delta: Option<Delta>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Delta {
    tool_calls: Option<Vec<serde::de::IgnoredAny>>,
    function_call: Option<serde::de::IgnoredAny>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Figures {
    prompt_tokens: u64,
    completion_tokens: u64,
    prompt_tokens_details: Option<PromptDetails>,
    completion_tokens_details: Option<CompletionDetails>,
    /// In US dollars (OpenRouter).
    cost: Option<f64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct PromptDetails {
    cached_tokens: Option<u64>,
    cache_write_tokens: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct CompletionDetails {
    reasoning_tokens: Option<u64>,
}

impl Meter for ChatMeter {
    fn event(&mut self, data: &[u8]) -> Step {
        if data == b"[DONE]" {
            self.counted.is_complete = true;
            return Step::Pass;
        }
        let Ok(chunk) = serde_json::from_slice::<Completion>(data) else { return Step::Pass };
        let is_usage = chunk.usage.is_some() && chunk.choices.is_empty();
        self.count(chunk.usage);
        let mut is_cut = false;
        for choice in chunk.choices {
            let delta = choice.delta.unwrap_or_default();
            self.has_tool_calls |= delta.tool_calls.is_some_and(|calls| !calls.is_empty());
            self.has_tool_calls |= delta.function_call.is_some();
            is_cut |= choice.finish_reason.as_deref() == Some("length");
        }
        if is_cut && self.is_lowered && self.has_tool_calls {
            Step::EndInstead(None)
        } else if is_usage && self.hides_usage {
            Step::Hide
        } else {
            Step::Pass
        }
    }

    fn body(&mut self, body: &[u8]) -> bool {
        let Ok(completion) = serde_json::from_slice::<Completion>(body) else { return false };
        self.count(completion.usage);
        self.counted.is_complete = true;
        let is_cut = |choice: &Choice| choice.finish_reason.as_deref() == Some("length");
        self.is_lowered && completion.choices.iter().any(is_cut)
    }

    fn counted(&self) -> &Counted {
        &self.counted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked_to(hides_usage: bool, writes_long_cache: bool) -> Asked {
        let request = Document::parse(br#"{"model":"m"}"#).unwrap();
        Asked { hides_usage, writes_long_cache, ..asked(&request).unwrap() }
    }

    #[test]
    fn writes_into_a_cache_are_as_dear_as_what_was_asked_for() {
        for (is_long, expected) in [(false, (60, 0)), (true, (0, 60))] {
            let mut meter = ChatMeter::new(false, &asked_to(false, is_long));
            meter.body(br#"{"choices":[],"usage":{"prompt_tokens":100,"prompt_tokens_details":{"cache_write_tokens":60}}}"#);
            let usage = meter.counted().usage;
            assert_eq!((usage.input, (usage.cache_write_5m, usage.cache_write_1h)), (40, expected));
        }
    }

    #[test]
    fn prompt_includes_what_was_cached() {
        let mut meter = ChatMeter::new(false, &asked_to(true, false));
        assert_eq!(meter.event(br#"{"choices":[{"delta":{"content":"x"}}],"usage":null}"#), Step::Pass);
        let usage = br#"{"choices":[],"usage":{"prompt_tokens":100,"completion_tokens":7,"cost":0.0000121,
            "prompt_tokens_details":{"cached_tokens":60},"completion_tokens_details":{"reasoning_tokens":5}}}"#;
        assert_eq!(meter.event(usage), Step::Hide);
        assert_eq!(meter.event(b"[DONE]"), Step::Pass);
        let counted = meter.counted();
        assert_eq!((counted.usage.input, counted.usage.cache_read), (40, 60));
        assert_eq!((counted.usage.output, counted.usage.reasoning, counted.cost_micro), (7, 5, Some(13)));
        assert!(counted.is_complete);
    }

    #[test]
    fn call_of_a_tool_that_our_limit_cut_off_is_no_call() {
        let mut meter = ChatMeter::new(true, &asked_to(false, false));
        meter.event(br#"{"choices":[{"delta":{"tool_calls":[{"index":0}]}}]}"#);
        let end = br#"{"choices":[{"delta":{},"finish_reason":"length"}]}"#;
        assert_eq!(meter.event(end), Step::EndInstead(None));
    }

    #[test]
    fn limit_is_lowered_in_the_field_that_the_client_uses() {
        let edits_of = |body: &str, provider| {
            let request = Document::parse(body.as_bytes()).unwrap();
            let (mut changes, asked) = (Vec::new(), asked(&request).unwrap());
            edits(&request, &asked, provider, Limit { output_tokens: 50, is_lowered: true }, &mut changes);
            changes.into_iter().map(|(name, _)| name).collect::<Vec<_>>()
        };
        assert_eq!(edits_of(r#"{"model":"m"}"#, Provider::Openai), [LIMIT]);
        assert_eq!(edits_of(r#"{"model":"m"}"#, Provider::Openrouter), [OLD_LIMIT]);
        assert_eq!(edits_of(r#"{"model":"m","max_tokens":90}"#, Provider::Openai), [OLD_LIMIT]);
        assert_eq!(
            edits_of(r#"{"model":"m","stream":true,"max_completion_tokens":90}"#, Provider::Openai),
            [LIMIT, STREAM_OPTIONS]
        );
        let request =
            Document::parse(br#"{"model":"m","stream_options":{"include_obfuscation":false}}"#).unwrap();
        assert_eq!(with_usage(&request), r#"{"include_obfuscation":false,"include_usage":true}"#);
    }
}
