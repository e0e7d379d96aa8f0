//! Allow-list of the names that a VM may resolve and connect to, as set by the node.

use rigbox_core::egress::Domain;
use rigbox_proto::guestio::DnsPolicy;
use rigbox_proto::guestio::dns_policy::Mode;

/// Names that a VM may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum AllowList {
    Any,
    Listed {
        domains: Vec<Domain>,
        /// True if TLS may be asked for a further name that is encrypted.
        allow_ech: bool,
    },
    None,
}

impl AllowList {
    /// Parses the node's policy. Anything that is not understood allows nothing.
    pub(crate) fn parse(policy: Option<DnsPolicy>) -> Self {
        let Some(policy) = policy else { return Self::None };
        match policy.mode() {
            Mode::Any => Self::Any,
            Mode::Listed => Self::Listed {
                domains: policy.domains.iter().filter_map(|domain| domain.parse().ok()).collect(),
                allow_ech: policy.allow_ech,
            },
            Mode::None | Mode::Unspecified => Self::None,
        }
    }

    /// Returns whether a name may be resolved.
    pub(crate) fn allows_name(&self, name: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Listed { domains, .. } => domains.iter().any(|domain| domain.covers(name)),
            Self::None => false,
        }
    }

    /// Returns whether the list opens a port of a name. Without a list there is nothing to check.
    pub(crate) fn allows(&self, name: &str, port: u16) -> bool {
        let Self::Listed { domains, .. } = self else { return false };
        domains.iter().any(|domain| domain.covers(name) && domain.ports().any(|open| open == port))
    }

    /// Returns whether TLS may be asked for a further name that is encrypted.
    pub(crate) fn allows_ech(&self) -> bool {
        matches!(self, Self::Listed { allow_ech: true, .. })
    }

    /// Returns whether the addresses of a name have to be admitted by the node before they can be reached.
    pub(crate) fn needs_admission(&self) -> bool {
        matches!(self, Self::Listed { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_opens_the_checked_ports_or_its_own() {
        let domains = ["example.org", "*.example.net:5432", "one.example:443"].map(str::to_owned).into();
        let policy = DnsPolicy { mode: Mode::Listed.into(), domains, allow_ech: false };
        let list = AllowList::parse(Some(policy));
        for (name, port, allowed) in [
            ("example.org", 80, true),
            ("example.org", 443, true),
            ("example.org", 22, false),
            ("a.example.net", 5432, true),
            ("a.example.net", 443, false),
            ("one.example", 443, true),
            ("one.example", 80, false),
            ("other.example", 443, false),
        ] {
            assert_eq!(list.allows(name, port), allowed, "{name}:{port}");
        }
        assert!(list.allows_name("a.example.net") && !list.allows_ech());
        assert!(!AllowList::Any.allows("example.org", 443) && !AllowList::None.allows_name("example.org"));
    }
}
