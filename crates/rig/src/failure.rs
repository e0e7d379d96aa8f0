//! Failure of a command: a code for programs, a message for people, and the exit code.

use crate::api::ApiError;
use crate::config::ConfigError;

/// Failure of a command.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Reported to the user.
    Reported {
        /// Stable code for programs.
        code: String,
        /// Problem and remedy.
        message: String,
        /// True if logging in again would help.
        log_in: bool,
    },
    /// The reader of our output has gone, so there is no one to report to.
    BrokenPipe,
}

/// Exit code that a shell reports for a program killed by SIGPIPE.
const SIGPIPE_EXIT_CODE: u8 = 128 + 13;

impl Failure {
    pub(crate) fn new(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Reported { code: code.into(), message: message.into(), log_in: false }
    }

    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Reported { log_in: true, .. } => 2,
            Self::Reported { .. } => 1,
            Self::BrokenPipe => SIGPIPE_EXIT_CODE,
        }
    }

    /// Returns the exit code of `rig exec`, which uses `failed` for all failures but the command's own.
    pub(crate) fn exec_exit_code(&self, failed: u8) -> u8 {
        match self {
            Self::Reported { .. } => failed,
            Self::BrokenPipe => SIGPIPE_EXIT_CODE,
        }
    }
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        Self::Reported {
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

/// From writing to stdout.
impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::BrokenPipe => Self::BrokenPipe,
            _ => Self::new("output", format!("cannot write the output: {error}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_code_2_means_log_in_again() {
        let refused = ApiError::LogIn { message: "key revoked".to_owned() };
        assert_eq!(Failure::from(refused).exit_code(), 2);
        let unexpected = ApiError::Unexpected { message: "?".to_owned() };
        assert_eq!(Failure::from(unexpected).exit_code(), 1);
        assert_eq!(Failure::new("usage", "no").exit_code(), 1);
    }

    #[test]
    fn broken_pipe_is_not_reported() {
        let gone = std::io::Error::from(std::io::ErrorKind::BrokenPipe);
        assert!(matches!(Failure::from(gone), Failure::BrokenPipe));
        assert!(matches!(Failure::from(std::io::Error::other("disk full")), Failure::Reported { .. }));
    }

    #[test]
    fn exec_exits_with_255_on_failures_of_its_own() {
        let refused = ApiError::LogIn { message: String::new() };
        assert_eq!(Failure::from(refused).exec_exit_code(255), 255);
        assert_eq!(Failure::BrokenPipe.exec_exit_code(255), 141);
    }
}
