//! The proxy between a client and a provider: real sockets on all sides, the provider of the tests, and a table in control's place.

// clippy's exemption for tests does not cover helpers outside of test functions.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod behind_proxy;
mod bypasses;
mod errors;
mod forwarding;
mod host;
mod http2;
mod keys;
mod money;
mod own_keys;
mod proxied;
mod tls;
