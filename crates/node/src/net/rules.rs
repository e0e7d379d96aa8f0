//! The rules of a VM's namespace as documents for `nft`, which carries out a document whole or not at all. Everything that is put into
//! one is a number by its type, so no text of a request ever becomes a rule.

use std::fmt::Write;
use std::io;
use std::process::{Command, Stdio};

use super::policy::Policy;

/// Everything but the policy. A file of its own, so that what is reviewed is what is loaded.
const VM: &str = include_str!("vm.nft");

/// All rules of a namespace, for its beginning.
pub(super) fn whole(policy: &Policy) -> String {
    format!("{VM}\n{}", of_policy(policy))
}

/// The policy alone, in place of the one before.
pub(super) fn of_policy(policy: &Policy) -> String {
    let mut document = String::from("flush set inet rigbox app_ports\n");
    add(&mut document, "app_ports", policy.app_ports());
    document
}

fn add<T: std::fmt::Display>(document: &mut String, set: &str, elements: impl IntoIterator<Item = T>) {
    let elements: Vec<String> = elements.into_iter().map(|element| element.to_string()).collect();
    if !elements.is_empty() {
        // Writing to a `String` does not fail.
        let _ = writeln!(document, "add element inet rigbox {set} {{ {} }}", elements.join(", "));
    }
}

/// Carries a document out in the network namespace of the calling thread.
pub(super) fn apply(document: &str) -> io::Result<()> {
    let mut nft = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| io::Error::other(format!("nft (Debian package nftables): {error}")))?;
    if let Some(mut stdin) = nft.stdin.take() {
        // When it does not read, its own message says more.
        let _ = io::Write::write_all(&mut stdin, document.as_bytes());
    }
    let output = nft.wait_with_output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!("nft: {}", said.chars().take(500).collect::<String>().trim())))
}
