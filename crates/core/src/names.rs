//! Names given by users.

use std::fmt;
use std::str::FromStr;

use crate::ids::WorkspaceId;

const MAX_NAME_LEN: usize = 40;

/// Workspace name, unique per user. Also the guest's host name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkspaceName(String);

/// Error for a text that is not a workspace name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a valid workspace name. Use 1 to 40 characters (a-z, 0-9 and `-`), with a letter or digit at both ends, and not the form of an id (`ws-` and 8 characters)."
)]
pub struct InvalidName(String);

impl WorkspaceName {
    /// Parses the name of a new workspace. It can be taken neither for an option nor for an id, which older names could.
    pub fn for_new(text: &str) -> Result<Self, InvalidName> {
        let is_ambiguous =
            text.starts_with('-') || text.ends_with('-') || text.parse::<WorkspaceId>().is_ok();
        if is_ambiguous { Err(InvalidName(text.chars().take(64).collect())) } else { text.parse() }
    }

    /// Returns the name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for WorkspaceName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let fits = (1..=MAX_NAME_LEN).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if fits { Ok(Self(text.to_owned())) } else { Err(InvalidName(text.chars().take(64).collect())) }
    }
}

impl fmt::Display for WorkspaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workspace_names_are_short_lower_case_labels() {
        for good in ["a", "web-1", "0", "-", &"x".repeat(40)] {
            assert_eq!(good.parse::<WorkspaceName>().map(|n| n.to_string()).as_deref(), Ok(good));
        }
        for bad in ["", "A", "a_b", "a b", "ä", "a/b", "a\n", &"x".repeat(41)] {
            assert!(bad.parse::<WorkspaceName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn new_name_is_neither_an_option_nor_an_id() {
        for good in ["a", "web-1", "ws", "ws-1", "ws-abcdefg", "ws-abcdefg1", "ap-abcdefgh"] {
            assert!(WorkspaceName::for_new(good).is_ok(), "{good}");
        }
        for bad in ["", "-", "-n", "n-", "ws-abcdefg2", "A"] {
            assert!(WorkspaceName::for_new(bad).is_err(), "{bad}");
        }
    }
}
