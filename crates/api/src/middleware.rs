//! Checks that every request passes before its handler: the host it was sent to, its credentials, its rate limit.

pub(crate) mod credentials;
pub(crate) mod host_guard;
pub(crate) mod rate_limit;
