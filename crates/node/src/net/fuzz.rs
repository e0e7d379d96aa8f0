//! Fuzz targets of the network: the kernel's netlink messages, and control's policies, which become rules.

use std::net::Ipv4Addr;

use prost::Message;
use rigbox_core::vm_limits::NetworkLimits;
use rigbox_proto::node::NetworkPolicy;

use super::conntrack::{self, Connection, Tuple};
use super::netlink::{find, messages};
use super::policy::Policy;
use super::rules;

#[test]
fn netlink() {
    let source = Ipv4Addr::new(172, 16, 0, 2);
    bolero::check!(name = "netlink").for_each(|batch: &[u8]| {
        let bodies: Vec<_> = messages(batch).map(|(_, body)| body).collect();
        assert!(bodies.len() <= batch.len() / 16);
        assert!(bodies.iter().map(|body| body.len()).sum::<usize>() <= batch.len());
        for body in &bodies {
            for kind in 0..32 {
                assert!(find(body, kind).is_none_or(|value| value.len() + 4 <= body.len()));
            }
        }
        let mut connections = Vec::new();
        let _ = conntrack::read_batch(batch, source, &mut connections);
        assert!(connections.len() <= bodies.len());
        for Connection { original, reply } in connections {
            assert_eq!(original.source, source);
            for tuple in [original, reply] {
                let mut encoded = Vec::new();
                tuple.encode(&mut encoded);
                assert_eq!(find(&encoded, conntrack::CTA_TUPLE_ORIG).and_then(Tuple::parse), Some(tuple));
                assert_eq!(tuple.reversed().reversed(), tuple);
            }
        }
    });
}

#[test]
fn network_policy() {
    bolero::check!(name = "network_policy").for_each(|bytes: &[u8]| {
        let Ok(wire) = NetworkPolicy::decode(bytes) else { return };
        let Ok(policy) = Policy::try_from(wire) else { return };
        let kept = serde_json::to_string(&policy).unwrap();
        assert_eq!(serde_json::from_str::<Policy>(&kept).unwrap(), policy, "the journal keeps it");
        let document = rules::policy_rules(&policy);
        for line in document.lines() {
            let is_command = ["flush set ", "flush chain ", "add element ", "add rule "]
                .iter()
                .any(|command| line.starts_with(&format!("{command}inet rigbox ")));
            assert!(is_command, "{line:?}");
            assert!(
                line.chars().all(|c| c.is_ascii_graphic() || c == ' ') && !line.contains(['"', ';', '#'])
            );
        }
        let (node, limits) = (NetworkLimits::DEFAULT, policy.limits(NetworkLimits::DEFAULT));
        assert!(
            limits.connections <= node.connections && limits.bandwidth_mb_per_s <= node.bandwidth_mb_per_s
        );
        assert!(policy.app_ports().all(|port| policy.dial_port(port.into()) == Some(port)));
    });
}
