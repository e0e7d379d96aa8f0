//! Shared parts of the tests: the host, the installation under test, the network around it, and clients.

pub(crate) mod api;
pub(crate) mod console;
pub(crate) mod host;
pub(crate) mod installation;
pub(crate) mod internet;
pub(crate) mod roles;
pub(crate) mod search;
pub(crate) mod sockets;
pub(crate) mod terminal;
pub(crate) mod visitor;

/// Returns whether random tests run at full length.
pub(crate) fn is_soak() -> bool {
    std::env::var_os("RIGBOX_SOAK").is_some()
}
