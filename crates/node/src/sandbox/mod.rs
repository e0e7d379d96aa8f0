//! Isolation of VMM processes: the jail, control groups, and process handles.

mod block_device;
pub(crate) mod cgroup;
pub mod jail;
pub(crate) mod process;
mod scope;
mod system_calls;
