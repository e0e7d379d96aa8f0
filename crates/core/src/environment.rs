//! Environment variables of a workspace: valid names and values, and their limits.

use std::fmt;
use std::str::FromStr;

/// Maximum number of variables of one workspace.
pub const MAX_VARIABLES: i64 = 512;
/// Maximum size of all variables in bytes, each counted as in a process's environment: name, `=`, value, NUL.
pub const MAX_TOTAL_BYTES: i64 = 64 * 1024;
/// Maximum length of a value in characters.
pub const MAX_VALUE_LEN: usize = 32 * 1024;
const MAX_NAME_LEN: usize = 128;
/// Replacement for values in responses.
pub const MASKED_VALUE: &str = "***";

/// Variables that bash sets itself and that are read-only: sourcing a file that sets one of them fails.
pub const RESERVED_VARIABLES: [&str; 6] = ["BASHOPTS", "BASH_VERSINFO", "EUID", "PPID", "SHELLOPTS", "UID"];

/// Error for an invalid variable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidVariable {
    /// Invalid name.
    #[error(
        "`{0}` is not a valid variable name. Use 1 to {MAX_NAME_LEN} letters, digits and `_`, not starting with a digit."
    )]
    Name(String),
    /// Read-only in the shell.
    #[error("`{0}` is reserved by the shell. Choose another name.")]
    ReservedByShell(String),
    /// Value too long.
    #[error("The value of `{0}` is longer than {MAX_VALUE_LEN} characters. Store it in a file instead.")]
    TooLong(VariableName),
    /// NUL byte in the value.
    #[error("The value of `{0}` contains a NUL byte, which environment variables cannot hold.")]
    Nul(VariableName),
    /// The mask of a hidden value, sent back.
    #[error("The value of `{0}` is the placeholder `{MASKED_VALUE}`. Omit the variable to keep its value.")]
    Masked(VariableName),
}

/// Variable name: letters, digits and `_`, not starting with a digit.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VariableName(String);

impl VariableName {
    /// Returns the name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Checks that the variable can have this value.
    pub fn check_value(&self, value: &str) -> Result<(), InvalidVariable> {
        if value.chars().count() > MAX_VALUE_LEN {
            Err(InvalidVariable::TooLong(self.clone()))
        } else if value.contains('\0') {
            Err(InvalidVariable::Nul(self.clone()))
        } else if value == MASKED_VALUE {
            Err(InvalidVariable::Masked(self.clone()))
        } else {
            Ok(())
        }
    }
}

impl fmt::Display for VariableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for VariableName {
    type Err = InvalidVariable;

    fn from_str(text: &str) -> Result<Self, InvalidVariable> {
        let fits = (1..=MAX_NAME_LEN).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
            && !text.starts_with(|first: char| first.is_ascii_digit());
        if !fits {
            return Err(InvalidVariable::Name(text.chars().take(64).collect()));
        }
        if RESERVED_VARIABLES.contains(&text) {
            return Err(InvalidVariable::ReservedByShell(text.to_owned()));
        }
        Ok(Self(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn valid_name_is_accepted_by_the_shell() {
        for good in ["A", "_", "a1", "API_KEY", &"x".repeat(128)] {
            assert_eq!(good.parse::<VariableName>().map(|name| name.to_string()), Ok(good.to_owned()));
        }
        for bad in ["", "1A", "A-B", "A B", "A=B", "Ä", "A\n", "UID", "PPID", &"x".repeat(129)] {
            assert!(bad.parse::<VariableName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn value_is_any_text_that_an_environment_can_hold() {
        let name: VariableName = "A".parse().unwrap();
        for good in ["", "a\nb", "\"$`\\", "ä", &"x".repeat(MAX_VALUE_LEN)] {
            assert_eq!(name.check_value(good), Ok(()));
        }
        assert!(matches!(name.check_value("a\0b"), Err(InvalidVariable::Nul(_))));
        assert!(matches!(name.check_value("***"), Err(InvalidVariable::Masked(_))));
        let long = name.check_value(&"secret".repeat(MAX_VALUE_LEN)).unwrap_err();
        assert!(!long.to_string().contains("secret"));
    }
}
