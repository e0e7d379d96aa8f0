//! Egress policy of a workspace: its modes, the entries of an allow-list, and the networks that no policy can
//! open.

mod domain;
mod network;
mod zone;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

pub use domain::{Domain, HTTP_PORT, HTTPS_PORT, is_checked};
pub use network::{BlockedNetworks, Cidr, Network, is_public};
pub use zone::{InternalZones, Zone};

/// Maximum number of entries of each kind in an allow-list.
pub const MAX_ENTRIES: usize = 64;

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
        "`{0}` is not a valid domain. Use a name such as example.org, *.example.org for its subdomains, or \
         example.org:5432 for one port."
    )]
    NotADomain(String),
    /// Not a zone.
    #[error(
        "`{0}` is not a valid domain. Use a name such as office.example.org, which includes the names below it."
    )]
    NotAZone(String),
    /// The port is that of SMTP.
    #[error(
        "`{0}` cannot be allowed: port 25 is always blocked. Use the mail server's submission port, such as 587."
    )]
    Smtp(String),
    /// The list is too long.
    #[error("The list is too long. Use at most {MAX_ENTRIES} domains and {MAX_ENTRIES} networks.")]
    TooMany,
}

/// Returns the start of an invalid entry, safe to print.
fn excerpt(text: &str) -> String {
    text.chars().take(64).map(|c| if c.is_control() { '?' } else { c }).collect()
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
        /// True if TLS may be asked for a further name that is encrypted (ECH). Only the listed name beside it can be checked.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        allow_ech: bool,
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
        allow_ech: bool,
    ) -> Result<Self, InvalidEntry> {
        let domains = domains.into_iter().map(str::parse).collect::<Result<Vec<Domain>, _>>()?;
        let cidrs = cidrs.into_iter().map(str::parse).collect::<Result<Vec<Cidr>, _>>()?;
        if domains.len() > MAX_ENTRIES || cidrs.len() > MAX_ENTRIES {
            return Err(InvalidEntry::TooMany);
        }
        Ok(Self::List { domains, cidrs, allow_ech })
    }

    /// Returns a policy that opens nothing but what both open. Of two lists, the entries that are in both.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        match (self, other) {
            (Self::None, _) | (_, Self::None) => Self::None,
            (Self::Internet, narrower) | (narrower, Self::Internet) => narrower.clone(),
            (
                Self::List { domains, cidrs, allow_ech },
                Self::List { domains: other_domains, cidrs: other_cidrs, allow_ech: other_ech },
            ) => Self::List {
                domains: domains.iter().filter(|domain| other_domains.contains(domain)).cloned().collect(),
                cidrs: cidrs.iter().filter(|cidr| other_cidrs.contains(cidr)).copied().collect(),
                allow_ech: *allow_ech && *other_ech,
            },
        }
    }

    /// Returns whether a host may be reached by TLS, whose name is checked.
    pub fn allows_host(&self, name: &str, port: u16) -> bool {
        match self {
            Self::Internet => true,
            Self::List { domains, .. } => {
                domains.iter().any(|domain| domain.covers(name) && domain.ports().any(|open| open == port))
            }
            Self::None => false,
        }
    }

    /// Returns whether `name` may be resolved.
    pub fn allows_name(&self, name: &str) -> bool {
        match self {
            Self::Internet => true,
            Self::List { domains, .. } => domains.iter().any(|domain| domain.covers(name)),
            Self::None => false,
        }
    }

    /// Returns the ports at which a listed name may be reached.
    pub fn ports_of(&self, name: &str) -> BTreeSet<u16> {
        match self {
            Self::List { domains, .. } => {
                domains.iter().filter(|domain| domain.covers(name)).flat_map(Domain::ports).collect()
            }
            Self::Internet | Self::None => BTreeSet::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intersection_opens_only_what_both_open() {
        let list =
            |domains: &[&str], ech| Egress::list(domains.iter().copied(), ["8.8.8.0/24"], ech).unwrap();
        let (one, two) = (list(&["a.org", "b.org"], true), list(&["b.org", "c.org"], false));
        for (left, right, both) in [
            (&Egress::Internet, &Egress::Internet, &Egress::Internet),
            (&Egress::Internet, &one, &one),
            (&Egress::None, &Egress::Internet, &Egress::None),
            (&Egress::None, &one, &Egress::None),
            (&one, &two, &list(&["b.org"], false)),
            (&one, &one, &one),
        ] {
            assert_eq!((&left.intersection(right), &right.intersection(left)), (both, both));
        }
    }

    #[test]
    fn policy_round_trips_through_text() {
        for egress in [
            Egress::Internet,
            Egress::None,
            Egress::list(["example.org", "*.example.net:8080"], ["8.8.8.0/24"], false).unwrap(),
            Egress::list(["example.org"], [], true).unwrap(),
        ] {
            let text = serde_json::to_string(&egress).unwrap();
            assert_eq!(serde_json::from_str::<Egress>(&text).unwrap(), egress);
        }
        assert!(
            serde_json::from_str::<Egress>(r#"{"mode":"list","domains":[],"cidrs":["10.0.0.0/8"]}"#).is_err()
        );
        assert_eq!(Egress::list(std::iter::repeat_n("a.org", 65), [], false), Err(InvalidEntry::TooMany));
    }
}
