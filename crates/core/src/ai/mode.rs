//! Modes of AI calls, and which of them holds for a workspace.

use std::str::FromStr;

/// Keys with which the calls of a workspace are made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum AiMode {
    /// The operator's keys, for credits.
    #[default]
    Managed,
    /// The user's own key.
    Byok,
}

/// Error for a text that is not a mode.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a valid AI mode. Use managed or byok.")]
pub struct InvalidMode(String);

impl AiMode {
    /// Returns the wire name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Managed => "managed",
            Self::Byok => "byok",
        }
    }
}

impl FromStr for AiMode {
    type Err = InvalidMode;

    fn from_str(text: &str) -> Result<Self, InvalidMode> {
        let mut modes = [Self::Managed, Self::Byok].into_iter();
        modes.find(|mode| mode.as_str() == text).ok_or_else(|| InvalidMode(text.chars().take(64).collect()))
    }
}
