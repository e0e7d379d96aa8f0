//! Names, domains and kinds of apps.

use std::fmt;
use std::str::FromStr;

use crate::ids::AppId;

const MIN_NAME_LEN: usize = 3;
const MAX_NAME_LEN: usize = 40;

/// Names that could be mistaken for the platform's own.
pub const RESERVED_NAMES: [&str; 28] = [
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

/// App name: the label before the apps domain, so unique within the installation.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AppName(String);

/// Error for a text that is not an app name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidAppName {
    /// Not a valid DNS label.
    #[error(
        "`{0}` is not a valid app name. Use 3 to 40 characters (a-z, 0-9 and `-`), with a letter or digit at both ends and no `--` in third and fourth position."
    )]
    Malformed(String),
    /// Reserved for the platform.
    #[error("`{0}` is a reserved name. Choose another one.")]
    Reserved(String),
    /// Could be taken for an id.
    #[error("`{0}` has the form of an app id. Choose another name.")]
    LooksLikeId(String),
}

impl AppName {
    /// Parses a name that an app is given. It cannot be taken for an id, which older names could.
    pub fn for_new(text: &str) -> Result<Self, InvalidAppName> {
        if text.parse::<AppId>().is_ok() {
            return Err(InvalidAppName::LooksLikeId(text.to_owned()));
        }
        text.parse()
    }

    /// Returns the name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for AppName {
    type Err = InvalidAppName;

    fn from_str(text: &str) -> Result<Self, InvalidAppName> {
        // Browsers display names with prefixes such as `xn--` as something else (RFC 5890).
        if !(MIN_NAME_LEN..=MAX_NAME_LEN).contains(&text.len())
            || !is_label(text)
            || text.get(2..4) == Some("--")
        {
            return Err(InvalidAppName::Malformed(text.chars().take(64).collect()));
        }
        if RESERVED_NAMES.contains(&text) {
            return Err(InvalidAppName::Reserved(text.to_owned()));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for AppName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Custom domain of an app: a host name in lower case without a trailing dot (RFC 1123).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CustomDomain(String);

/// Error for a text that is not a custom domain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a valid domain. Use a host name such as app.example.org.")]
pub struct InvalidDomain(String);

impl CustomDomain {
    /// Returns the host name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns whether the domain equals `parent` or is a subdomain of it.
    pub fn is_within(&self, parent: &str) -> bool {
        self.0.strip_suffix(parent).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    }
}

impl FromStr for CustomDomain {
    type Err = InvalidDomain;

    fn from_str(text: &str) -> Result<Self, InvalidDomain> {
        let name = text.to_ascii_lowercase();
        let labels: Vec<&str> = name.split('.').collect();
        // The top label of a host name is never numeric; that of an IPv4 address is.
        let top_is_name = labels.last().is_some_and(|top| top.bytes().any(|byte| byte.is_ascii_lowercase()));
        if name.len() <= 253 && labels.len() >= 2 && top_is_name && labels.iter().all(|label| is_label(label))
        {
            Ok(Self(name))
        } else {
            Err(InvalidDomain(text.chars().take(64).collect()))
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

/// Kind of app.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AppKind {
    /// A service with a port.
    Service,
    /// A command-line program that is not reachable from outside.
    Cli,
}

impl AppKind {
    /// Returns the wire name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Service => "service",
            Self::Cli => "cli",
        }
    }
}

/// Error for a text that is not a kind of app.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a valid kind of app. Use service or cli.")]
pub struct InvalidKind(String);

impl FromStr for AppKind {
    type Err = InvalidKind;

    fn from_str(text: &str) -> Result<Self, InvalidKind> {
        [Self::Service, Self::Cli]
            .into_iter()
            .find(|kind| kind.as_str() == text)
            .ok_or_else(|| InvalidKind(text.chars().take(64).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn app_name_is_an_unreserved_label() {
        for good in ["web", "my-app-1", "007", &"x".repeat(40)] {
            assert_eq!(good.parse::<AppName>().map(|name| name.to_string()).as_deref(), Ok(good));
        }
        for bad in ["", "ab", "Web", "a_b", "-web", "web-", "a.b", "xn--abc", "ab--c", &"x".repeat(41), "wéb"]
        {
            assert!(matches!(bad.parse::<AppName>(), Err(InvalidAppName::Malformed(_))), "{bad}");
        }
        for reserved in ["api", "www", "console"] {
            assert!(matches!(reserved.parse::<AppName>(), Err(InvalidAppName::Reserved(_))), "{reserved}");
        }
        assert_eq!(
            AppName::for_new("ap-abcdefg2"),
            Err(InvalidAppName::LooksLikeId("ap-abcdefg2".to_owned()))
        );
        assert!(AppName::for_new("ap-abcdefg").is_ok() && AppName::for_new("ws-abcdefg2").is_ok());
    }

    #[test]
    fn custom_domain_is_a_whole_host_name() {
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
