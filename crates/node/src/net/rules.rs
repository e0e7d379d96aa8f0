//! Rules of the node's namespaces as documents for nft(8), which applies a document atomically. Each ruleset is a file of its own, so that
//! the reviewed text is the loaded text. All values that are inserted are numbers or names of our own by type, so no text from a request
//! can become a rule.

use std::fmt::{Display, Write};
use std::io;
use std::net::Ipv4Addr;
use std::time::Duration;

use rigbox_core::egress::Egress;

use super::dialer::Dialer;
use super::limit_rules::LimitRules;
use super::policy::Policy;
use crate::command;
use crate::config::NetworkConfig;

const VM_RULES: &str = include_str!("vm.nft");
const HOST_RULES: &str = include_str!("host.nft");
const EGRESS_RULES: &str = include_str!("egress.nft");

/// Highest uid, which no process has by convention.
const NO_UID: u32 = u32::MAX - 1;
/// Number of lists in which the connections of all VMs are counted.
const CONNECTION_PARTS: u32 = 64;

const POLICY_CHAINS: [&str; 5] =
    ["policy_out", "policy_in", "policy_checked_redirect", "policy_checked_out", "policy_checked_in"];
const ALLOW_ALL: [&str; 2] = ["policy_out accept", "policy_in accept"];
const DENY_ALL: [&str; 2] = ["policy_out goto refuse", "policy_in drop"];
/// The list applies to every packet in both directions: established connections are not exempt. Addresses and ports in use stay in
/// `active`. Ports 443 and 80 of a name are reachable only through the checks, and not over UDP: HTTP/3 would hide the server name.
const ALLOW_LISTED: [&str; 16] = [
    "policy_out ip daddr @cidrs accept",
    "policy_out meta l4proto { tcp, udp } th dport { 80, 443 } goto refuse",
    "policy_out meta l4proto { tcp, udp } ip daddr . th dport @admitted update @active { ip daddr . th dport } accept",
    "policy_out meta l4proto { tcp, udp } ip daddr . th dport @active ct state established update @active { ip daddr . th dport } accept",
    "policy_out goto refuse",
    "policy_in ip saddr @cidrs accept",
    "policy_in meta l4proto { tcp, udp } th sport { 80, 443 } drop",
    "policy_in meta l4proto { tcp, udp } ip saddr . th sport @admitted accept",
    "policy_in meta l4proto { tcp, udp } ip saddr . th sport @active accept",
    "policy_in drop",
    "policy_checked_redirect ip daddr != @cidrs ip daddr . tcp dport @admitted tcp dport 443 redirect to :8443",
    "policy_checked_redirect ip daddr != @cidrs ip daddr . tcp dport @admitted tcp dport 80 redirect to :8080",
    "policy_checked_out tcp dport { 80, 443 } ip daddr . tcp dport @admitted update @active { ip daddr . tcp dport } accept",
    "policy_checked_out tcp dport { 80, 443 } ip daddr . tcp dport @active ct state established update @active { ip daddr . tcp dport } accept",
    "policy_checked_in ip saddr . tcp sport @admitted accept",
    "policy_checked_in ip saddr . tcp sport @active accept",
];

/// Rules that are loaded once. To load them again would forget how many connections there are, and until when those are remembered.
pub(super) struct Ruleset {
    table: String,
    document: String,
    /// Name of an empty chain that tells which rules are loaded.
    version: String,
}

impl Ruleset {
    fn new(table: &str, document: String) -> Self {
        let version = format!("version_{:.16}", blake3::hash(document.as_bytes()).to_hex());
        Self { table: table.to_owned(), document, version }
    }

    /// Loads the rules in the network namespace of the calling thread, unless these are loaded.
    pub(super) fn load(&self) -> io::Result<()> {
        if command::run("nft", &["list", "chain", "inet", &self.table, &self.version]).is_ok() {
            return Ok(());
        }
        apply(&self.document())
    }

    fn document(&self) -> String {
        let Self { table, document, version } = self;
        format!("{document}add chain inet {table} {version}\n")
    }

    /// Returns a document that changes nothing, and fails where other rules are loaded.
    fn expect(&self) -> String {
        let Self { table, version, .. } = self;
        format!("flush chain inet {table} {version}\n")
    }
}

/// Returns the rules of the egress namespace, for at most `total` connections of all VMs. Those of one VM are limited by the node's number,
/// and by [`super::limit_rules::connection_rules`].
pub(super) fn egress_ruleset(config: &NetworkConfig, total: u32) -> Ruleset {
    let mut document = EGRESS_RULES.replace("MAX_CONNECTIONS", &config.limits.connections.to_string());
    limit_connections(&mut document, "rigbox", total);
    Ruleset::new("rigbox", document)
}

/// Appends the limit of all connections to the chain `connect`. The kernel walks the list of what it counts, so there is a list for each
/// part of the connections. Which part a connection belongs to follows from a secret of the kernel, so no VM can fill one on purpose.
fn limit_connections(document: &mut String, table: &str, total: u32) {
    let limit = (total / CONNECTION_PARTS).max(1);
    for part in 0..CONNECTION_PARTS {
        push_line(document, format_args!("add chain inet {table} part{part}"));
        push_line(document, format_args!("add rule inet {table} part{part} ct count over {limit} drop"));
    }
    let parts: Vec<_> = (0..CONNECTION_PARTS).map(|part| format!("{part} : jump part{part}")).collect();
    let part = format!("jhash ip saddr . ip daddr . th sport . th dport mod {CONNECTION_PARTS}");
    let parts = parts.join(", ");
    push_line(
        document,
        format_args!("add rule inet {table} connect meta l4proto {{ tcp, udp }} {part} vmap {{ {parts} }}"),
    );
}

