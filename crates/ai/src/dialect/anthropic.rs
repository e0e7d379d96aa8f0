//! Anthropic's Messages API.

use serde::Deserialize;

use super::{Asked, Counted, Edit, Edits, Limit, Meter, Step, count, is_above, is_true, model};
use crate::json::Document;
use crate::table::Refusal;

const LIMIT: &str = "max_tokens";
/// Fields of a request for a count.
pub(super) const COUNTED_FIELDS: [&str; 8] = [
    "model",
    "messages",
    "system",
    "tools",
    "tool_choice",
    "thinking",
    "output_config",
    "context_management",
];

pub(super) fn asked(request: &Document<'_>) -> Result<Asked, Refusal> {
    let thinking = request.get("thinking").and_then(|thinking| thinking.get("budget_tokens"));
    let wish = Asked::of(model(request)?);
    Ok(Asked {
        // One of 0 is no limit elsewhere, and here asks for a cache to be filled.
        output_tokens: count(request.get(LIMIT), LIMIT)?,
        thinking_tokens: count(thinking, "thinking.budget_tokens")?,
        is_stream: is_true(request.get("stream")),
        ..wish
    })
}

pub(super) fn edits(request: &Document<'_>, limit: Limit, edits: &mut Edits) {
    if limit.is_lowered && is_above(request.get(LIMIT), limit) {
        edits.push((LIMIT.into(), Edit::Set(limit.output_tokens.to_string())));
    }
}

/// Reader of one response.
pub(super) struct AnthropicMeter {
    counted: Counted,
    figures: Figures,
    is_lowered: bool,
    /// The last block of content is a call of a tool.
    is_tool_open: bool,
}

