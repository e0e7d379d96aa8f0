//! Rules of the node's namespaces as documents for nft(8), which applies a document atomically. Each ruleset is a file of its own, so that
//! the reviewed text is the loaded text. All values that are inserted are numbers or names of our own by type, so no text from a request
//! can become a rule.

use std::fmt::{Display, Write};
use std::io;
use std::net::Ipv4Addr;
use std::time::Duration;

use rigbox_core::egress::{Egress, RESERVED_NETWORKS};

use super::policy::Policy;
use crate::command;

const VM_RULES: &str = include_str!("vm.nft");
const HOST_RULES: &str = include_str!("host.nft");
/// Rules of the egress namespace.
pub(super) const EGRESS_RULES: &str = include_str!("egress.nft");

const POLICY_CHAINS: [&str; 5] =
    ["policy_out", "policy_in", "policy_sni_redirect", "policy_sni_out", "policy_sni_in"];
const ALLOW_ALL: [&str; 2] = ["policy_out accept", "policy_in accept"];
const DENY_ALL: [&str; 2] = ["policy_out goto refuse", "policy_in drop"];
/// The list applies to every packet in both directions: established connections are not exempt. Addresses in use stay in `active`. Port 443
/// of a name is reachable only through the TLS check. HTTP/3 is refused, because it would hide the server name.
const ALLOW_LISTED: [&str; 15] = [
    "policy_out ip daddr @cidrs accept",
    "policy_out meta l4proto { tcp, udp } th dport 443 goto refuse",
    "policy_out ip daddr @admitted update @active { ip daddr } accept",
    "policy_out ip daddr @active ct state established update @active { ip daddr } accept",
    "policy_out goto refuse",
    "policy_in ip saddr @cidrs accept",
    "policy_in tcp sport 443 drop",
    "policy_in ip saddr @admitted accept",
    "policy_in ip saddr @active accept",
    "policy_in drop",
    "policy_sni_redirect ip daddr != @cidrs ip daddr @admitted tcp dport 443 redirect to :8443",
    "policy_sni_out tcp dport 443 ip daddr @admitted update @active { ip daddr } accept",
    "policy_sni_out tcp dport 443 ip daddr @active ct state established update @active { ip daddr } accept",
    "policy_sni_in ip saddr @admitted accept",
    "policy_sni_in ip saddr @active accept",
];

/// Returns the full ruleset of a new VM's namespace.
pub(super) fn full_ruleset(policy: &Policy) -> String {
    let mut document = VM_RULES.to_owned();
    add_elements(
        &mut document,
        "rigbox",
        "reserved_networks",
        RESERVED_NETWORKS.iter().map(|(network, prefix)| format!("{network}/{prefix}")),
    );
    document + &policy_rules(policy)
}

/// Returns the rules that replace the policy. Admitted addresses stay.
pub(super) fn policy_rules(policy: &Policy) -> String {
    let mut document = String::new();
    for set in ["app_ports", "cidrs"] {
        push_line(&mut document, format_args!("flush set inet rigbox {set}"));
    }
    add_elements(&mut document, "rigbox", "app_ports", policy.app_ports());
    let rules: &[&str] = match policy.egress() {
        Egress::Internet => &ALLOW_ALL,
        Egress::None => &DENY_ALL,
        Egress::List { cidrs, .. } => {
            add_elements(&mut document, "rigbox", "cidrs", cidrs);
            &ALLOW_LISTED
        }
    };
    for chain in POLICY_CHAINS {
        push_line(&mut document, format_args!("flush chain inet rigbox {chain}"));
    }
    for rule in rules {
        push_line(&mut document, format_args!("add rule inet rigbox {rule}"));
    }
    document
}

/// Returns the rules that admit addresses for a time. The time of an admitted address starts again.
pub(super) fn admit_addresses(addresses: impl Iterator<Item = (Ipv4Addr, Duration)>) -> String {
    let mut document = String::new();
    for (address, ttl) in addresses {
        // Added first, so that the deletion cannot fail. Not every kernel updates the timeout of an existing element.
        push_line(&mut document, format_args!("add element inet rigbox admitted {{ {address} }}"));
        push_line(&mut document, format_args!("delete element inet rigbox admitted {{ {address} }}"));
        let seconds = ttl.as_secs().max(1);
        push_line(
            &mut document,
            format_args!("add element inet rigbox admitted {{ {address} timeout {seconds}s }}"),
        );
    }
    document
}

/// Returns the rules that replace all admitted addresses. Those of them that are in use stay active.
pub(super) fn replace_addresses(addresses: &[(Ipv4Addr, Duration)]) -> String {
    let mut document = String::from("flush set inet rigbox admitted\nflush set inet rigbox active\n");
    let unexpired = addresses.iter().filter(|(_, ttl)| !ttl.is_zero());
    add_elements(
        &mut document,
        "rigbox",
        "admitted",
        unexpired.map(|(address, ttl)| format!("{address} timeout {}s", ttl.as_secs().max(1))),
    );
    add_elements(&mut document, "rigbox", "active", addresses.iter().map(|(address, _)| address));
    document
}

/// Returns the host's rules for the uplink `link`, with all VMs behind `peer`. `table` belongs to the installation.
pub(super) fn host_rules(table: &str, link: &str, peer: Ipv4Addr, enabled_devices: &[String]) -> String {
    let mut document =
        HOST_RULES.replace("TABLE", table).replace("LINK", link).replace("PEER", &peer.to_string());
    add_elements(
        &mut document,
        table,
        "reserved_networks",
        RESERVED_NETWORKS.iter().map(|(network, prefix)| format!("{network}/{prefix}")),
    );
    add_elements(
        &mut document,
        table,
        "enabled_devices",
        enabled_devices.iter().map(|name| format!("{name:?}")),
    );
    document
}

/// Returns the document that removes the host's rules.
pub(super) fn remove_host_rules(table: &str) -> String {
    // Added first, so that the deletion cannot fail.
    format!("add table inet {table}\ndelete table inet {table}\n")
}

fn push_line(document: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a `String` does not fail.
    let _ = writeln!(document, "{text}");
}

/// Appends a command that adds elements to a set.
fn add_elements<T: Display>(
    document: &mut String,
    table: &str,
    set: &str,
    elements: impl IntoIterator<Item = T>,
) {
    let elements: Vec<String> = elements.into_iter().map(|element| element.to_string()).collect();
    if !elements.is_empty() {
        push_line(document, format_args!("add element inet {table} {set} {{ {} }}", elements.join(", ")));
    }
}

/// Applies a document in the network namespace of the calling thread.
pub(super) fn apply(document: &str) -> io::Result<()> {
    command::run_with_input("nft", &["-f", "-"], document).map(drop).map_err(io::Error::other)
}
