//! Reading of a request: which host and path it is for, what kind it is, and which of its headers reach the app.

pub(crate) mod classify;
pub(crate) mod cookies;
#[cfg(test)]
mod fuzz;
pub(crate) mod headers;
pub(crate) mod host;
pub(crate) mod path;
