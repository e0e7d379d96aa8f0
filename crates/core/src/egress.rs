//! What a workspace may reach outside: the modes of its way out, the entries of its list, and the ranges that no workspace reaches
//! whatever its list says.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Most entries of each kind in one list.
pub const MOST_ENTRIES: usize = 64;

/// Networks that are no part of the public internet (RFC 6890 and its followers), with the length of their prefixes.
pub const NEVER: [(Ipv4Addr, u8); 15] = [
    (Ipv4Addr::new(0, 0, 0, 0), 8),
    (Ipv4Addr::new(10, 0, 0, 0), 8),
    (Ipv4Addr::new(100, 64, 0, 0), 10),
    (Ipv4Addr::new(127, 0, 0, 0), 8),
    (Ipv4Addr::new(169, 254, 0, 0), 16),
    (Ipv4Addr::new(172, 16, 0, 0), 12),
    (Ipv4Addr::new(192, 0, 0, 0), 24),
    (Ipv4Addr::new(192, 0, 2, 0), 24),
    (Ipv4Addr::new(192, 88, 99, 0), 24),
    (Ipv4Addr::new(192, 168, 0, 0), 16),
    (Ipv4Addr::new(198, 18, 0, 0), 15),
    (Ipv4Addr::new(198, 51, 100, 0), 24),
    (Ipv4Addr::new(203, 0, 113, 0), 24),
    (Ipv4Addr::new(224, 0, 0, 0), 4),
    // With the broadcast address.
    (Ipv4Addr::new(240, 0, 0, 0), 4),
];

/// Whether an address is of the public internet.
pub fn is_public(address: Ipv4Addr) -> bool {
    !NEVER.iter().any(|(network, prefix)| (address.to_bits() ^ network.to_bits()) & mask(*prefix) == 0)
}

fn mask(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0)
}

/// A public IPv4 network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Cidr {
    network: Ipv4Addr,
    prefix: u8,
}

/// A text that is no entry of a list.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadEntry {
    /// No network at all.
    #[error(
        "`{0}` is not an IPv4 network: expected an address and the length of its prefix, such as 198.41.0.0/24"
    )]
    NotANetwork(String),
    /// Bits are set behind the prefix.
    #[error("`{0}` has bits set behind its prefix: did you mean {1}?")]
    HostBits(String, String),
    /// Some of it is not public.
    #[error("`{0}` overlaps {1}, which no workspace can reach: give public networks only")]
    NotPublic(String, String),
    /// No domain name.
    #[error(
        "`{0}` is not a domain: expected a name such as example.org, or *.example.org for the names below it"
    )]
    NotADomain(String),
    /// Too long a list.
    #[error("a list has at most {MOST_ENTRIES} domains and {MOST_ENTRIES} networks")]
    TooMany,
}

/// At most so much of a wrong entry is repeated.
fn shown(text: &str) -> String {
    text.chars().take(64).map(|c| if c.is_control() { '?' } else { c }).collect()
}

impl FromStr for Cidr {
    type Err = BadEntry;

