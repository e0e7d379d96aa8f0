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
    /// The command of `rig exec` did not start, or did not end by itself.
    Command {
        /// Stable code for programs.
        code: String,
        /// Problem and remedy.
        message: String,
    },
    /// Ctrl-C while the server goes on with the work.
    Interrupted {
        /// Work that goes on, or that is left to do.
        message: String,
    },
    /// The reader of our output has gone, so there is no one to report to.
    BrokenPipe,
}

/// Exit code that a shell reports for a program killed by SIGINT.
const SIGINT_EXIT_CODE: u8 = 128 + 2;
/// Exit code that a shell reports for a program killed by SIGPIPE.
const SIGPIPE_EXIT_CODE: u8 = 128 + 13;

impl Failure {
    pub(crate) fn new(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Reported { code: code.into(), message: message.into(), log_in: false }
    }

    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Reported { log_in: true, .. } => 2,
            Self::Reported { .. } | Self::Command { .. } => 1,
            Self::Interrupted { .. } => SIGINT_EXIT_CODE,
            Self::BrokenPipe => SIGPIPE_EXIT_CODE,
        }
    }

    /// Returns the code and the message, if there is anyone to report to.
    pub(crate) fn report(&self) -> Option<(&str, &str)> {
        match self {
            Self::Reported { code, message, .. } | Self::Command { code, message } => Some((code, message)),
            Self::Interrupted { message } => Some(("interrupted", message)),
            Self::BrokenPipe => None,
        }
    }

    /// Returns the exit code of `rig exec`: what a shell or timeout(1) reports for the command, and `failed` for all other failures.
    pub(crate) fn exec_exit_code(&self, failed: u8) -> u8 {
        match self {
            Self::Command { code, .. } => match code.as_str() {
                "not_found" => 127,
                "permission_denied" => 126,
                "timeout" => 124,
                _ => failed,
            },
            Self::Reported { .. } => failed,
            Self::Interrupted { .. } => SIGINT_EXIT_CODE,
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
    fn exec_exits_as_a_shell_does() {
        let refused = ApiError::LogIn { message: String::new() };
        assert_eq!(Failure::from(refused).exec_exit_code(125), 125);
        assert_eq!(Failure::new("not_found", "workspace `x` not found").exec_exit_code(125), 125);
        assert_eq!(Failure::BrokenPipe.exec_exit_code(125), 141);
        for (code, exit) in
            [("not_found", 127), ("permission_denied", 126), ("timeout", 124), ("agent_lost", 125)]
        {
            let failure = Failure::Command { code: code.to_owned(), message: String::new() };
            assert_eq!(failure.exec_exit_code(125), exit, "{code}");
        }
    }
}
