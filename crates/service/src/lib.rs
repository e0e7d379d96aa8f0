//! Services of the control role: what the platform does, one folder per noun, and the reconciler that carries
//! it out. A function with an effect takes the permit for it. Services know no HTTP: callers pass plain
//! values.

pub mod ai;
pub mod apps;
pub mod audit;
pub mod clock;
pub mod database;
pub mod environment;
pub mod error;
pub mod gateways;
pub mod guests;
pub mod health;
pub mod identity;
mod key_names;
pub mod network;
pub mod nodes;
pub mod proxied_secrets;
pub mod quick_deploy;
pub mod rate_limits;
pub mod reconciler;
pub mod records;
mod rpc;
pub mod ssh_gateway_keys;
pub mod ssh_key_sync;
pub mod ssh_keys;
pub mod ssh_known_hosts;
pub mod ssh_log_ins;
pub mod ssh_sessions;
pub mod ssh_settings;
mod ssh_start;
pub mod ssh_streams;
pub mod targets;
pub mod transitions;
pub mod users;
pub mod vm_limits;
pub mod workspace_log;
pub mod workspaces;
