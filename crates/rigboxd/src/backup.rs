//! Backups: `rigboxd admin backup` and `restore`, which put the parts of control and of the node into one folder and back.

pub(crate) mod control_part;
pub(crate) mod create;
mod files;
mod manifest;
pub(crate) mod restore;
