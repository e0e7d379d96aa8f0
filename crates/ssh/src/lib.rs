//! SSH gateway: authenticates a client by its public key, then relays packets one to one between it and the VM's own SSH server. Windows,
//! order, replies and extensions of the connection protocol are those of the two ends.
//!
//! `transport` is SSH's transport layer without I/O, for both roles; `connection` reads and writes its bytes; `authentication` has the
//! messages of a log-in; `relay` moves the packets between two connections; `public_key` reads keys that users register.

pub mod authentication;
pub mod connection;
pub mod key;
mod message;
pub mod public_key;
pub mod relay;
pub mod transport;
mod wire;
