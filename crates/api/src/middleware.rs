//! Checks before every handler: host, credentials, rate limit.

pub(crate) mod credentials;
pub(crate) mod host_guard;
pub(crate) mod rate_limit;
