//! Diagnosis of the VMs' connection to the outside: whether there is one, and whether another firewall of the host blocks it.

use serde_json::Value;

use super::uplink;
use crate::command;
use crate::config::{Config, UplinkMode};

/// Lists the tables of iptables-legacy, which nft does not show.
const LEGACY_TABLES: &str = "/proc/net/ip_tables_names";

/// Result of a diagnosis.
pub(crate) struct Diagnosis {
    pub(crate) is_ok: bool,
    pub(crate) message: String,
    /// How to fix the problem. Empty if there is none.
    pub(crate) remedy: String,
}

impl Diagnosis {
    fn ok(message: String) -> Self {
        Self { is_ok: true, message, remedy: String::new() }
    }

    fn problem(message: String, remedy: String) -> Self {
        Self { is_ok: false, message, remedy }
    }
}

/// Diagnoses the uplink.
pub(crate) fn diagnose(config: &Config) -> Diagnosis {
    if config.uplink == UplinkMode::None {
        return Diagnosis::ok("VMs have no connection to the outside (`node.uplink` is `none`)".to_owned());
    }
    let devices = match uplink::default_route_devices() {
        Ok(devices) if !devices.is_empty() => devices,
        _ => {
            return Diagnosis::problem(
                "the host has no default route, so VMs reach nothing".to_owned(),
                "Give the host a default route and restart Rigbox, or set `node.uplink = \"none\"`."
                    .to_owned(),
            );
        }
    };
    if let Some(device) = uplink::device_without_forwarding(config, &devices) {
        let setting = format!("net.ipv4.conf.{device}.forwarding");
        return Diagnosis::problem(
            format!("the host does not forward packets, so VMs reach nothing: {setting} is not 1"),
            format!("Run `sysctl -w {setting}=1`, and find out what disables it."),
        );
    }
    let devices = devices.join(", ");
    let chains = command::run("nft", &["-j", "list", "chains"]).unwrap_or_default();
    let mut blockers = dropping_chains(&chains);
    // The program creates its tables when it is run, so it is only run if they exist.
    if std::fs::read_to_string(LEGACY_TABLES)
        .is_ok_and(|tables| tables.lines().any(|table| table == "filter"))
    {
        let rules = command::run("iptables-legacy", &["-S", "FORWARD"]).ok();
        blockers.extend(legacy_blocker(rules.as_deref()));
    }
    if blockers.is_empty() {
        return Diagnosis::ok(format!("VMs reach the internet through {devices}"));
    }
    Diagnosis::problem(
        format!("another firewall may block VMs on their way to {devices}: {}", blockers.join(", ")),
        format!("Allow `rb-{}` there, in both directions.", config.installation),
    )
}

/// Returns the chains that drop forwarded packets by default. Rigbox's own chains accept by default.
fn dropping_chains(chains: &str) -> Vec<String> {
    let document: Value = serde_json::from_str(chains).unwrap_or_default();
    let all = document.get("nftables").and_then(Value::as_array).into_iter().flatten();
    all.filter_map(|entry| {
        let chain = entry.get("chain")?;
        let text = |key: &str| chain.get(key).and_then(Value::as_str);
        if text("hook") != Some("forward") || text("policy") != Some("drop") || text("family") == Some("ip6")
        {
            return None;
        }
        Some(format!(
            "chain `{} {} {}` drops packets by default",
            text("family")?,
            text("table")?,
            text("name")?
        ))
    })
    .collect()
}

/// Returns the problem with iptables-legacy, from its listing of the chain `FORWARD`. `None`: the listing failed.
fn legacy_blocker(rules: Option<&str>) -> Option<String> {
    match rules {
        None => Some(
            "iptables-legacy, whose rules cannot be read without the program `iptables-legacy`".to_owned(),
        ),
        Some(rules) if rules.lines().any(|rule| rule == "-P FORWARD DROP") => {
            Some("chain `FORWARD` of iptables-legacy drops packets by default".to_owned())
        }
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::dropping_chains;

    #[test]
    fn dropping_chain_of_another_firewall_is_named() {
        let chains = r#"{"nftables": [
            {"metainfo": {"version": "1.0.6"}},
            {"chain": {"family": "ip", "table": "filter", "name": "FORWARD", "handle": 1, "type": "filter", "hook": "forward", "prio": 0, "policy": "drop"}},
            {"chain": {"family": "inet", "table": "rigbox_aaaaaaaa", "name": "forward", "hook": "forward", "policy": "accept"}},
            {"chain": {"family": "ip6", "table": "filter", "name": "FORWARD", "hook": "forward", "policy": "drop"}},
            {"chain": {"family": "ip", "table": "filter", "name": "INPUT", "hook": "input", "policy": "drop"}},
            {"chain": {"family": "ip", "table": "nat", "name": "DOCKER"}}
        ]}"#;
        assert_eq!(dropping_chains(chains), ["chain `ip filter FORWARD` drops packets by default"]);
        assert!(dropping_chains("").is_empty());
    }
}
