//! The few system calls that Rigbox needs and no safe crate offers, safe outside. `unsafe` stands nowhere else.

#![allow(unsafe_code)] // this crate is its one place; clippy demands a SAFETY comment for each block

pub mod async_file;
pub mod block;
pub mod fdpass;
pub mod network;
pub mod privileges;
pub mod spawn;
pub mod tsc;
