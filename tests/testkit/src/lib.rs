//! Shared parts of the tests of several crates: waiting for conditions, and simulated parts of Rigbox. No program depends on it but benchmarks.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a panic is a failed test

pub mod blocking;
pub mod dial;
mod eventually;
pub mod gateway;
mod own_process;
mod pieces;
pub mod report;

pub use eventually::eventually;
pub use own_process::in_own_process;
pub use pieces::{Pieces, Written};
