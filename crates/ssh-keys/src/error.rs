//! Failures with keys and signatures.

use crate::wire::Malformed;

/// Failure with a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The key or the signature cannot be read.
    #[error("the key is damaged")]
    Damaged,
    /// The signature is not of this key, or not of this text.
    #[error("the signature is wrong")]
    WrongSignature,
    /// The algorithm is not one of ours.
    #[error("the key's algorithm is not supported")]
    Unsupported,
    /// No random numbers.
    #[error("no key or signature could be made")]
    Failed,
}

impl From<Malformed> for KeyError {
    fn from(_: Malformed) -> Self {
        Self::Damaged
    }
}
