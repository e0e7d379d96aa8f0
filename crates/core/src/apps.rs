//! What apps are called, and what they may be made of.

use std::fmt;
use std::str::FromStr;

const SHORTEST: usize = 3;
const LONGEST: usize = 40;

/// Names that somebody could take for the platform's own.
const RESERVED: [&str; 28] = [
    "abuse",
    "account",
    "accounts",
    "admin",
    "api",
    "app",
    "apps",
    "auth",
    "billing",
    "console",
    "dashboard",
    "docs",
    "edge",
    "help",
    "login",
    "mail",
    "oauth",
    "postmaster",
    "rigbox",
    "root",
    "security",
    "sign-in",
    "ssh",
    "static",
    "status",
    "support",
    "webmaster",
    "www",
];

/// An app's name: the label before the apps' domain, so unique in the installation.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AppName(String);

/// A text that is no app name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadAppName {
    /// Not what a host name's label may be.
    #[error(
        "`{0}` is not an app name: expected 3 to 40 characters of a-z, 0-9 and `-`, with a letter or digit at both ends, and no `--` as third and fourth"
    )]
    Malformed(String),
    /// Kept back.
    #[error("`{0}` is reserved: choose another name")]
    Reserved(String),
}

impl AppName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for AppName {
    type Err = BadAppName;

    fn from_str(text: &str) -> Result<Self, BadAppName> {
        // `xn--` and the like begin names that browsers show as something else (RFC 5890).
        if !(SHORTEST..=LONGEST).contains(&text.len()) || !is_label(text) || text.get(2..4) == Some("--") {
            return Err(BadAppName::Malformed(text.chars().take(64).collect()));
        }
        if RESERVED.contains(&text) {
            return Err(BadAppName::Reserved(text.to_owned()));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for AppName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A domain that somebody brings for an app: a host name in lower case, without a dot at its end (RFC 1123).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CustomDomain(String);

/// A text that is no such domain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a domain: expected a host name such as app.example.org")]
pub struct BadDomain(String);

impl CustomDomain {
    /// The host name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is `parent` or lies below it.
    pub fn is_within(&self, parent: &str) -> bool {
        self.0.strip_suffix(parent).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    }
}

impl FromStr for CustomDomain {
    type Err = BadDomain;

    fn from_str(text: &str) -> Result<Self, BadDomain> {
        let name = text.to_ascii_lowercase();
        let labels: Vec<&str> = name.split('.').collect();
        // An address is no name: the last label of a name is never a number.
        let top_is_name = labels.last().is_some_and(|top| top.bytes().any(|byte| byte.is_ascii_lowercase()));
        if name.len() <= 253 && labels.len() >= 2 && top_is_name && labels.iter().all(|label| is_label(label))
        {
            Ok(Self(name))
        } else {
            Err(BadDomain(text.chars().take(64).collect()))
        }
    }
}

impl fmt::Display for CustomDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn is_label(label: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    (1..=63).contains(&label.len())
        && label.bytes().all(|byte| plain(byte) || byte == b'-')
        && !label.starts_with('-')
        && !label.ends_with('-')
}

/// Whether an app is something that listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AppKind {
    /// It has a port.
    Service,
    /// A program to be run in the workspace: nothing of it is reached from outside.
    Cli,
}

impl AppKind {
    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Service => "service",
            Self::Cli => "cli",
        }
    }
}

/// A text that is no kind of app.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a kind of app: expected service or cli")]
pub struct BadKind(String);

impl FromStr for AppKind {
    type Err = BadKind;

    fn from_str(text: &str) -> Result<Self, BadKind> {
        [Self::Service, Self::Cli]
            .into_iter()
            .find(|kind| kind.as_str() == text)
            .ok_or_else(|| BadKind(text.chars().take(64).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_apps_name_is_a_label_that_nobody_takes_for_ours() {
        for good in ["web", "my-app-1", "007", &"x".repeat(40)] {
            assert_eq!(good.parse::<AppName>().map(|name| name.to_string()).as_deref(), Ok(good));
        }
        for bad in ["", "ab", "Web", "a_b", "-web", "web-", "a.b", "xn--abc", "ab--c", &"x".repeat(41), "wéb"]
        {
            assert!(matches!(bad.parse::<AppName>(), Err(BadAppName::Malformed(_))), "{bad}");
        }
        for reserved in ["api", "www", "console"] {
            assert!(matches!(reserved.parse::<AppName>(), Err(BadAppName::Reserved(_))), "{reserved}");
        }
    }

    #[test]
    fn a_custom_domain_is_a_whole_host_name() {
        for good in ["app.example.org", "a-1.b.co", "APP.Example.org", "xn--bcher-kva.example"] {
            let domain: CustomDomain = good.parse().unwrap();
            assert_eq!(domain.as_str(), good.to_ascii_lowercase());
        }
        let long = format!("{}.org", "a".repeat(64));
        for bad in ["", "localhost", "1.2.3.4", "a..b", "a.b.", "a.b:80", "*.a.b", "a_b.c", "a/b.c", &long] {
            assert!(bad.parse::<CustomDomain>().is_err(), "{bad}");
        }
        let domain: CustomDomain = "web.rigbox.example".parse().unwrap();
        assert!(domain.is_within("rigbox.example") && domain.is_within("web.rigbox.example"));
        assert!(!domain.is_within("box.example") && !domain.is_within("x.web.rigbox.example"));
    }
}
