//! Identity: authentication, and how users and machines obtain credentials.

pub mod api_keys;
pub mod authenticate;
pub mod console_origin;
pub mod devices;
pub mod email;
pub(crate) mod email_quota;
pub mod open_requests;
pub mod sign_in;