impl AnthropicMeter {
    pub(super) fn new(is_lowered: bool) -> Self {
        Self { counted: Counted::default(), figures: Figures::default(), is_lowered, is_tool_open: false }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Event {
    r#type: String,
    message: Option<Message>,
    content_block: Option<Block>,
    delta: Option<Delta>,
    usage: Option<Figures>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Message {
    usage: Option<Figures>,
    stop_reason: Option<String>,
    /// Of `count_tokens`.
    input_tokens: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Block {
    r#type: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Delta {
    stop_reason: Option<String>,
}

/// Figures of a whole message. Those of a stream's end are cumulative, and each replaces the one before.
#[derive(Debug, Default, Clone, Deserialize)]
#[serde(default)]
struct Figures {
    input_tokens: Option<u64>,
    output_tokens: Option<u64>,
    cache_read_input_tokens: Option<u64>,
    cache_creation_input_tokens: Option<u64>,
    cache_creation: Option<CacheCreation>,
    iterations: Option<Vec<Iteration>>,
}

#[derive(Debug, Default, Clone, Deserialize)]
#[serde(default)]
struct CacheCreation {
    ephemeral_5m_input_tokens: u64,
    ephemeral_1h_input_tokens: u64,
}

/// Part of a message's making. What a compaction took is in no sum.
#[derive(Debug, Default, Clone, Deserialize)]
#[serde(default)]
struct Iteration {
    r#type: String,
    input_tokens: u64,
    output_tokens: u64,
    cache_read_input_tokens: u64,
    cache_creation_input_tokens: u64,
    cache_creation: Option<CacheCreation>,
}

/// Returns the tokens written into a cache for some minutes and for an hour. The sum counts where it is not split.
fn writes(sum: u64, split: Option<&CacheCreation>) -> (u64, u64) {
    let (minutes, an_hour) =
        split.map_or((0, 0), |split| (split.ephemeral_5m_input_tokens, split.ephemeral_1h_input_tokens));
    (minutes.max(sum.saturating_sub(an_hour)), an_hour)
}

impl Figures {
    fn merge(&mut self, newer: Self) {
        self.input_tokens = newer.input_tokens.or(self.input_tokens);
        self.output_tokens = newer.output_tokens.or(self.output_tokens);
        self.cache_read_input_tokens = newer.cache_read_input_tokens.or(self.cache_read_input_tokens);
        self.cache_creation_input_tokens =
            newer.cache_creation_input_tokens.or(self.cache_creation_input_tokens);
        self.cache_creation = newer.cache_creation.or(self.cache_creation.take());
        self.iterations = newer.iterations.or(self.iterations.take());
    }

    fn usage(&self) -> rigbox_proto::ai::Usage {
        let written = self.cache_creation_input_tokens.unwrap_or(0);
        let (minutes, an_hour) = writes(written, self.cache_creation.as_ref());
        let mut usage = rigbox_proto::ai::Usage {
            input: self.input_tokens.unwrap_or(0),
            cache_read: self.cache_read_input_tokens.unwrap_or(0),
            cache_write_5m: minutes,
            cache_write_1h: an_hour,
            output: self.output_tokens.unwrap_or(0),
            reasoning: 0,
        };
        for iteration in self.iterations.iter().flatten().filter(|iteration| iteration.r#type == "compaction")
        {
            usage.input = usage.input.saturating_add(iteration.input_tokens);
            usage.output = usage.output.saturating_add(iteration.output_tokens);
            usage.cache_read = usage.cache_read.saturating_add(iteration.cache_read_input_tokens);
            let (minutes, an_hour) =
                writes(iteration.cache_creation_input_tokens, iteration.cache_creation.as_ref());
            usage.cache_write_5m = usage.cache_write_5m.saturating_add(minutes);
            usage.cache_write_1h = usage.cache_write_1h.saturating_add(an_hour);
        }
        usage
    }
}

impl Meter for AnthropicMeter {
    fn event(&mut self, data: &[u8]) -> Step {
        let Ok(event) = serde_json::from_slice::<Event>(data) else { return Step::Pass };
        if let Some(usage) = event.message.and_then(|message| message.usage).or(event.usage) {
            self.counted.has_input |= usage.input_tokens.is_some();
            self.counted.has_usage |= event.r#type == "message_delta";
            self.figures.merge(usage);
            self.counted.usage = self.figures.usage();
        }
        if let Some(block) = event.content_block {
            self.is_tool_open = block.r#type == "tool_use";
        }
        self.counted.is_complete |= event.r#type == "message_stop";
        let is_cut = event.delta.and_then(|delta| delta.stop_reason).is_some_and(|reason| reason == LIMIT);
        if is_cut && self.is_lowered && self.is_tool_open { Step::EndInstead(None) } else { Step::Pass }
    }

    fn body(&mut self, body: &[u8]) -> bool {
        let Ok(message) = serde_json::from_slice::<Message>(body) else { return false };
        if let Some(usage) = message.usage {
            self.counted.usage = usage.usage();
            self.counted.has_input = true;
            self.counted.has_usage = true;
        }
        self.counted.is_complete = true;
        self.counted.has_usage |= message.input_tokens.is_some();
        self.is_lowered && message.stop_reason.is_some_and(|reason| reason == LIMIT)
    }

    fn counted(&self) -> &Counted {
        &self.counted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(is_lowered: bool, events: &[&str]) -> (Counted, Vec<Step>) {
        let mut meter = AnthropicMeter::new(is_lowered);
        let steps = events.iter().map(|data| meter.event(data.as_bytes())).collect();
        (meter.counted, steps)
    }

    #[test]
    fn figures_of_a_stream_are_merged_and_not_added() {
        let (counted, _) = read(
            false,
            &[
                r#"{"type":"message_start","message":{"usage":{"input_tokens":9,"cache_creation_input_tokens":30,
                "cache_read_input_tokens":5,"cache_creation":{"ephemeral_5m_input_tokens":10,"ephemeral_1h_input_tokens":20},
                "output_tokens":1}}}"#,
                r#"{"type":"ping"}"#,
                r#"{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":40}}"#,
                r#"{"type":"message_stop"}"#,
            ],
        );
        let usage = counted.usage;
        assert_eq!(
            (usage.input, usage.cache_read, usage.cache_write_5m, usage.cache_write_1h),
            (9, 5, 10, 20)
        );
        assert_eq!(usage.output, 40);
        assert!(counted.is_complete && counted.has_usage);
    }

    #[test]
    fn compaction_is_added_to_the_sums() {
        let (counted, _) = read(
            false,
            &[r#"{"type":"message_delta","usage":{"input_tokens":10,"output_tokens":4,"iterations":[
                {"type":"compaction","input_tokens":1000,"output_tokens":300,"cache_creation_input_tokens":70,
                "cache_creation":{"ephemeral_5m_input_tokens":20,"ephemeral_1h_input_tokens":50}},
                {"type":"message","input_tokens":10,"output_tokens":4}]}}"#],
        );
        assert_eq!((counted.usage.input, counted.usage.output), (1010, 304));
        assert_eq!((counted.usage.cache_write_5m, counted.usage.cache_write_1h), (20, 50));
        assert!(!counted.is_complete);
    }

    #[test]
    fn call_of_a_tool_that_our_limit_cut_off_is_no_call() {
        let tool = r#"{"type":"content_block_start","content_block":{"type":"tool_use"}}"#;
        let text = r#"{"type":"content_block_start","content_block":{"type":"text"}}"#;
        let end = r#"{"type":"message_delta","delta":{"stop_reason":"max_tokens"}}"#;
        assert_eq!(read(true, &[tool, end]).1.last(), Some(&Step::EndInstead(None)));
        assert_eq!(read(true, &[tool, text, end]).1.last(), Some(&Step::Pass));
        assert_eq!(read(false, &[tool, end]).1.last(), Some(&Step::Pass));
        let mut meter = AnthropicMeter::new(true);
        assert!(meter.body(br#"{"stop_reason":"max_tokens","usage":{"input_tokens":1,"output_tokens":2}}"#));
    }
}
