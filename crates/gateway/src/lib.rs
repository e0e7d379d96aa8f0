//! Shared by the gateways (`edge` and `ssh` today; `ai` later): how long control's decisions may be cached, how active grants end when
//! their permission does, the connections of clients, and dialing into VMs.
//!
//! A gateway caches decisions only under a [`lease`]: control renews it every fraction of a second and announces each change. A change
//! advances the [`epochs`], which invalidates cached decisions, and has every affected [`active_grants`] entry decided again.

pub mod active_grants;
pub mod attempts;
pub mod clock;
pub mod connections;
pub mod control_client;
pub mod dial;
pub mod epochs;
pub mod lease;
