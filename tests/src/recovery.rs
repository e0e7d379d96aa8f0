//! Recovery: what survives failures, and what nothing leaves behind.

pub(crate) mod crashes;
pub(crate) mod leftovers;
pub(crate) mod lifecycle;
