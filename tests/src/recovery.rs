//! Recovery: what survives failures, and what nothing leaves behind.

pub(crate) mod conformance;
pub(crate) mod crashes;
pub(crate) mod failing_disks;
pub(crate) mod kill_points;
pub(crate) mod leftovers;
pub(crate) mod lifecycle;
pub(crate) mod upgrades;
