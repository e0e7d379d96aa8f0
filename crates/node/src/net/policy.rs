//! Network policy of a VM as set by control, validated once more and kept in the journal.

use std::collections::BTreeSet;
use std::num::NonZeroU16;

use rigbox_core::egress::Egress;
use rigbox_core::vm_limits::{NetworkLimits, VmLimits};
use rigbox_proto::node::{NetworkPolicy, egress::Mode};
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::limits;

/// Maximum number of ports of one workspace that gateways may dial.
const MAX_PORTS: usize = 256;

/// Valid network policy. By default no port may be dialed and the public internet may be reached.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Policy {
    app_ports: BTreeSet<NonZeroU16>,
    egress: Egress,
    /// Limits of the VM, as far as they differ from the node's.
    limits: VmLimits,
}

impl Policy {
    /// Returns the limits of the VM on a node with these.
    pub(crate) fn limits(&self, node: NetworkLimits) -> NetworkLimits {
        node.lowered(&self.limits)
    }

    /// Returns the ports that gateways may dial.
    pub(crate) fn app_ports(&self) -> impl Iterator<Item = u16> + '_ {
        self.app_ports.iter().map(|port| port.get())
    }

    /// Returns the destinations that the VM may reach.
    pub(crate) fn egress(&self) -> &Egress {
        &self.egress
    }

    /// Returns the port, if gateways may dial it.
    pub(crate) fn dial_port(&self, port: u32) -> Option<u16> {
        let port = NonZeroU16::new(u16::try_from(port).ok()?)?;
        self.app_ports.contains(&port).then_some(port.get())
    }
}

impl TryFrom<NetworkPolicy> for Policy {
    type Error = Error;

    fn try_from(policy: NetworkPolicy) -> Result<Self, Error> {
        let bad = |message: String| Error::Refused("bad_request", message);
        let port = |port: u32| {
            let port = u16::try_from(port).ok().and_then(NonZeroU16::new);
            port.ok_or_else(|| bad("a port of the policy is outside 1 to 65535".to_owned()))
        };
        let app_ports = policy.app_ports.into_iter().map(port).collect::<Result<BTreeSet<_>, _>>()?;
        if app_ports.len() > MAX_PORTS {
            return Err(bad(format!("the policy has more than {MAX_PORTS} ports")));
        }
        let egress = match policy.egress {
            None => Egress::default(),
            Some(egress) => match egress.mode() {
                Mode::Internet => Egress::Internet,
                Mode::List => {
                    let (domains, cidrs, allow_ech) = (&egress.domains, &egress.cidrs, egress.allow_ech);
                    let (domains, cidrs) =
                        (domains.iter().map(String::as_str), cidrs.iter().map(String::as_str));
                    Egress::list(domains, cidrs, allow_ech).map_err(|error| bad(error.to_string()))?
                }
                Mode::None => Egress::None,
                Mode::Unspecified => return Err(bad("the egress policy has no mode".to_owned())),
            },
        };
        Ok(Self { app_ports, egress, limits: limits::of_network(policy.limits)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rigbox_proto::node::Egress as Wire;

    fn policy(app_ports: &[u32], egress: Option<Wire>) -> Result<Policy, Error> {
        NetworkPolicy { app_ports: app_ports.to_vec(), egress, limits: None }.try_into()
    }

    #[test]
    fn invalid_policy_is_refused() {
        let wire = |mode: Mode, cidr: &str| {
            Some(Wire { mode: mode.into(), domains: vec![], cidrs: vec![cidr.to_owned()], allow_ech: false })
        };
        assert!(policy(&[80, 65535], None).is_ok());
        assert!(policy(&[], wire(Mode::List, "8.8.8.0/24")).is_ok());
        for bad in [
            policy(&[0], None),
            policy(&[65536], None),
            policy(&(1..=257).collect::<Vec<_>>(), None),
            policy(&[], wire(Mode::Unspecified, "8.8.8.0/24")),
            policy(&[], wire(Mode::List, "10.0.0.0/8")),
            policy(&[], wire(Mode::List, "8.8.8.8 } ; flush ruleset")),
            NetworkPolicy {
                limits: Some(rigbox_proto::node::NetworkLimits {
                    connections: Some(0),
                    ..Default::default()
                }),
                ..NetworkPolicy::default()
            }
            .try_into(),
        ] {
            assert!(bad.is_err(), "{bad:?}");
        }
    }

    #[test]
    fn journal_keeps_limits_and_has_none_for_a_policy_of_an_earlier_version() {
        let limits = rigbox_proto::node::NetworkLimits { connections: Some(7), ..Default::default() };
        let policy = NetworkPolicy { limits: Some(limits), ..NetworkPolicy::default() };
        let policy = Policy::try_from(policy).unwrap();
        let kept: Policy = serde_json::from_str(&serde_json::to_string(&policy).unwrap()).unwrap();
        assert_eq!((kept.limits(NetworkLimits::DEFAULT).connections.get(), &kept), (7, &policy));
        let earlier: Policy = serde_json::from_str(r#"{"app_ports":[80],"egress":{"mode":"none"}}"#).unwrap();
        assert_eq!(earlier.limits(NetworkLimits::DEFAULT), NetworkLimits::DEFAULT);
    }

    #[test]
    fn only_listed_ports_may_be_dialed() {
        let policy = policy(&[80, 8080], None).unwrap();
        assert_eq!(policy.dial_port(8080), Some(8080));
        for other in [0, 22, 65536 + 80] {
            assert_eq!(policy.dial_port(other), None);
        }
    }
}
