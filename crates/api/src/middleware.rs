//! Middleware: checks that every request passes before its handler, on the host it was sent to, its
//! credentials and its rate limit.

pub(crate) mod credentials;
pub(crate) mod host_guard;
pub(crate) mod rate_limit;
