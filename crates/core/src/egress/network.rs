//! IPv4 networks: those of an allow-list, and those that no policy can open.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{InvalidEntry, excerpt};

/// IPv4 network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Network {
    address: Ipv4Addr,
    prefix: u8,
}

/// Networks that are not part of the public internet (RFC 6890 and its successors).
const RESERVED_NETWORKS: [Network; 15] = [
    reserved([0, 0, 0, 0], 8),
    reserved([10, 0, 0, 0], 8),
    // With Alibaba's 100.100.100.200.
    reserved([100, 64, 0, 0], 10),
    reserved([127, 0, 0, 0], 8),
    // With 169.254.169.254 of most clouds.
    reserved([169, 254, 0, 0], 16),
    reserved([172, 16, 0, 0], 12),
    reserved([192, 0, 0, 0], 24),
    reserved([192, 0, 2, 0], 24),
    reserved([192, 88, 99, 0], 24),
    reserved([192, 168, 0, 0], 16),
    reserved([198, 18, 0, 0], 15),
    reserved([198, 51, 100, 0], 24),
    reserved([203, 0, 113, 0], 24),
    reserved([224, 0, 0, 0], 4),
    // Includes the broadcast address.
    reserved([240, 0, 0, 0], 4),
];

/// Other networks in which clouds serve their machines: metadata, credentials and private names.
const PLATFORM_NETWORKS: [Network; 5] = [
    // Azure: credentials of the machine's agent, and private names.
    reserved([168, 63, 129, 16], 32),
    // IBM: services of its private network.
    reserved([161, 26, 0, 0], 16),
    reserved([166, 8, 0, 0], 14),
    // Tencent: private names.
    reserved([183, 60, 82, 98], 32),
    reserved([183, 60, 83, 19], 32),
];

const fn reserved([a, b, c, d]: [u8; 4], prefix: u8) -> Network {
    Network { address: Ipv4Addr::new(a, b, c, d), prefix }
}

/// Returns whether an address belongs to the public internet.
pub fn is_public(address: Ipv4Addr) -> bool {
    !RESERVED_NETWORKS.iter().chain(&PLATFORM_NETWORKS).any(|network| network.contains(address))
}

/// Networks that no workspace reaches: what [`is_public`] excludes, and what the operator has added.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockedNetworks(Vec<Network>);

impl BlockedNetworks {
    /// Adds networks to those that are always blocked.
    pub fn new(added: &[Network]) -> Self {
        Self([RESERVED_NETWORKS.as_slice(), &PLATFORM_NETWORKS, added].concat())
    }

    /// Returns whether a workspace may reach an address, if its policy lets it.
    pub fn allow(&self, address: Ipv4Addr) -> bool {
        !self.0.iter().any(|network| network.contains(address))
    }

    /// Returns whether a network contains a blocked address.
    pub(super) fn overlap(&self, other: &Network) -> bool {
        self.0.iter().any(|network| network.overlaps(other))
    }

    /// Returns all of them.
    pub fn iter(&self) -> impl Iterator<Item = &Network> {
        self.0.iter()
    }
}

impl Default for BlockedNetworks {
    fn default() -> Self {
        Self::new(&[])
    }
}

impl Network {
    /// Returns whether the network contains an address.
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        (address.to_bits() ^ self.address.to_bits()) & mask(self.prefix) == 0
    }

    /// Builds a network from its first address.
    pub(super) fn new(address: Ipv4Addr, prefix: u8) -> Self {
        Self { address, prefix }
    }

    fn overlaps(&self, other: &Self) -> bool {
        (self.address.to_bits() ^ other.address.to_bits()) & mask(self.prefix.min(other.prefix)) == 0
    }
}

fn mask(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0)
}

impl FromStr for Network {
    type Err = InvalidEntry;

    fn from_str(text: &str) -> Result<Self, InvalidEntry> {
        let not = || InvalidEntry::NotANetwork(excerpt(text));
        let (address, prefix) = text.split_once('/').unwrap_or((text, "32"));
        let address: Ipv4Addr = address.parse().map_err(|_| not())?;
        let digits = (1..=2).contains(&prefix.len()) && prefix.bytes().all(|b| b.is_ascii_digit());
        let prefix: u8 = prefix.parse().ok().filter(|prefix| digits && *prefix <= 32).ok_or_else(not)?;
        let network = Self { address: Ipv4Addr::from_bits(address.to_bits() & mask(prefix)), prefix };
        if network.address != address {
            return Err(InvalidEntry::HostBits(excerpt(text), network.to_string()));
        }
        Ok(network)
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl TryFrom<String> for Network {
    type Error = InvalidEntry;

    fn try_from(text: String) -> Result<Self, InvalidEntry> {
        text.parse()
    }
}

impl From<Network> for String {
    fn from(network: Network) -> Self {
        network.to_string()
    }
}

/// Public IPv4 network. Single addresses in it may be blocked ([`BlockedNetworks`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Cidr(Network);

impl FromStr for Cidr {
    type Err = InvalidEntry;

    fn from_str(text: &str) -> Result<Self, InvalidEntry> {
        let network: Network = text.parse()?;
        let not_public = RESERVED_NETWORKS.iter().find(|reserved| reserved.overlaps(&network));
        let not_public = not_public.or_else(|| {
            PLATFORM_NETWORKS.iter().find(|other| other.prefix <= network.prefix && other.overlaps(&network))
        });
        match not_public {
            Some(reserved) => Err(InvalidEntry::NotPublic(excerpt(text), reserved.to_string())),
            None => Ok(Self(network)),
        }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
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
            ("100.100.100.200", false),
            ("168.63.129.15", true),
            ("168.63.129.16", false),
            ("161.26.0.10", false),
            ("166.11.255.255", false),
            ("183.60.83.19", false),
        ] {
            assert_eq!(is_public(text.parse().unwrap()), public, "{text}");
        }
    }

    #[test]
    fn network_is_public_as_a_whole() {
        for good in ["168.63.128.0/17", "8.8.8.8", "8.8.8.0/24", "104.16.0.0/12", "1.1.1.1/32"] {
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
            "168.63.129.16",
            "161.26.4.0/24",
            "8.8.8.8/08/1",
            "8.8.8.8;drop",
        ] {
            assert!(bad.parse::<Cidr>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn accepted_network_contains_no_reserved_address(bits: u32, prefix in 0u8..=32, inside: u32) {
            let network = Ipv4Addr::from_bits(bits & mask(prefix));
            if let Ok(cidr) = format!("{network}/{prefix}").parse::<Cidr>() {
                let address = Ipv4Addr::from_bits(cidr.0.address.to_bits() | (inside & !mask(prefix)));
                prop_assert!(!RESERVED_NETWORKS.iter().any(|network| network.contains(address)), "{address} in {cidr}");
            }
        }
    }

    #[test]
    fn operator_adds_networks_that_are_public_elsewhere() {
        let blocked = BlockedNetworks::new(&["8.8.8.0/24".parse().unwrap()]);
        for (address, allowed) in [("8.8.8.8", false), ("8.8.9.8", true), ("10.0.0.1", false)] {
            assert_eq!(blocked.allow(address.parse().unwrap()), allowed, "{address}");
        }
        assert!(BlockedNetworks::default().allow("8.8.8.8".parse().unwrap()));
    }
}
