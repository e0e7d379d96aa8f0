//! What the provider is to do, as words in a request's text ask for it.

use std::time::Duration;

use serde_json::{Value, json};

use crate::tools::{Call, Tools};

/// Number of tokens of an answer that asks for no other.
const TOKENS: u64 = 8;

/// What the provider is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scenario {
    /// `[tokens:N]`: output tokens that the answer would have without a limit.
    pub tokens: u64,
    /// `[pause:MS]`: time between two events of a stream.
    pub pause: Duration,
    /// `[wait:MS]`: time before the answer begins.
    pub wait: Duration,
    /// `[long:N]`: length of a text in a response of OpenAI's that is no answer.
    pub padding: usize,
    /// `[cost:N]`: cost in millionths of a dollar, told in the usage of chat completions and responses.
    pub cost: Option<u64>,
    /// `[cut]`: the connection breaks off in the middle.
    pub is_cut: bool,
    /// `[fail]`: a stream of OpenAI's Responses API ends with an error in the middle, and without figures.
    pub fails: bool,
    /// `[tool]`: the answer calls the first tool.
    pub calls_tool: bool,
    /// `[write:PATH]`: the answer calls the tool that fits to write a file, and has only text once a tool was called.
    pub writes: Option<String>,
    /// `[endless]`: an answer that calls a tool is longer than any limit, and ends in the middle of the call.
    pub is_endless: bool,
    /// `[think]`: the answer thinks first.
    pub thinks: bool,
    /// `[status:N]`: an error of this status.
    pub status: Option<u16>,
    /// `[silent]`: no answer at all.
    pub is_silent: bool,
    /// `[gzip]`: an encoding that nobody has asked for.
    pub is_encoded: bool,
    /// `[echo]`: an error whose text has the key.
    pub echoes: bool,
    /// `[garbage]`: bytes that are no answer.
    pub is_garbage: bool,
}

impl Scenario {
    /// Finds the words in a request's body.
    #[must_use]
    pub fn of(body: &str) -> Self {
        let has = |word: &str| body.contains(&format!("[{word}]"));
        let value = |word: &str| {
            let (_, rest) = body.rsplit_once(&format!("[{word}:"))?;
            Some(rest.split_once(']')?.0)
        };
        let number = |word: &str| value(word)?.parse::<u64>().ok();
        Self {
            tokens: number("tokens").unwrap_or(TOKENS),
            pause: Duration::from_millis(number("pause").unwrap_or(0)),
            wait: Duration::from_millis(number("wait").unwrap_or(0)),
            padding: number("long").and_then(|length| usize::try_from(length).ok()).unwrap_or(0),
            cost: number("cost"),
            is_cut: has("cut"),
            fails: has("fail"),
            calls_tool: has("tool"),
            writes: value("write").map(str::to_owned),
            is_endless: has("endless"),
            thinks: has("think"),
            status: number("status").and_then(|status| u16::try_from(status).ok()),
            is_silent: has("silent"),
            is_encoded: has("gzip"),
            echoes: has("echo"),
            is_garbage: has("garbage"),
        }
    }

    /// Returns the call of a tool that is asked for.
    pub(crate) fn call(&self, tools: &Tools) -> Option<Call> {
        match &self.writes {
            Some(path) => tools.writing(path).filter(|_| !tools.has_result),
            None => tools.first().filter(|_| self.calls_tool),
        }
    }

    /// Returns the length of an answer.
    pub(crate) fn length(&self, limit: Option<u64>, call: Option<&Call>) -> Length {
        let is_endless = self.is_endless && call.is_some();
        match limit {
            Some(limit) if is_endless => Length { tokens: limit, words: limit.min(TOKENS), is_limited: true },
            Some(limit) if limit < self.tokens => Length { tokens: limit, words: limit, is_limited: true },
            _ => Length { tokens: self.tokens, words: self.tokens, is_limited: false },
        }
    }
}

/// Length of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Length {
    /// Tokens that are billed.
    pub(crate) tokens: u64,
    /// Tokens that are spelled out.
    pub(crate) words: u64,
    /// The limit has ended it.
    pub(crate) is_limited: bool,
}

/// Answer of a model, whatever the protocol.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) input: u64,
    pub(crate) length: Length,
    /// Length of a text that is no answer.
    pub(crate) padding: usize,
    /// Cost that is told, in US dollars.
    pub(crate) cost: Option<f64>,
    /// Tool that is called.
    pub(crate) call: Option<Call>,
    /// Text in place of words.
    pub(crate) text: Option<String>,
    pub(crate) thinks: bool,
    pub(crate) model: String,
    pub(crate) id: u64,
}

impl Answer {
    /// Words of the answer: one each token.
    pub(crate) fn words(&self) -> Box<dyn Iterator<Item = String>> {
        if let Some(text) = self.text.clone() {
            return Box::new(std::iter::once(text));
        }
        let word = |index| if index == 0 { "Hello".to_owned() } else { format!(" w{index}") };
        Box::new((0..self.length.words).map(word))
    }

    /// Adds the cost that is told, if one is, to the figures of use.
    pub(crate) fn with_cost(&self, mut usage: Value) -> Value {
        if let Some(cost) = self.cost {
            usage["cost"] = json!(cost);
        }
        usage
    }

    /// Tokens of the whole answer.
    pub(crate) fn output(&self) -> u64 {
        self.length.tokens
    }

    /// Arguments of a call, as far as the limit let them come.
    pub(crate) fn arguments<'a>(&self, call: &'a Call) -> &'a str {
        if self.length.is_limited { call.cut() } else { &call.arguments }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::tools::Offered;

    fn tools() -> Tools {
        let write = Offered { name: "write".into(), schema: Value::Bool(true), ..Offered::default() };
        Tools { offered: vec![write], has_result: false }
    }

    #[test]
    fn file_is_written_once() {
        let (scenario, mut tools) = (Scenario::of("[write:/made]"), tools());
        assert!(scenario.call(&tools).is_some());
        tools.has_result = true;
        assert!(scenario.call(&tools).is_none());
    }

    #[test]
    fn endless_answer_ends_at_the_limit_in_the_call() {
        let scenario = Scenario::of("[write:/made][endless]");
        let call = scenario.call(&tools()).unwrap();
        let limited = Length { tokens: 1_000_000, words: TOKENS, is_limited: true };
        assert_eq!(scenario.length(Some(1_000_000), Some(&call)), limited);
        assert!(!scenario.length(Some(1_000_000), None).is_limited, "an answer without a call");
        assert!(!scenario.length(None, Some(&call)).is_limited, "an answer without a limit");
    }
}
