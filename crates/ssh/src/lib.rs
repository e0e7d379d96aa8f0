//! SSH gateway: authenticates a client by its public key, then relays packets one to one between it and the VM's own SSH server. Windows,
//! order, replies and extensions of the connection protocol are those of the two ends.
//!
//! `transport` is SSH's transport layer without I/O, for both roles; `connection` reads and writes its bytes; `authentication` has the
//! messages of a log-in; `relay` moves the packets between two connections, with the `global_replies` in order and the `host_keys` proved.
//! `server` is the role: for each client, from the network or by control's `streams`, a `session`, which is a `log_in` that `control`
//! decides about, the `start` of a workspace that is to run, a connection to the `vm`, and the relay between them, until a `review` ends
//! it. Control has a `session_record` of each, and an `attachment` by which it knows that the gateway is there.

mod attachment;
pub mod authentication;
mod config;
pub mod connection;
mod control;
mod disconnect;
#[cfg(test)]
mod fuzz;
mod global_replies;
pub mod host_keys;
mod log_in;
mod log_in_end;
mod message;
pub mod relay;
mod review;
mod server;
mod session;
mod session_record;
mod socket;
mod start;
mod state;
mod streams;
pub mod transport;
mod vm;

pub use config::{Config, Limits, Streams};
pub use server::{Bound, Error, bind};
