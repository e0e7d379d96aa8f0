//! Isolation of VMM processes: the jail, control groups, and process handles.

mod block_device;
pub(crate) mod cgroup;
pub mod jail;
pub(crate) mod process;
pub(crate) mod run_folder;
mod scope;
mod system_calls;
