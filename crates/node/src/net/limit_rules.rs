//! Rules for the limits of one VM: those of its own namespace, and its chain in the egress namespace.

use std::num::NonZeroU32;

use rigbox_core::vm_limits::NetworkLimits;

use crate::command;

const RULES: &str = include_str!("vm_limits.nft");
/// Packets per second and MB/s to the services for a VM, so that small packets take no more CPU time than large ones.
const PACKETS_PER_MB: u32 = 160;
/// Packets per second that every VM may send to these services.
const MIN_PACKETS_PER_S: u32 = 1_000;
/// Packets to the resolver for each DNS query that its cache does not answer.
const PACKETS_PER_DNS_QUERY: u32 = 10;
/// Answers to refused packets per second that every VM gets.
const MIN_REJECTS_PER_S: u32 = 10;

/// Rules of a VM's namespace for its limits.
pub(super) struct LimitRules {
    document: String,
    /// Number that tells which rules are loaded.
    version: u32,
}

impl LimitRules {
    pub(super) fn new(limits: &NetworkLimits) -> Self {
        let NetworkLimits {
            connections,
            new_connections_per_s,
            bandwidth_mb_per_s,
            bridge_connections,
            dns_queries: _,
            dns_queries_per_s,
        } = *limits;
        let (new, bandwidth) = (new_connections_per_s.get(), bandwidth_mb_per_s.get());
        let dns_packets = dns_queries_per_s.get().saturating_mul(PACKETS_PER_DNS_QUERY);
        let mut document = RULES.to_owned();
        // The longer one of two words that begin alike is first, and so is one that ends in another.
        for (word, number) in [
            ("DNS_PACKETS_PER_S", dns_packets),
            ("DNS_PACKETS_BURST", dns_packets.saturating_mul(2)),
            ("PACKETS_PER_S", bandwidth.saturating_mul(PACKETS_PER_MB).max(MIN_PACKETS_PER_S)),
            ("REJECTS_PER_S", (new / 4).max(MIN_REJECTS_PER_S)),
            ("MAX_CONNECTIONS", connections.get()),
            ("BRIDGE_CONNECTIONS", bridge_connections.get().into()),
            ("NEW_PER_S", new),
            ("NEW_BURST", new.saturating_mul(2)),
            ("BANDWIDTH_BURST", (bandwidth / 4).max(1)),
            ("BANDWIDTH", bandwidth),
        ] {
            document = document.replace(word, &number.to_string());
        }
        let [a, b, c, d, ..] = *blake3::hash(document.as_bytes()).as_bytes();
        Self { document, version: u32::from_be_bytes([a, b, c, d]) }
    }

    /// Returns the rules, in place of those of other limits. What is counted begins anew.
    pub(super) fn replace(&self) -> String {
        let Self { document, version } = self;
        format!("{document}add element inet rigbox limits_version {{ {version} }}\n")
    }

    /// Returns a document that changes nothing, and fails where other limits are loaded.
    pub(super) fn expect(&self) -> String {
        let element = format!("element inet rigbox limits_version {{ {} }}", self.version);
        format!("delete {element}\nadd {element}\n")
    }
}

/// Returns the rules that limit the connections of the VM behind `device` to fewer than the node allows each, for the egress namespace,
/// whose thread is calling. `None` if they are loaded, because to load them again would forget what they have counted.
pub(super) fn connection_rules(device: &str, connections: Option<NonZeroU32>) -> Option<String> {
    let rule = connections.map(|connections| format!("ct count over {connections} drop"));
    let loaded = command::run("nft", &["list", "chain", "inet", "rigbox", device]);
    match (loaded, &rule) {
        (Ok(loaded), Some(rule)) if loaded.contains(rule.as_str()) => return None,
        (Err(_), None) => return None,
        _ => {}
    }
    let mut document = format!("add chain inet rigbox {device}\nflush chain inet rigbox {device}\n");
    if let Some(rule) = rule {
        document += &format!("add rule inet rigbox {device} {rule}\n");
    }
    Some(document + &format!("add element inet rigbox limits {{ \"{device}\" : jump {device} }}\n"))
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU16;

    use rigbox_core::vm_limits::MbPerS;

    use super::*;

    #[test]
    fn each_number_is_derived_from_a_limit() {
        let limits = NetworkLimits {
            connections: NonZeroU32::new(11).unwrap(),
            new_connections_per_s: NonZeroU32::new(88).unwrap(),
            bandwidth_mb_per_s: MbPerS::new(33).unwrap(),
            bridge_connections: NonZeroU16::new(44).unwrap(),
            dns_queries_per_s: NonZeroU32::new(5).unwrap(),
            ..NetworkLimits::default()
        };
        let rules = LimitRules::new(&limits).replace();
        for rule in [
            "ct state new ct count over 11 drop",
            "ct state new limit rate over 88/second burst 176 packets drop",
            "limit rate over 33 mbytes/second burst 8 mbytes drop",
            "tcp dport { 8080, 8443, 9090 } limit rate over 5280/second burst 5280 packets drop",
            "tcp dport 9090 ct state new ct count over 44 drop",
            "th dport 53 limit rate over 50/second burst 100 packets drop",
            "limit rate 22/second burst 22 packets reject with icmpx admin-prohibited",
        ] {
            assert!(rules.contains(rule), "{rule}");
        }
        let is_word = |word: &str| word.len() > 2 && word.chars().all(|c| c.is_ascii_uppercase() || c == '_');
        let code = rules.lines().filter(|line| !line.trim_start().starts_with('#'));
        let words = code.flat_map(|line| line.split([' ', '/'])).filter(|word| is_word(word));
        assert_eq!(words.collect::<Vec<_>>(), Vec::<&str>::new());
    }

    #[test]
    fn limits_of_a_default_node_are_the_familiar_ones() {
        let rules = LimitRules::new(&NetworkLimits::DEFAULT).replace();
        for rule in [
            "limit rate over 500/second burst 1000 packets",
            "limit rate over 20000/second burst 20000 packets",
            "limit rate 50/second burst 50 packets reject with tcp reset",
            "ct count over 4096 drop",
        ] {
            assert!(rules.contains(rule), "{rule}");
        }
    }

    #[test]
    fn low_limits_leave_the_services_usable() {
        let one = NonZeroU32::MIN;
        let limits = NetworkLimits {
            new_connections_per_s: one,
            bandwidth_mb_per_s: MbPerS::new(1).unwrap(),
            dns_queries_per_s: one,
            ..NetworkLimits::default()
        };
        let rules = LimitRules::new(&limits).replace();
        for rule in [
            "limit rate over 10/second burst 20 packets",
            "limit rate over 1000/second burst 1000 packets",
            "limit rate 10/second burst 10 packets reject with tcp reset",
            "limit rate over 1 mbytes/second burst 1 mbytes",
        ] {
            assert!(rules.contains(rule), "{rule}");
        }
    }
}
