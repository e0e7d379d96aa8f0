//! What the provider is to do, as words in a request's text ask for it.

use std::time::Duration;

/// Number of tokens of an answer that asks for no other.
const TOKENS: u64 = 8;

/// What the provider is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scenario {
    /// `[tokens:N]`: output tokens that the answer would have without a limit.
    pub tokens: u64,
    /// `[pause:MS]`: time between two events of a stream.
    pub pause: Duration,
    /// `[cut]`: the connection breaks off in the middle.
    pub is_cut: bool,
    /// `[tool]`: the answer calls the first tool.
    pub calls_tool: bool,
    /// `[think]`: the answer thinks first.
    pub thinks: bool,
    /// `[status:N]`: an error of this status.
    pub status: Option<u16>,
    /// `[silent]`: no answer at all.
    pub is_silent: bool,
    /// `[gzip]`: an encoding that nobody has asked for.
    pub is_encoded: bool,
    /// `[garbage]`: bytes that are no answer.
    pub is_garbage: bool,
}

impl Scenario {
    /// Finds the words in a request's body.
    #[must_use]
    pub fn of(body: &str) -> Self {
        let has = |word: &str| body.contains(&format!("[{word}]"));
        let number = |word: &str| {
            let (_, rest) = body.rsplit_once(&format!("[{word}:"))?;
            rest.split_once(']')?.0.parse::<u64>().ok()
        };
        Self {
            tokens: number("tokens").unwrap_or(TOKENS),
            pause: Duration::from_millis(number("pause").unwrap_or(0)),
            is_cut: has("cut"),
            calls_tool: has("tool"),
            thinks: has("think"),
            status: number("status").and_then(|status| u16::try_from(status).ok()),
            is_silent: has("silent"),
            is_encoded: has("gzip"),
            is_garbage: has("garbage"),
        }
    }
}

/// Answer of a model, whatever the protocol.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) input: u64,
    /// Tokens of the answer, after the limit.
    pub(crate) output: u64,
    pub(crate) is_limited: bool,
    /// Name of the tool that is called.
    pub(crate) tool: Option<String>,
    pub(crate) thinks: bool,
    pub(crate) model: String,
    pub(crate) id: u64,
}

impl Answer {
    /// Words of the answer: one each token.
    pub(crate) fn words(&self) -> impl Iterator<Item = String> + use<> {
        (0..self.output).map(|index| if index == 0 { "Hello".to_owned() } else { format!(" w{index}") })
    }

    /// Argument that a tool is called with, as JSON.
    pub(crate) fn arguments(&self) -> String {
        serde_json::json!({"path": "/home/developer/made-by-tool", "content": "made\n"}).to_string()
    }
}
