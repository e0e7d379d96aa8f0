//! Checks before every handler: host, credentials, rate limit. After a change, a wait until it is in force.

pub(crate) mod credentials;
pub(crate) mod finish;
pub(crate) mod host_guard;
pub(crate) mod hsts;
pub(crate) mod in_force;
pub(crate) mod open_request;
pub(crate) mod rate_limit;
