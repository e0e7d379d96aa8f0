//! OpenAI's Responses API.

use bytes::Bytes;
use rigbox_proto::ai::{Model, Usage};
use serde::Deserialize;
use serde_json::json;

use super::{Asked, Counted, Edit, Edits, Limit, Meter, Step, is_above, is_true, micro, model, output_limit};
use crate::json::{Document, Value};
use crate::table::Refusal;

const LIMIT: &str = "max_output_tokens";
const INCLUDE: &str = "include";
/// Fields of a request for a count.
pub(super) const COUNTED_FIELDS: [&str; 9] = [
    "model",
    "input",
    "instructions",
    "parallel_tool_calls",
    "reasoning",
    "text",
    "tool_choice",
    "tools",
    "truncation",
];
/// Names of a cache's lifetime that is not a long one, in the figures of use.
const LIFETIMES_IN_MINUTES: [&str; 2] = ["ttl_30m_tokens", "30m"];
/// Part of an answer that a reasoning model's next turn needs where the provider keeps nothing.
const ENCRYPTED_REASONING: &str = "reasoning.encrypted_content";

pub(super) fn asked(request: &Document<'_>) -> Result<Asked, Refusal> {
    let wish = Asked::of(model(request)?);
    Ok(Asked {
        output_tokens: output_limit(request.get(LIMIT), LIMIT)?,
        is_stream: is_true(request.get("stream")),
        ..wish
    })
}

pub(super) fn edits(request: &Document<'_>, model: &Model, limit: Limit, edits: &mut Edits) {
    if limit.is_lowered && is_above(request.get(LIMIT), limit) {
        edits.push((LIMIT.into(), Edit::Set(limit.output_tokens.to_string())));
    }
    if model.reasons {
        let mut include: Vec<&str> = match request.get(INCLUDE) {
            Some(Value::Array(values)) => values.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        };
        if !include.contains(&ENCRYPTED_REASONING) {
            include.push(ENCRYPTED_REASONING);
            edits.push((INCLUDE.into(), Edit::Set(json!(include).to_string())));
        }
    }
}

/// Reader of one response.
pub(super) struct ResponsesMeter {
    counted: Counted,
    is_lowered: bool,
    writes_long_cache: bool,
}

impl ResponsesMeter {
    pub(super) fn new(is_lowered: bool, writes_long_cache: bool) -> Self {
        Self { counted: Counted::default(), is_lowered, writes_long_cache }
    }

