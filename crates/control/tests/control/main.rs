//! Control with a real database and real sockets, and a simulated node. It is one program because each takes a minute and a half to compile.

// clippy's exemption for tests does not cover helpers outside of test functions.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod ai;
mod ai_proxy;
mod ai_settings;
mod api_keys;
mod apps;
mod bridge;
mod environment;
mod freed_memory;
mod gateways;
mod guests;
mod limits;
mod matrix;
mod networks;
mod openapi;
mod own_keys;
mod recovery;
mod reference;
mod restore;
mod revocation;
mod schemas;
mod sign_in;
mod ssh_keys;
mod ssh_log_ins;
mod ssh_refusals;
mod ssh_sessions;
mod support;
mod workspaces;
