//! Connections to apps, and the bodies and tunnels they carry.

pub(crate) mod pool;
pub(crate) mod request_body;
pub(crate) mod response;
pub(crate) mod response_body;
pub(crate) mod tunnel;
