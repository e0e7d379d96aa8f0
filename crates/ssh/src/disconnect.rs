//! Codes of the end of a connection (RFC 4253, section 11.1).

pub(crate) const PROTOCOL_ERROR: u32 = 2;
pub(crate) const SERVICE_NOT_AVAILABLE: u32 = 7;
pub(crate) const BY_APPLICATION: u32 = 11;
pub(crate) const TOO_MANY_CONNECTIONS: u32 = 12;
pub(crate) const NO_MORE_METHODS: u32 = 14;