/// Returns the rules of a VM's namespace that do not depend on its policy.
fn vm_ruleset(config: &NetworkConfig) -> Ruleset {
    let (first, last) = config.vmm_uids.unwrap_or((NO_UID, NO_UID));
    let mut document = VM_RULES
        .replace("MARK_OF_EDGE", &Dialer::Edge.mark().to_string())
        .replace("MARK_OF_SSH", &Dialer::Ssh.mark().to_string())
        .replace("VMM_UIDS", &format!("{first}-{last}"));
    add_elements(&mut document, "rigbox", "blocked_networks", config.blocked.iter());
    Ruleset::new("rigbox", document)
}

fn limit_rules(config: &NetworkConfig, policy: &Policy) -> LimitRules {
    LimitRules::new(&policy.limits(config.limits))
}

/// Returns the full ruleset of a new VM's namespace.
pub(super) fn full_ruleset(config: &NetworkConfig, policy: &Policy) -> String {
    vm_ruleset(config).document() + &limit_rules(config, policy).replace() + &policy_rules(policy)
}

/// Puts a policy in force in the namespace of the calling thread, and `changes` in the same step. Rules of limits stay as they are, unless
/// these changed: they count.
pub(super) fn apply_policy(config: &NetworkConfig, policy: &Policy, changes: &str) -> io::Result<()> {
    let (limits, document) = (limit_rules(config, policy), policy_rules(policy) + changes);
    apply(&(limits.expect() + &document)).or_else(|_| apply(&(limits.replace() + &document)))
}

/// Restores the rules of a VM that an earlier node started, in its namespace, whose thread is calling. What is as it should be stays.
pub(super) fn restore(config: &NetworkConfig, policy: &Policy) -> io::Result<()> {
    let same_version = vm_ruleset(config).expect();
    apply_policy(config, policy, &same_version).or_else(|_| apply(&full_ruleset(config, policy)))
}

/// Returns the rules that let nothing pass, whatever the others allow, or that remove them again.
pub(super) fn link(is_open: bool) -> String {
    // Added first, so that the deletion cannot fail.
    let mut document = String::from("add table inet closed\ndelete table inet closed\n");
    if !is_open {
        push_line(&mut document, format_args!("add table inet closed"));
        for hook in ["prerouting", "output"] {
            let chain = format!("{hook} {{ type filter hook {hook} priority -500; policy drop; }}");
            push_line(&mut document, format_args!("add chain inet closed {chain}"));
        }
    }
    document
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

/// Address and port of a listed name.
pub(super) type Endpoint = (Ipv4Addr, u16);

/// Returns the rules that admit endpoints for a time. The time of an admitted endpoint starts again.
pub(super) fn admit(endpoints: impl Iterator<Item = (Endpoint, Duration)>) -> String {
    let mut document = String::new();
    for ((address, port), ttl) in endpoints {
        // Added first, so that the deletion cannot fail. Not every kernel updates the timeout of an existing element.
        push_line(&mut document, format_args!("add element inet rigbox admitted {{ {address} . {port} }}"));
        push_line(
            &mut document,
            format_args!("delete element inet rigbox admitted {{ {address} . {port} }}"),
        );
        let seconds = ttl.as_secs().max(1);
        push_line(
            &mut document,
            format_args!("add element inet rigbox admitted {{ {address} . {port} timeout {seconds}s }}"),
        );
    }
    document
}

/// Returns the rules that replace all admitted endpoints. Those of them that are in use stay active.
pub(super) fn replace_admitted(endpoints: &[(Endpoint, Duration)]) -> String {
    let mut document = String::from("flush set inet rigbox admitted\nflush set inet rigbox active\n");
    let unexpired = endpoints.iter().filter(|(_, ttl)| !ttl.is_zero());
    add_elements(
        &mut document,
        "rigbox",
        "admitted",
        unexpired
            .map(|((address, port), ttl)| format!("{address} . {port} timeout {}s", ttl.as_secs().max(1))),
    );
    let all = endpoints.iter().map(|((address, port), _)| format!("{address} . {port}"));
    add_elements(&mut document, "rigbox", "active", all);
    document
}

/// Returns the host's rules for the uplink `link`, with all VMs behind `peer`, for at most `total` connections. `table` belongs to the
/// installation.
pub(super) fn host_ruleset(
    config: &NetworkConfig,
    table: &str,
    link: &str,
    peer: Ipv4Addr,
    total: u32,
    enabled_devices: &[String],
) -> Ruleset {
    let mut document =
        HOST_RULES.replace("TABLE", table).replace("LINK", link).replace("PEER", &peer.to_string());
    limit_connections(&mut document, table, total);
    add_elements(&mut document, table, "blocked_networks", config.blocked.iter());
    add_elements(
        &mut document,
        table,
        "enabled_devices",
        enabled_devices.iter().map(|name| format!("{name:?}")),
    );
    Ruleset::new(table, document)
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
