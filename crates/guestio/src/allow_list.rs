//! Allow-list of the names that a VM may resolve and connect to, as set by the node.

use rigbox_core::egress::Domain;
use rigbox_proto::guestio::DnsPolicy;
use rigbox_proto::guestio::dns_policy::Mode;

/// Names that a VM may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum AllowList {
    Any,
    Listed(Vec<Domain>),
    None,
}

impl AllowList {
    /// Parses the node's policy. Anything that is not understood allows nothing.
    pub(crate) fn parse(policy: Option<DnsPolicy>) -> Self {
        let Some(policy) = policy else { return Self::None };
        match policy.mode() {
            Mode::Any => Self::Any,
            Mode::Listed => {
                Self::Listed(policy.domains.iter().filter_map(|domain| domain.parse().ok()).collect())
            }
            Mode::None | Mode::Unspecified => Self::None,
        }
    }

    pub(crate) fn allows(&self, name: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Listed(domains) => domains.iter().any(|domain| domain.covers(name)),
            Self::None => false,
        }
    }

    /// Returns whether the addresses of a name have to be admitted by the node before they can be reached.
    pub(crate) fn needs_admission(&self) -> bool {
        matches!(self, Self::Listed(_))
    }
}
