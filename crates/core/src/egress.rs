//! Egress policy of a workspace: its modes, the entries of an allow-list, and the networks that no policy can
//! open.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Maximum number of entries of each kind in an allow-list.
pub const MAX_ENTRIES: usize = 64;

/// Networks that are not part of the public internet (RFC 6890 and its successors), with their prefix
/// lengths.
pub const RESERVED_NETWORKS: [(Ipv4Addr, u8); 15] = [
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
    // Includes the broadcast address.
    (Ipv4Addr::new(240, 0, 0, 0), 4),
];

/// Returns whether an address belongs to the public internet.
pub fn is_public(address: Ipv4Addr) -> bool {
    !RESERVED_NETWORKS
        .iter()
        .any(|(network, prefix)| (address.to_bits() ^ network.to_bits()) & mask(*prefix) == 0)
}

fn mask(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0)
}

/// Public IPv4 network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Cidr {
    network: Ipv4Addr,
    prefix: u8,
}

/// Error for an invalid allow-list entry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidEntry {
    /// Not a network.
    #[error("`{0}` is not a valid IPv4 network. Use an address with a prefix length, such as 198.41.0.0/24.")]
    NotANetwork(String),
    /// Host bits are set.
    #[error("`{0}` has bits set beyond its prefix. Did you mean {1}?")]
    HostBits(String, String),
    /// Part of the network is not public.
    #[error("`{0}` overlaps the reserved network {1}. Use public networks only.")]
    NotPublic(String, String),
    /// Not a domain name.
    #[error(
        "`{0}` is not a valid domain. Use a name such as example.org, or *.example.org for its subdomains."
    )]
    NotADomain(String),
    /// The list is too long.
    #[error("The list is too long. Use at most {MAX_ENTRIES} domains and {MAX_ENTRIES} networks.")]
    TooMany,
}

/// Returns the start of an invalid entry, safe to print.
fn excerpt(text: &str) -> String {
    text.chars().take(64).map(|c| if c.is_control() { '?' } else { c }).collect()
}

impl FromStr for Cidr {
    type Err = InvalidEntry;

    fn from_str(text: &str) -> Result<Self, InvalidEntry> {
        let not = || InvalidEntry::NotANetwork(excerpt(text));
        let (address, prefix) = text.split_once('/').unwrap_or((text, "32"));
        let address: Ipv4Addr = address.parse().map_err(|_| not())?;
        let digits = (1..=2).contains(&prefix.len()) && prefix.bytes().all(|b| b.is_ascii_digit());
        let prefix: u8 = prefix.parse().ok().filter(|prefix| digits && *prefix <= 32).ok_or_else(not)?;
        let network = Ipv4Addr::from_bits(address.to_bits() & mask(prefix));
        let cidr = Self { network, prefix };
        if network != address {
            return Err(InvalidEntry::HostBits(excerpt(text), cidr.to_string()));
        }
        let overlapping = RESERVED_NETWORKS.iter().find(|(reserved, length)| {
            (reserved.to_bits() ^ network.to_bits()) & mask(prefix.min(*length)) == 0
        });
        match overlapping {
            Some((reserved, length)) => {
                Err(InvalidEntry::NotPublic(excerpt(text), format!("{reserved}/{length}")))
            }
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
    type Error = InvalidEntry;

    fn try_from(text: String) -> Result<Self, InvalidEntry> {
        text.parse()
    }
}

impl From<Cidr> for String {
    fn from(cidr: Cidr) -> Self {
        cidr.to_string()
    }
}

/// Domain name, or a wildcard for all its subdomains, in lower case.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Domain(String);

impl Domain {
    /// Returns whether this is a wildcard. Whoever controls a zone below one can tunnel data out in names.
    pub fn is_wildcard(&self) -> bool {
        self.0.starts_with("*.")
    }

    /// Returns whether the entry matches `name`, which may end with a dot.
    pub fn covers(&self, name: &str) -> bool {
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        match self.0.strip_prefix('*') {
            Some(below) => name.len() > below.len() && name.ends_with(below),
            None => name == self.0,
        }
    }
}

impl FromStr for Domain {
    type Err = InvalidEntry;

    fn from_str(text: &str) -> Result<Self, InvalidEntry> {
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
        // The top label of an IPv4 address is numeric.
        let fits = name.len() <= 251
            && name.contains('.')
            && name.split('.').all(label)
            && !last.bytes().all(|b| b.is_ascii_digit());
        if fits { Ok(Self(lower.to_owned())) } else { Err(InvalidEntry::NotADomain(excerpt(text))) }
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
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
        domain.0
    }
}

/// Egress policy.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "mode")]
pub enum Egress {
    /// The public internet.
    #[default]
    Internet,
    /// An allow-list.
    List {
        /// Domains that may be resolved and reached.
        domains: Vec<Domain>,
        /// Networks that may be reached.
        cidrs: Vec<Cidr>,
    },
    /// Nothing.
    None,
}

impl Egress {
    /// Builds an allow-list from text entries.
    ///
    /// # Errors
    /// The first invalid entry, or too many entries.
    pub fn list<'a>(
        domains: impl IntoIterator<Item = &'a str>,
        cidrs: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self, InvalidEntry> {
        let domains = domains.into_iter().map(str::parse).collect::<Result<Vec<Domain>, _>>()?;
        let cidrs = cidrs.into_iter().map(str::parse).collect::<Result<Vec<Cidr>, _>>()?;
        if domains.len() > MAX_ENTRIES || cidrs.len() > MAX_ENTRIES {
            return Err(InvalidEntry::TooMany);
        }
        Ok(Self::List { domains, cidrs })
    }

    /// Returns whether `name` may be resolved.
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
    fn reserved_ranges_are_not_public() {
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
    fn network_is_public_as_a_whole() {
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
        fn accepted_network_contains_only_public_addresses(bits: u32, prefix in 0u8..=32, inside: u32) {
            let network = Ipv4Addr::from_bits(bits & mask(prefix));
            if let Ok(cidr) = format!("{network}/{prefix}").parse::<Cidr>() {
                let address = Ipv4Addr::from_bits(cidr.network.to_bits() | (inside & !mask(prefix)));
                prop_assert!(is_public(address), "{address} in {cidr}");
            }
        }
    }

    #[test]
    fn domain_covers_itself_and_wildcard_its_subdomains() {
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
    fn policy_round_trips_through_text() {
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
        assert_eq!(Egress::list(std::iter::repeat_n("a.org", 65), []), Err(InvalidEntry::TooMany));
    }
}
