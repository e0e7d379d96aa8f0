//! A workspace's environment variables: what may be their names and values, and how many there may be.

use std::fmt;
use std::str::FromStr;

/// Variables of one workspace.
pub const MOST_VARIABLES: i64 = 512;
/// Bytes of all of them, each counted as in a process's environment: name, `=`, value, NUL.
pub const MOST_BYTES: i64 = 64 * 1024;
/// Bytes of a value.
pub const LONGEST_VALUE: usize = 32 * 1024;
const LONGEST_NAME: usize = 128;
/// What stands for a value wherever one is asked for.
pub const HIDDEN: &str = "***";

/// What bash sets itself and lets nobody change: a file that sets one of them cannot be read in by it.
const OF_THE_SHELL: [&str; 6] = ["BASHOPTS", "BASH_VERSINFO", "EUID", "PPID", "SHELLOPTS", "UID"];

/// A variable that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadVariable {
    /// The name is none.
    #[error(
        "`{0}` is not the name of a variable: expected 1 to {LONGEST_NAME} letters, digits and `_`, no digit first"
    )]
    Name(String),
    /// The shell has it for itself.
    #[error("`{0}` is set by the shell itself: choose another name")]
    OfTheShell(String),
    /// A value that is too long.
    #[error("the value of `{0}` is longer than {LONGEST_VALUE} bytes: put it into a file")]
    TooLong(VariableName),
    /// A value that no environment can hold.
    #[error("the value of `{0}` has a NUL byte in it, which no environment can hold")]
    Nul(VariableName),
    /// A value that was hidden, sent back.
    #[error(
        "the value of `{0}` is `{HIDDEN}`, which only stands for a hidden one: leave the variable out to keep its value"
    )]
    Hidden(VariableName),
}

/// Name of a variable: letters, digits and `_`, no digit first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VariableName(String);

impl VariableName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it may have this value.
    pub fn check_value(&self, value: &str) -> Result<(), BadVariable> {
        if value.len() > LONGEST_VALUE {
            Err(BadVariable::TooLong(self.clone()))
        } else if value.contains('\0') {
            Err(BadVariable::Nul(self.clone()))
        } else if value == HIDDEN {
            Err(BadVariable::Hidden(self.clone()))
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
    type Err = BadVariable;

    fn from_str(text: &str) -> Result<Self, BadVariable> {
        let fits = (1..=LONGEST_NAME).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
            && !text.starts_with(|first: char| first.is_ascii_digit());
        if !fits {
            return Err(BadVariable::Name(text.chars().take(64).collect()));
        }
        if OF_THE_SHELL.contains(&text) {
            return Err(BadVariable::OfTheShell(text.to_owned()));
        }
        Ok(Self(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_what_a_shell_takes() {
        for good in ["A", "_", "a1", "API_KEY", &"x".repeat(128)] {
            assert_eq!(good.parse::<VariableName>().map(|name| name.to_string()), Ok(good.to_owned()));
        }
        for bad in ["", "1A", "A-B", "A B", "A=B", "Ä", "A\n", "UID", "PPID", &"x".repeat(129)] {
            assert!(bad.parse::<VariableName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_value_is_any_text_that_an_environment_can_hold() {
        let name: VariableName = "A".parse().unwrap();
        for good in ["", "a\nb", "\"$`\\", "ä", &"x".repeat(LONGEST_VALUE)] {
            assert_eq!(name.check_value(good), Ok(()));
        }
        assert!(matches!(name.check_value("a\0b"), Err(BadVariable::Nul(_))));
        assert!(matches!(name.check_value("***"), Err(BadVariable::Hidden(_))));
        let long = name.check_value(&"secret".repeat(LONGEST_VALUE)).unwrap_err();
        assert!(!long.to_string().contains("secret"));
    }
}
