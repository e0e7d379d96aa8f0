//! Safe wrappers for the few system calls that no safe crate offers. No other crate of Rigbox contains `unsafe`.

#![allow(unsafe_code)] // the only crate that may; clippy requires a SAFETY comment on each block

pub mod allocator;
pub mod async_file;
pub mod block;
pub mod clock;
pub mod fdpass;
pub mod kill_points;
pub mod network;
pub mod privileges;
pub mod project_quota;
pub mod random;
pub mod seccomp;
pub mod spawn;
pub mod tsc;
pub mod vsock;
