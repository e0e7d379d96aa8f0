//! AI proxy: what a VM sends to `http://172.16.0.1:9090` goes to a provider with the operator's key, and the key never enters the VM.
//!
//! `server` takes connections of VMs from the node and finds the [`route`] of each request; what is for the API goes over the `bridge` to
//! control. A `call` is read (`body`), walked through as a whole ([`json`], [`table`]), reserved with control's `ledger`, sent by
//! `upstream`, passed on by `pump` and settled. `dialect` has what differs between providers, one file each. `key_tests` tries the
//! operator's keys on request.
//!
//! `proxied` passes requests with a user's own credential on to its host (`public_hosts`), and searches the answer for it (`echo`).

mod body;
mod bridge;
mod call;
mod config;
mod connect;
mod control;
mod dialect;
mod echo;
mod error;
mod free_calls;
#[cfg(test)]
mod fuzz;
pub mod json;
mod key_tests;
mod ledger;
mod models;
mod proxied;
mod public_hosts;
mod pump;
mod response;
mod route;
mod server;
mod setup;
mod skeleton;
mod sse;
mod state;
pub mod table;
pub mod tables;
mod upstream;

pub use config::{Config, FREE_CALLS_PER_MINUTE, Limits, Peer, Proxy, SecretSource};
pub use connect::ProxyConfigError;
pub use server::{Bound, Error, bind};