    fn from_str(text: &str) -> Result<Self, BadEntry> {
        let not = || BadEntry::NotANetwork(shown(text));
        let (address, prefix) = text.split_once('/').unwrap_or((text, "32"));
        let address: Ipv4Addr = address.parse().map_err(|_| not())?;
        let digits = (1..=2).contains(&prefix.len()) && prefix.bytes().all(|b| b.is_ascii_digit());
        let prefix: u8 = prefix.parse().ok().filter(|prefix| digits && *prefix <= 32).ok_or_else(not)?;
        let network = Ipv4Addr::from_bits(address.to_bits() & mask(prefix));
        let cidr = Self { network, prefix };
        if network != address {
            return Err(BadEntry::HostBits(shown(text), cidr.to_string()));
        }
        let overlapping = NEVER
            .iter()
            .find(|(never, length)| (never.to_bits() ^ network.to_bits()) & mask(prefix.min(*length)) == 0);
        match overlapping {
            Some((never, length)) => Err(BadEntry::NotPublic(shown(text), format!("{never}/{length}"))),
            None => Ok(cidr),
        }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

impl TryFrom<String> for Cidr {
    type Error = BadEntry;

    fn try_from(text: String) -> Result<Self, BadEntry> {
        text.parse()
    }
}

impl From<Cidr> for String {
    fn from(cidr: Cidr) -> Self {
        cidr.to_string()
    }
}

/// A name, or all names below one, in lower case.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Domain(String);

impl Domain {
    /// Whether it stands for every name below it: then whoever can make names there can carry data out in them.
    pub fn is_wildcard(&self) -> bool {
        self.0.starts_with("*.")
    }

    /// Whether `name`, with or without the dot at its end, is one of those that this stands for.
    pub fn covers(&self, name: &str) -> bool {
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        match self.0.strip_prefix('*') {
            Some(below) => name.len() > below.len() && name.ends_with(below),
            None => name == self.0,
        }
    }
}

impl FromStr for Domain {
    type Err = BadEntry;

    fn from_str(text: &str) -> Result<Self, BadEntry> {
        let lower = text.to_ascii_lowercase();
        let lower = lower.strip_suffix('.').unwrap_or(&lower);
        let name = lower.strip_prefix("*.").unwrap_or(lower);
        let label = |label: &str| {
            (1..=63).contains(&label.len())
                && label
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_')
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        let last = name.rsplit('.').next().unwrap_or_default();
        // An address is no name: its last label is a number.
        let fits = name.len() <= 251
            && name.contains('.')
            && name.split('.').all(label)
            && !last.bytes().all(|b| b.is_ascii_digit());
        if fits { Ok(Self(lower.to_owned())) } else { Err(BadEntry::NotADomain(shown(text))) }
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for Domain {
    type Error = BadEntry;

    fn try_from(text: String) -> Result<Self, BadEntry> {
        text.parse()
    }
}

impl From<Domain> for String {
    fn from(domain: Domain) -> Self {
        domain.0
    }
}

/// The way out of a workspace.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "mode")]
pub enum Egress {
    /// The public internet.
    #[default]
    Internet,
    /// What is listed.
    List {
        /// Names that may be looked up and reached.
        domains: Vec<Domain>,
        /// Networks that may be reached.
        cidrs: Vec<Cidr>,
    },
    /// Nothing.
    None,
}

impl Egress {
    /// A list of entries as people write them.
    ///
    /// # Errors
    /// The first entry that is none, or too many.
    pub fn list<'a>(
        domains: impl IntoIterator<Item = &'a str>,
        cidrs: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self, BadEntry> {
        let domains = domains.into_iter().map(str::parse).collect::<Result<Vec<Domain>, _>>()?;
        let cidrs = cidrs.into_iter().map(str::parse).collect::<Result<Vec<Cidr>, _>>()?;
        if domains.len() > MOST_ENTRIES || cidrs.len() > MOST_ENTRIES {
            return Err(BadEntry::TooMany);
        }
        Ok(Self::List { domains, cidrs })
    }

    /// Whether `name` may be looked up.
    pub fn allows_name(&self, name: &str) -> bool {
        match self {
            Self::Internet => true,
            Self::List { domains, .. } => domains.iter().any(|domain| domain.covers(name)),
            Self::None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ranges_that_are_nobodys_business_are_not_public() {
        for (text, public) in [
            ("0.0.0.1", false),
            ("10.255.255.255", false),
            ("100.63.255.255", true),
            ("100.64.0.0", false),
            ("100.127.255.255", false),
            ("100.128.0.0", true),
            ("127.0.0.53", false),
            ("169.254.169.254", false),
            ("172.15.255.255", true),
            ("172.16.0.1", false),
            ("172.31.255.255", false),
            ("172.32.0.0", true),
            ("192.0.0.170", false),
            ("192.0.1.1", true),
            ("192.88.99.1", false),
            ("192.168.0.1", false),
            ("198.17.255.255", true),
            ("198.19.255.255", false),
            ("203.0.113.9", false),
            ("223.255.255.255", true),
            ("224.0.0.1", false),
            ("255.255.255.255", false),
            ("8.8.8.8", true),
        ] {
            assert_eq!(is_public(text.parse().unwrap()), public, "{text}");
        }
    }

    #[test]
    fn a_network_is_public_as_a_whole() {
        for good in ["8.8.8.8", "8.8.8.0/24", "104.16.0.0/12", "1.1.1.1/32"] {
            let wanted = if good.contains('/') { good.to_owned() } else { format!("{good}/32") };
            assert_eq!(good.parse::<Cidr>().map(|c| c.to_string()), Ok(wanted));
        }
        for bad in [
            "",
            "8.8.8.8/33",
            "8.8.8.8/+1",
            "8.8.8/24",
            "8.8.8.8/24",
            "::/0",
            "0.0.0.0/0",
            "10.1.0.0/16",
            "8.0.0.0/5",
            "127.0.0.1",
            "8.8.8.8/08/1",
            "8.8.8.8;drop",
        ] {
            assert!(bad.parse::<Cidr>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn an_accepted_network_has_no_address_that_is_not_public(bits: u32, prefix in 0u8..=32, inside: u32) {
            let network = Ipv4Addr::from_bits(bits & mask(prefix));
            if let Ok(cidr) = format!("{network}/{prefix}").parse::<Cidr>() {
                let address = Ipv4Addr::from_bits(cidr.network.to_bits() | (inside & !mask(prefix)));
                prop_assert!(is_public(address), "{address} in {cidr}");
            }
        }
    }

    #[test]
    fn a_domain_covers_itself_and_a_wildcard_what_is_below() {
        for (entry, name, covered) in [
            ("example.org", "example.org", true),
            ("Example.ORG.", "EXAMPLE.org.", true),
            ("example.org", "www.example.org", false),
            ("example.org", "badexample.org", false),
            ("*.example.org", "example.org", false),
            ("*.example.org", "a.b.example.org", true),
            ("*.example.org", "badexample.org", false),
            ("*.example.org", ".example.org", false),
        ] {
            assert_eq!(entry.parse::<Domain>().unwrap().covers(name), covered, "{entry} {name}");
        }
        for bad in
            ["", "org", "*.", "*", "*.org", "a..b", "-a.org", "a b.org", "8.8.8.8", "exa*mple.org", "ü.org"]
        {
            assert!(bad.parse::<Domain>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_policy_survives_its_text() {
        for egress in [
            Egress::Internet,
            Egress::None,
            Egress::list(["example.org", "*.example.net"], ["8.8.8.0/24"]).unwrap(),
        ] {
            let text = serde_json::to_string(&egress).unwrap();
            assert_eq!(serde_json::from_str::<Egress>(&text).unwrap(), egress);
        }
        assert!(
            serde_json::from_str::<Egress>(r#"{"mode":"list","domains":[],"cidrs":["10.0.0.0/8"]}"#).is_err()
        );
        assert_eq!(Egress::list(std::iter::repeat_n("a.org", 65), []), Err(BadEntry::TooMany));
    }
}
