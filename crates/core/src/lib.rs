//! Rigbox's rules as plain functions on plain types: no I/O, no async, no clock (time comes in as a value).

pub mod access;
pub mod apps;
pub mod egress;
pub mod environment;
pub mod ids;
pub mod lifecycle;
pub mod names;
pub mod permit;
pub mod plans;
pub mod sizes;
pub mod status;
pub mod templates;
pub mod time;
pub mod tokens;
