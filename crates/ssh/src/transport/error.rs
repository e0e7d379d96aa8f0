//! Failures of a transport. Each ends the connection.

use rigbox_ssh_keys::KeyError;
use rigbox_ssh_keys::wire;

/// Failure of a transport.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The peer does not speak SSH 2.
    #[error("the peer does not speak SSH 2.0")]
    NotSsh,
    /// A packet or a message is not as the standard has it.
    #[error("a packet is malformed")]
    Malformed,
    /// A packet is longer than any may be.
    #[error("a packet is too long")]
    TooLong,
    /// A packet was changed on its way.
    #[error("a packet is not authentic")]
    NotAuthentic,
    /// Both sides have nothing in common.
    #[error("no common {0}")]
    NoCommon(&'static str),
    /// A message that may not come now.
    #[error("message {0} was not expected")]
    Unexpected(u8),
    /// The key exchange has failed.
    #[error("the key exchange has failed")]
    KeyExchange,
    /// The server's key is not the expected one, or has not signed.
    #[error("the server's host key is not the expected one: {0}")]
    HostKey(KeyError),
    /// The library of ciphers has failed.
    #[error("a cipher has failed")]
    Crypto,
}

impl From<wire::Malformed> for Error {
    fn from(_: wire::Malformed) -> Self {
        Self::Malformed
    }
}
