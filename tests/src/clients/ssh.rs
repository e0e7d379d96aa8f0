//! Programs of all kinds as clients of the SSH gateway: what works with a plain server works through it, and nothing else gets in.

mod client;

pub(crate) mod commands;
pub(crate) mod connecting;
pub(crate) mod copies;
pub(crate) mod foreign;
pub(crate) mod forwards;
pub(crate) mod load;
pub(crate) mod refusals;
pub(crate) mod security_keys;
