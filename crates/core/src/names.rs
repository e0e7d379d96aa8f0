//! Names that people give.

use std::fmt;
use std::str::FromStr;

const LONGEST: usize = 40;

/// A workspace's name, unique per user. It also becomes the guest's host name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkspaceName(String);

/// A text that is no workspace name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a workspace name: expected 1 to 40 characters of a-z, 0-9 and `-`")]
pub struct BadName(String);

impl WorkspaceName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for WorkspaceName {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        let fits = (1..=LONGEST).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if fits { Ok(Self(text.to_owned())) } else { Err(BadName(text.chars().take(64).collect())) }
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
    fn names_are_short_lower_case_and_plain() {
        for good in ["a", "web-1", "0", "-", &"x".repeat(40)] {
            assert_eq!(good.parse::<WorkspaceName>().map(|n| n.to_string()).as_deref(), Ok(good));
        }
        for bad in ["", "A", "a_b", "a b", "ä", "a/b", "a\n", &"x".repeat(41)] {
            assert!(bad.parse::<WorkspaceName>().is_err(), "{bad:?}");
        }
    }
}
