//! Which names a VM may look up, as the node says.

use rigbox_core::egress::Domain;
use rigbox_proto::guestio::dns_policy::Mode;

/// What may be looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Names {
    Any,
    Listed(Vec<Domain>),
    None,
}

impl Names {
    /// What is not understood allows nothing.
    pub(crate) fn of(names: Option<rigbox_proto::guestio::DnsPolicy>) -> Self {
        let Some(names) = names else { return Self::None };
        match names.mode() {
            Mode::Any => Self::Any,
            Mode::Listed => {
                Self::Listed(names.domains.iter().filter_map(|domain| domain.parse().ok()).collect())
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

    /// Whether the addresses of a name have to be let through one by one.
    pub(crate) fn needs_admission(&self) -> bool {
        matches!(self, Self::Listed(_))
    }
}
