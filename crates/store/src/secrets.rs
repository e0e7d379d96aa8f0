//! Secrets at rest: envelopes around single values, the master keys that wrap them, and the rotation of those.

pub(crate) mod envelope;
pub(crate) mod keyring;
pub(crate) mod master_key;
pub(crate) mod rotation;
