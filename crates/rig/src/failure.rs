//! How a command fails: a code for programs, a text with the remedy for people, and the exit code.

use crate::api::ApiError;
use crate::config::ConfigError;

/// Why a command did not do what it was asked.
#[derive(Debug)]
pub(crate) enum Failure {
    /// To be told.
    Told {
        /// Stable, for programs.
        code: String,
        /// What is wrong, and what to do.
        message: String,
        /// Whether logging in again would help.
        log_in: bool,
    },
    /// Nobody reads our output any more, so nobody is told.
    NobodyReads,
}

/// As a shell has it for a program that SIGPIPE ended.
const BROKEN_PIPE: u8 = 128 + 13;

impl Failure {
    pub(crate) fn new(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Told { code: code.into(), message: message.into(), log_in: false }
    }

    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Told { log_in: true, .. } => 2,
            Self::Told { .. } => 1,
            Self::NobodyReads => BROKEN_PIPE,
        }
    }

    /// `exec` has a code of its own for all that is not the command's.
    pub(crate) fn exit_code_of_exec(&self, failed: u8) -> u8 {
        match self {
            Self::Told { .. } => failed,
            Self::NobodyReads => BROKEN_PIPE,
        }
    }
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        Self::Told {
            code: error.code().to_owned(),
            message: error.to_string(),
            log_in: matches!(error, ApiError::LogIn { .. }),
        }
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::new("bad_config", error.to_string())
    }
}

/// Of writing to stdout.
impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::BrokenPipe => Self::NobodyReads,
            _ => Self::new("output", format!("the output cannot be written: {error}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_is_for_logging_in_again_and_nothing_else() {
        let refused = ApiError::LogIn { message: "key revoked".to_owned() };
        assert_eq!(Failure::from(refused).exit_code(), 2);
        let strange = ApiError::Strange { message: "?".to_owned() };
        assert_eq!(Failure::from(strange).exit_code(), 1);
        assert_eq!(Failure::new("usage", "no").exit_code(), 1);
    }

    #[test]
    fn a_reader_that_went_away_is_not_told_of() {
        let gone = std::io::Error::from(std::io::ErrorKind::BrokenPipe);
        assert!(matches!(Failure::from(gone), Failure::NobodyReads));
        assert!(matches!(Failure::from(std::io::Error::other("disk full")), Failure::Told { .. }));
    }

    #[test]
    fn what_is_not_the_commands_own_end_is_255_in_exec() {
        let refused = ApiError::LogIn { message: String::new() };
        assert_eq!(Failure::from(refused).exit_code_of_exec(255), 255);
        assert_eq!(Failure::NobodyReads.exit_code_of_exec(255), 141);
    }
}
