//! Domain rules as plain functions on plain types: no I/O, no async, no clock (time is passed in).

pub mod ai;
pub mod app_access;
pub mod apps;
pub mod authz;
pub mod dialing;
pub mod egress;
pub mod environment;
pub mod ids;
pub mod lifecycle;
pub mod names;
pub mod plans;
pub mod proxied_secret;
pub mod resources;
pub mod signals;
pub mod ssh_names;
pub mod status;
pub mod system;
pub mod templates;
pub mod time;
pub mod tokens;
pub mod vm_limits;
