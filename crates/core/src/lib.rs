//! Rigbox's rules as plain functions on plain types: no I/O, no async, no clock (time comes in as a value).

pub mod ids;
