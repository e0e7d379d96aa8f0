//! What `doctor` says of the way out of VMs: whether there is one, and whether something else on the host stands in it.

use serde_json::Value;

use super::uplink;
use crate::command;
use crate::config::{Config, UplinkMode};

/// Tables of the iptables that came before nftables, which does not list them.
const OLD_TABLES: &str = "/proc/net/ip_tables_names";

/// Good or not, the message, the remedy.
pub(crate) fn look(config: &Config) -> (bool, String, String) {
    let fine = |message: String| (true, message, String::new());
    if config.uplink == UplinkMode::None {
        return fine("nothing leaves a VM's network (`node.uplink` is `none`)".to_owned());
    }
    let devices = match uplink::outside() {
        Ok(devices) if !devices.is_empty() => devices,
        _ => {
            let remedy =
                "give the host a default route and start Rigbox again, or set `node.uplink = \"none\"`";
            return (
                false,
                "the host has no default route, so VMs reach nothing".to_owned(),
                remedy.to_owned(),
            );
        }
    };
    if let Some(device) = uplink::not_forwarding(config, &devices) {
        let setting = format!("net.ipv4.conf.{device}.forwarding");
        let message = format!("the host does not forward packets, so VMs reach nothing: {setting} is not 1");
        return (false, message, format!("sysctl -w {setting}=1, and see what switches it off"));
    }
    let outside = devices.join(", ");
    let chains = command::run("nft", &["-j", "list", "chains"]).unwrap_or_default();
    let mut foreign = dropping(&chains);
    // Its tables come into being when somebody asks for them, so it is asked only where there are some.
    if std::fs::read_to_string(OLD_TABLES).is_ok_and(|tables| tables.lines().any(|table| table == "filter")) {
        foreign.extend(dropping_of_old(command::run("iptables-legacy", &["-S", "FORWARD"]).ok().as_deref()));
    }
    if foreign.is_empty() {
        return fine(format!("VMs reach the internet by {outside}"));
    }
    let message = format!("another firewall may stop VMs on their way to {outside}: {}", foreign.join(", "));
    (false, message, format!("let `rb-{}` through there, both ways", config.installation))
}

/// Chains that drop what is forwarded unless one of their rules lets it through. Ours let through what they do not know.
fn dropping(chains: &str) -> Vec<String> {
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
            "chain `{} {} {}` drops what it does not know",
            text("family")?,
            text("table")?,
            text("name")?
        ))
    })
    .collect()
}

/// The same of the old iptables, by what it says of its chain; `None`: it cannot be asked.
fn dropping_of_old(said: Option<&str>) -> Option<String> {
    match said {
        None => Some(
            "the old iptables, whose rules cannot be read without its program `iptables-legacy`".to_owned(),
        ),
        Some(rules) if rules.lines().any(|rule| rule == "-P FORWARD DROP") => {
            Some("chain `FORWARD` of the old iptables drops what it does not know".to_owned())
        }
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::dropping;

    #[test]
    fn a_foreign_firewall_is_named() {
        let chains = r#"{"nftables": [
            {"metainfo": {"version": "1.0.6"}},
            {"chain": {"family": "ip", "table": "filter", "name": "FORWARD", "handle": 1, "type": "filter", "hook": "forward", "prio": 0, "policy": "drop"}},
            {"chain": {"family": "inet", "table": "rigbox_aaaaaaaa", "name": "forward", "hook": "forward", "policy": "accept"}},
            {"chain": {"family": "ip6", "table": "filter", "name": "FORWARD", "hook": "forward", "policy": "drop"}},
            {"chain": {"family": "ip", "table": "filter", "name": "INPUT", "hook": "input", "policy": "drop"}},
            {"chain": {"family": "ip", "table": "nat", "name": "DOCKER"}}
        ]}"#;
        assert_eq!(dropping(chains), ["chain `ip filter FORWARD` drops what it does not know"]);
        assert!(dropping("").is_empty());
    }
}
