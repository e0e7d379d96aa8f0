//! Outbound traffic of a VM: its resolver, the checks of the names of TLS and HTTP connections, and the log of refused packets.

mod accept;
mod budget;
pub(crate) mod dns;
mod encrypted_name;
pub(crate) mod http;
pub(crate) mod nflog;
pub(crate) mod sni;
#[cfg(test)]
mod testbed;
mod upstream;

pub(crate) use budget::{DnsShare, EgressBudget};
