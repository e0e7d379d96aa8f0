//! Security: what untrusted code and unauthorized clients cannot do.

pub(crate) mod egress;
pub(crate) mod gateway_dial;
pub(crate) mod isolation;
pub(crate) mod neighbors;
pub(crate) mod refusals;
pub(crate) mod secret_canaries;
pub(crate) mod secrets;
pub(crate) mod strangers;
