//! The CLI as a process, against a server of the test's own.

// clippy's exemption for tests does not cover helpers outside of test functions.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod account;
mod ai;
mod apps;
mod environment;
mod exec;
mod login;
mod ssh_keys;
mod support;
mod workspaces;
