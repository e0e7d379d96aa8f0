//! The rules of the node's namespaces as documents for `nft`, which carries out a document whole or not at all. Each is a file of its own, so
//! that what is reviewed is what is loaded. Everything that is put into one is a number or a name of ours by its type, so no text of a request
//! ever becomes a rule.

use std::fmt::{Display, Write};
use std::io;
use std::net::Ipv4Addr;
use std::time::Duration;

use rigbox_core::egress::{Egress, RESERVED_NETWORKS};

use super::policy::Policy;
use crate::command;

const VM: &str = include_str!("vm.nft");
const HOST: &str = include_str!("host.nft");
/// Of the egress namespace.
pub(super) const EGRESS: &str = include_str!("egress.nft");

const CHAINS: [&str; 5] =
    ["policy_out", "policy_in", "policy_check", "policy_checked_out", "policy_checked_in"];
const ALL: [&str; 2] = ["policy_out accept", "policy_in accept"];
const NOTHING: [&str; 2] = ["policy_out goto refuse", "policy_in drop"];
/// The list is asked for each packet, both ways: an established connection has no privilege. What is in use stays in `live`. To port 443
/// of a name only what was checked goes on; HTTP/3 would hide the name that it asks for.
const LISTED: [&str; 15] = [
    "policy_out ip daddr @cidrs accept",
    "policy_out meta l4proto { tcp, udp } th dport 443 goto refuse",
    "policy_out ip daddr @named update @live { ip daddr } accept",
    "policy_out ip daddr @live ct state established update @live { ip daddr } accept",
    "policy_out goto refuse",
    "policy_in ip saddr @cidrs accept",
    "policy_in tcp sport 443 drop",
    "policy_in ip saddr @named accept",
    "policy_in ip saddr @live accept",
    "policy_in drop",
    "policy_check ip daddr != @cidrs ip daddr @named tcp dport 443 redirect to :8443",
    "policy_checked_out tcp dport 443 ip daddr @named update @live { ip daddr } accept",
    "policy_checked_out tcp dport 443 ip daddr @live ct state established update @live { ip daddr } accept",
    "policy_checked_in ip saddr @named accept",
    "policy_checked_in ip saddr @live accept",
];

/// All rules of a VM's namespace, for its beginning.
pub(super) fn whole(policy: &Policy) -> String {
    let mut document = VM.to_owned();
    add(
        &mut document,
        "rigbox",
        "never",
        RESERVED_NETWORKS.iter().map(|(network, prefix)| format!("{network}/{prefix}")),
    );
    document + &of_policy(policy)
}

/// The policy alone, in place of the one before. Addresses of names stay.
pub(super) fn of_policy(policy: &Policy) -> String {
    let mut document = String::new();
    for set in ["app_ports", "cidrs"] {
        line(&mut document, format_args!("flush set inet rigbox {set}"));
    }
    add(&mut document, "rigbox", "app_ports", policy.app_ports());
    let rules: &[&str] = match policy.egress() {
        Egress::Internet => &ALL,
        Egress::None => &NOTHING,
        Egress::List { cidrs, .. } => {
            add(&mut document, "rigbox", "cidrs", cidrs);
            &LISTED
        }
    };
    for chain in CHAINS {
        line(&mut document, format_args!("flush chain inet rigbox {chain}"));
    }
    for rule in rules {
        line(&mut document, format_args!("add rule inet rigbox {rule}"));
    }
    document
}

/// Lets addresses of names through for a while, anew if they are through already.
pub(super) fn of_names(addresses: impl Iterator<Item = (Ipv4Addr, Duration)>) -> String {
    let mut document = String::new();
    for (address, time) in addresses {
        // Added first, so that one that is not there can be deleted: not every kernel sets the time of an element anew.
        line(&mut document, format_args!("add element inet rigbox named {{ {address} }}"));
        line(&mut document, format_args!("delete element inet rigbox named {{ {address} }}"));
        let seconds = time.as_secs().max(1);
        line(&mut document, format_args!("add element inet rigbox named {{ {address} timeout {seconds}s }}"));
    }
    document
}

/// These addresses of names and no others; what is in use of them stays so.
pub(super) fn of_names_alone(addresses: &[(Ipv4Addr, Duration)]) -> String {
    let mut document = String::from("flush set inet rigbox named\nflush set inet rigbox live\n");
    let counting = addresses.iter().filter(|(_, time)| !time.is_zero());
    add(
        &mut document,
        "rigbox",
        "named",
        counting.map(|(a, time)| format!("{a} timeout {}s", time.as_secs().max(1))),
    );
    add(&mut document, "rigbox", "live", addresses.iter().map(|(address, _)| address));
    document
}

/// The host's side of the uplink `link`, with all VMs behind `peer`; `table` is the installation's own.
pub(super) fn host(table: &str, link: &str, peer: Ipv4Addr, switched: &[String]) -> String {
    let mut document = HOST.replace("TABLE", table).replace("LINK", link).replace("PEER", &peer.to_string());
    add(
        &mut document,
        table,
        "never",
        RESERVED_NETWORKS.iter().map(|(network, prefix)| format!("{network}/{prefix}")),
    );
    add(&mut document, table, "switched", switched.iter().map(|name| format!("{name:?}")));
    document
}

/// Removes the host's side.
pub(super) fn no_host(table: &str) -> String {
    // Added first, so that one that is not there is no error.
    format!("add table inet {table}\ndelete table inet {table}\n")
}

fn line(document: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a `String` does not fail.
    let _ = writeln!(document, "{text}");
}

fn add<T: Display>(document: &mut String, table: &str, set: &str, elements: impl IntoIterator<Item = T>) {
    let elements: Vec<String> = elements.into_iter().map(|element| element.to_string()).collect();
    if !elements.is_empty() {
        line(document, format_args!("add element inet {table} {set} {{ {} }}", elements.join(", ")));
    }
}

/// Carries a document out in the network namespace of the calling thread.
pub(super) fn apply(document: &str) -> io::Result<()> {
    command::feed("nft", &["-f", "-"], document).map(drop).map_err(io::Error::other)
}
