//! Outbound traffic of a VM: its resolver, the check of TLS server names, and the log of refused packets.

mod accept;
mod budget;
pub(crate) mod dns;
pub(crate) mod nflog;
pub(crate) mod sni;

pub(crate) use budget::EgressBudget;
