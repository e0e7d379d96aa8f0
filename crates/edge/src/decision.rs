//! The decision about a request: what control says about apps and credentials, cached under a lease, and what
//! `rigbox_core::app_access` concludes from it.

pub(crate) mod access_request;
pub(crate) mod authorize;
pub(crate) mod cache;
pub(crate) mod control;
pub(crate) mod generational_cache;
pub(crate) mod review;
pub(crate) mod route;
