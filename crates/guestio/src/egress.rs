//! Outbound traffic of a VM: its resolver, the check of TLS server names, and the log of refused packets.

pub(crate) mod dns;
pub(crate) mod nflog;
pub(crate) mod sni;
