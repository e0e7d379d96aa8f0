//! Features: what users and operators can do.

pub(crate) mod apps;
pub(crate) mod browser;
pub(crate) mod contract;
pub(crate) mod image;
pub(crate) mod sign_in;