    /// Reads a response's state. Returns true if our limit has ended it.
    fn read(&mut self, response: Response) -> bool {
        if let Some(figures) = response.usage {
            let details = figures.input_tokens_details.unwrap_or_default();
            let (cached, written) = (details.cached_tokens.unwrap_or(0), details.cache_write_tokens.total());
            let long = details.long_writes().unwrap_or(if self.writes_long_cache { written } else { 0 });
            let long = long.min(written);
            self.counted.usage = Usage {
                input: figures.input_tokens.saturating_sub(cached).saturating_sub(written),
                cache_read: cached,
                cache_write_5m: written - long,
                cache_write_1h: long,
                output: figures.output_tokens,
                reasoning: figures.output_tokens_details.unwrap_or_default().reasoning_tokens.unwrap_or(0),
            };
            self.counted.has_input = true;
            self.counted.has_usage = true;
            self.counted.cost_micro = figures.cost.and_then(micro);
        }
        let reason = response.incomplete_details.and_then(|details| details.reason);
        self.is_lowered && reason.as_deref() == Some(LIMIT)
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Event {
    r#type: String,
    response: Option<Response>,
    item: Option<Item>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Item {
    r#type: String,
    status: Option<String>,
}

impl Item {
    /// Returns true for a tool's call that is not whole.
    fn is_cut_call(&self) -> bool {
        self.r#type.ends_with("_call") && self.status.as_deref() == Some("incomplete")
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Response {
    usage: Option<Figures>,
    incomplete_details: Option<IncompleteDetails>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct IncompleteDetails {
    reason: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Figures {
    input_tokens: u64,
    output_tokens: u64,
    input_tokens_details: Option<InputDetails>,
    output_tokens_details: Option<OutputDetails>,
    /// In US dollars (OpenRouter).
    cost: Option<f64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct InputDetails {
    cached_tokens: Option<u64>,
    cache_write_tokens: CacheWrites,
    cache_write_tokens_details: Option<std::collections::BTreeMap<String, Option<u64>>>,
}

impl InputDetails {
    /// Returns the tokens written into a cache for hours, where lifetimes are told apart.
    fn long_writes(&self) -> Option<u64> {
        let lifetimes: Vec<(&str, u64)> = match (&self.cache_write_tokens_details, &self.cache_write_tokens) {
            (Some(details), _) => {
                details.iter().map(|(name, number)| (&**name, number.unwrap_or(0))).collect()
            }
            (None, CacheWrites::ByLifetime(numbers)) => {
                numbers.iter().map(|(name, number)| (&**name, *number)).collect()
            }
            _ => return None,
        };
        let long = lifetimes.into_iter().filter(|(name, _)| !LIFETIMES_IN_MINUTES.contains(name));
        Some(long.fold(0, |sum, (_, number)| sum.saturating_add(number)))
    }
}

/// A number, or numbers by lifetime.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum CacheWrites {
    Number(u64),
    ByLifetime(std::collections::BTreeMap<String, u64>),
    Other(serde::de::IgnoredAny),
}

impl Default for CacheWrites {
    fn default() -> Self {
        Self::Number(0)
    }
}

impl CacheWrites {
    fn total(&self) -> u64 {
        match self {
            Self::Number(number) => *number,
            Self::ByLifetime(numbers) => {
                numbers.values().fold(0, |sum: u64, number| sum.saturating_add(*number))
            }
            Self::Other(_) => 0,
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct OutputDetails {
    reasoning_tokens: Option<u64>,
}

/// Returns the event of a response that failed for want of credits, in place of one that is incomplete.
fn failed(data: &[u8]) -> Option<Bytes> {
    let mut event: serde_json::Value = serde_json::from_slice(data).ok()?;
    let response = event.get_mut("response")?.as_object_mut()?;
    response.insert("status".into(), "failed".into());
    response.insert("incomplete_details".into(), serde_json::Value::Null);
    response
        .insert("error".into(), json!({"code": "insufficient_quota", "message": crate::pump::LIMIT_MESSAGE}));
    event.as_object_mut()?.insert("type".into(), "response.failed".into());
    Some(Bytes::from(format!("event: response.failed\ndata: {event}\n\n")))
}

impl Meter for ResponsesMeter {
    fn event(&mut self, data: &[u8]) -> Step {
        // Few events have the response in them, and the others need not be read twice.
        let Ok(event) = serde_json::from_slice::<Event>(data) else { return Step::Pass };
        let is_end =
            matches!(event.r#type.as_str(), "response.completed" | "response.incomplete" | "response.failed");
        let is_error = event.r#type == "error";
        self.counted.is_complete |= is_end || is_error;
        self.counted.has_failed |= is_error || event.r#type == "response.failed";
        if let Some(response) = event.response
            && self.read(response)
            && is_end
        {
            return Step::EndInstead(failed(data));
        }
        // Codex runs the part of a program that it has got, before it hears that the response has failed.
        let is_cut_call = event.item.is_some_and(|item| item.is_cut_call());
        if self.is_lowered && is_cut_call { Step::Hide } else { Step::Pass }
    }

    fn body(&mut self, body: &[u8]) -> bool {
        let Ok(response) = serde_json::from_slice::<Response>(body) else { return false };
        self.counted.is_complete = true;
        self.read(response)
    }

    fn counted(&self) -> &Counted {
        &self.counted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const END: &[u8] =
        br#"{"type":"response.incomplete","sequence_number":9,"response":{"id":"r","status":"incomplete",
        "incomplete_details":{"reason":"max_output_tokens"},"usage":{"input_tokens":50,"output_tokens":8,
        "input_tokens_details":{"cached_tokens":20,"cache_write_tokens":{"30m":5}},
        "output_tokens_details":{"reasoning_tokens":6}}}}"#;

    #[test]
    fn what_our_limit_ended_fails() {
        let mut meter = ResponsesMeter::new(true, false);
        let Step::EndInstead(Some(event)) = meter.event(END) else { panic!("it passes") };
        let text = String::from_utf8(event.to_vec()).unwrap();
        assert!(
            text.starts_with("event: response.failed\n") && text.contains("insufficient_quota"),
            "{text}"
        );
        assert!(text.contains(r#""sequence_number":9"#));
        let usage = meter.counted().usage;
        assert_eq!((usage.input, usage.cache_read, usage.cache_write_5m), (25, 20, 5));
        assert_eq!((usage.output, usage.reasoning), (8, 6));
        assert_eq!(ResponsesMeter::new(false, false).event(END), Step::Pass);
    }

    #[test]
    fn writes_into_a_long_cache_have_a_price_of_their_own() {
        let writes = |is_long_asked: bool, details: &str| {
            let body = format!(
                r#"{{"usage":{{"input_tokens":100,"output_tokens":1,"input_tokens_details":{{"cached_tokens":10,{details}}}}}}}"#
            );
            let mut meter = ResponsesMeter::new(false, is_long_asked);
            meter.body(body.as_bytes());
            let usage = meter.counted().usage;
            (usage.input, usage.cache_write_5m, usage.cache_write_1h)
        };
        let told = r#""cache_write_tokens":50,"cache_write_tokens_details":{"ttl_12h_tokens":20,"ttl_30m_tokens":30}"#;
        assert_eq!(writes(true, told), (40, 30, 20));
        assert_eq!(writes(false, told), (40, 30, 20));
        assert_eq!(writes(false, r#""cache_write_tokens":{"30m":30,"12h":20}"#), (40, 30, 20));
        // Where it is not told, what was asked for counts.
        assert_eq!(writes(true, r#""cache_write_tokens":50"#), (40, 0, 50));
        assert_eq!(
            writes(false, r#""cache_write_tokens":50,"cache_write_tokens_details":null"#),
            (40, 50, 0)
        );
    }

    #[test]
    fn call_of_a_tool_that_our_limit_cut_off_is_hidden() {
        let done = |status: &str| {
            let item =
                format!(r#"{{"type":"custom_tool_call","name":"exec","input":"run()","status":"{status}"}}"#);
            format!(r#"{{"type":"response.output_item.done","output_index":1,"item":{item}}}"#)
        };
        assert_eq!(ResponsesMeter::new(true, false).event(done("incomplete").as_bytes()), Step::Hide);
        assert_eq!(ResponsesMeter::new(true, false).event(done("completed").as_bytes()), Step::Pass);
        // A limit of the client's own is no matter of ours.
        assert_eq!(ResponsesMeter::new(false, false).event(done("incomplete").as_bytes()), Step::Pass);
    }

    #[test]
    fn reasoning_comes_back_encrypted_because_nothing_is_kept() {
        let request =
            Document::parse(br#"{"model":"m","include":["message.output_text.logprobs"]}"#).unwrap();
        let (mut changes, limit) = (Vec::new(), Limit { output_tokens: 1, is_lowered: false });
        edits(&request, &Model { reasons: true, ..Model::default() }, limit, &mut changes);
        let expected = Edit::Set(r#"["message.output_text.logprobs","reasoning.encrypted_content"]"#.into());
        assert_eq!(changes, [("include".to_owned(), expected)]);
        changes.clear();
        edits(&request, &Model::default(), limit, &mut changes);
        assert_eq!(changes, []);
    }
}
