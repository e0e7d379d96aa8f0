//! Entries of an allow-list that are names.

use std::fmt;
use std::num::NonZeroU16;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{InvalidEntry, excerpt};

/// Port at which the name in a request (`Host`) is checked.
pub const HTTP_PORT: u16 = 80;
/// Port at which the name in a TLS handshake is checked.
pub const HTTPS_PORT: u16 = 443;
/// Port that no policy opens: spam would damage the reputation of the operator's address.
const SMTP_PORT: u16 = 25;

/// Domain name, or a wildcard for all its subdomains, in lower case. It opens the two checked ports, where nothing but this name is
/// reached, or the one port that it names. Another port of an address may lead to whoever shares that address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Domain {
    name: String,
    port: Option<NonZeroU16>,
}

impl Domain {
    /// Returns whether this is a wildcard. Whoever controls a zone below one can tunnel data out in names.
    pub fn is_wildcard(&self) -> bool {
        self.name.starts_with("*.")
    }

    /// Returns whether the entry matches `name`, which may end with a dot.
    pub fn covers(&self, name: &str) -> bool {
        // A label with a dot in it, which is written with a backslash, is no two labels.
        if name.contains('\\') {
            return false;
        }
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        match self.name.strip_prefix("*.") {
            Some(domain) => {
                let below = name.strip_suffix(domain).and_then(|below| below.strip_suffix('.'));
                below.is_some_and(|below| below.split('.').all(|label| !label.is_empty()))
            }
            None => name == self.name,
        }
    }

    /// Returns the ports that the entry opens.
    pub fn ports(&self) -> impl Iterator<Item = u16> + use<> {
        let checked = [HTTP_PORT, HTTPS_PORT];
        let (checked, one) = match self.port {
            Some(port) => (None, Some(port.get())),
            None => (Some(checked), None),
        };
        checked.into_iter().flatten().chain(one)
    }
}

/// Returns whether the name of a connection to this port is checked.
pub fn is_checked(port: u16) -> bool {
    matches!(port, HTTP_PORT | HTTPS_PORT)
}

impl FromStr for Domain {
    type Err = InvalidEntry;

    fn from_str(text: &str) -> Result<Self, InvalidEntry> {
        let not = || InvalidEntry::NotADomain(excerpt(text));
        let lower = text.to_ascii_lowercase();
        let (name, port) = match lower.split_once(':') {
            None => (lower.as_str(), None),
            Some((name, port)) => {
                let digits = !port.starts_with('0') && port.bytes().all(|byte| byte.is_ascii_digit());
                let port = port.parse::<NonZeroU16>().ok().filter(|_| digits).ok_or_else(not)?;
                (name, Some(port))
            }
        };
        if port.is_some_and(|port| port.get() == SMTP_PORT) {
            return Err(InvalidEntry::Smtp(excerpt(text)));
        }
        let name = name.strip_suffix('.').unwrap_or(name);
        let domain = name.strip_prefix("*.").unwrap_or(name);
        let label = |label: &str| {
            (1..=63).contains(&label.len())
                && label
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_')
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        let last = domain.rsplit('.').next().unwrap_or_default();
        // The top label of an IPv4 address is numeric.
        let fits = domain.len() <= 251
            && domain.contains('.')
            && domain.split('.').all(label)
            && !last.bytes().all(|b| b.is_ascii_digit());
        if fits { Ok(Self { name: name.to_owned(), port }) } else { Err(not()) }
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

impl TryFrom<String> for Domain {
    type Error = InvalidEntry;

    fn try_from(text: String) -> Result<Self, InvalidEntry> {
        text.parse()
    }
}

impl From<Domain> for String {
    fn from(domain: Domain) -> Self {
        domain.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn domain_covers_itself_and_wildcard_its_subdomains() {
        for (entry, name, covered) in [
            ("example.org", "example.org", true),
            ("Example.ORG.", "EXAMPLE.org.", true),
            ("example.org:8443", "example.org", true),
            ("example.org", "www.example.org", false),
            ("example.org", "badexample.org", false),
            ("*.example.org", "example.org", false),
            ("*.example.org", "a.b.example.org", true),
            ("*.example.org", "badexample.org", false),
            ("*.example.org", ".example.org", false),
            ("*.example.org", "a..example.org", false),
            // The labels `foo.example` and `org`.
            ("*.example.org", "foo\\.example.org", false),
            ("*.example.org", "a.foo\\.example.org", false),
        ] {
            assert_eq!(entry.parse::<Domain>().unwrap().covers(name), covered, "{entry} {name}");
        }
        for bad in [
            "",
            "org",
            "*.",
            "*",
            "*.org",
            "a..b",
            "-a.org",
            "a b.org",
            "8.8.8.8",
            "exa*mple.org",
            "ü.org",
            "a.org:",
            "a.org:0",
            "a.org:080",
            "a.org:65536",
            "a.org:+1",
            "a.org:80:80",
            "a.org:25",
            ":80",
            "8.8.8.8:80",
        ] {
            assert!(bad.parse::<Domain>().is_err(), "{bad}");
        }
    }

    #[test]
    fn domain_opens_the_checked_ports_or_the_one_that_it_names() {
        for (entry, ports) in [
            ("example.org", vec![80, 443]),
            ("*.example.org:5432", vec![5432]),
            ("example.org:443", vec![443]),
        ] {
            assert_eq!(entry.parse::<Domain>().unwrap().ports().collect::<Vec<_>>(), ports, "{entry}");
        }
    }
}
