//! Zones of names that are for the network around the host, and that resolvers may answer for it: no VM gets their records.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::network::Network;
use super::{BlockedNetworks, InvalidEntry, excerpt};

/// Top-level zones that do not exist on the public internet: reserved ones (RFC 6761, 6762, 7686, 9476, and ICANN's `internal`), and those
/// that many networks use. Addresses of IPv6 have their names in `ip6.arpa`.
const INTERNAL_ZONES: [&str; 18] = [
    "alt",
    "consul",
    "corp",
    "home",
    "home.arpa",
    "internal",
    "intranet",
    "invalid",
    "ip6.arpa",
    "lan",
    "local",
    "localdomain",
    "localhost",
    "mail",
    "onion",
    "private",
    "svc",
    "test",
];

/// Domain with all names below it, in lower case.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Zone(String);

impl Zone {
    fn contains(&self, name: &str) -> bool {
        is_below(name, &self.0)
    }
}

/// Returns whether `name` is `zone` or below it.
fn is_below(name: &str, zone: &str) -> bool {
    name.strip_suffix(zone).is_some_and(|below| below.is_empty() || below.ends_with('.'))
}

/// Zones of which no VM gets a record.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct InternalZones(Vec<Zone>);

impl InternalZones {
    /// Adds the operator's zones to those that are internal everywhere.
    pub fn new(added: &[Zone]) -> Self {
        Self(added.to_vec())
    }

    /// Returns whether a name, in lower case and without a dot at its end, is internal: by its zone, because it has one label only, or
    /// because it is that of a blocked address (PTR).
    pub fn contain(&self, name: &str, blocked: &BlockedNetworks) -> bool {
        !name.contains('.')
            || INTERNAL_ZONES.iter().any(|zone| is_below(name, zone))
            || self.0.iter().any(|zone| zone.contains(name))
            || reverse_network(name).is_some_and(|network| blocked.overlap(&network))
    }
}

/// Returns the network whose names are at and below a name of `in-addr.arpa`.
fn reverse_network(name: &str) -> Option<Network> {
    let labels = name.strip_suffix(".in-addr.arpa")?;
    let mut octets = [0; 4];
    // At most the last four labels. What is before them may be a delegation (RFC 2317) or a service in that network.
    let found: Vec<u8> = labels.rsplit('.').take(4).map_while(|label| label.parse().ok()).collect();
    for (to, from) in octets.iter_mut().zip(&found) {
        *to = *from;
    }
    let prefix = u8::try_from(found.len() * 8).ok().filter(|prefix| *prefix > 0)?;
    Some(Network::new(Ipv4Addr::from(octets), prefix))
}

impl FromStr for Zone {
    type Err = InvalidEntry;

    fn from_str(text: &str) -> Result<Self, InvalidEntry> {
        let lower = text.to_ascii_lowercase();
        let name = lower.strip_suffix('.').unwrap_or(&lower);
        let label = |label: &str| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
        };
        if name.len() <= 253 && name.split('.').all(label) {
            Ok(Self(name.to_owned()))
        } else {
            Err(InvalidEntry::NotAZone(excerpt(text)))
        }
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for Zone {
    type Error = InvalidEntry;

    fn try_from(text: String) -> Result<Self, InvalidEntry> {
        text.parse()
    }
}

impl From<Zone> for String {
    fn from(zone: Zone) -> Self {
        zone.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_for_the_network_around_the_host_are_internal() {
        let zones = InternalZones::new(&["Office.Example.org.".parse().unwrap()]);
        for (name, internal) in [
            ("example.org", false),
            ("office.example.org", true),
            ("_ldap._tcp.office.example.org", true),
            ("backoffice.example.org", false),
            ("db", true),
            ("printer.local", true),
            ("metadata.google.internal", true),
            ("thelocal.se", false),
            ("local.example.org", false),
            ("router.home.arpa", true),
            ("1.0.0.10.in-addr.arpa", true),
            ("10.in-addr.arpa", true),
            ("0.10.in-addr.arpa", true),
            ("16.172.in-addr.arpa", true),
            // It contains 172.16.0.0/12.
            ("172.in-addr.arpa", true),
            ("16.129.63.168.in-addr.arpa", true),
            ("15.129.63.168.in-addr.arpa", false),
            ("8.8.8.8.in-addr.arpa", false),
            ("_dns-sd.b.1.0.0.10.in-addr.arpa", true),
            ("1.0.0.0.ip6.arpa", true),
            ("b._dns-sd._udp.0.10.in-addr.arpa", true),
            ("x.in-addr.arpa", false),
        ] {
            assert_eq!(zones.contain(name, &BlockedNetworks::default()), internal, "{name}");
        }
        for bad in ["", ".", "a..b", "*.example.org", "a b"] {
            assert!(bad.parse::<Zone>().is_err(), "{bad}");
        }
    }
}
