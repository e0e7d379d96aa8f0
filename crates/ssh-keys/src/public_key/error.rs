//! Reasons to refuse a user's public key, each with what would be right. They quote nothing of the text: it may be a private key.

/// Types that are accepted, for messages.
const TYPES: &str = "Use ssh-ed25519, ecdsa-sha2-nistp256, -nistp384 or -nistp521, ssh-rsa, \
                     sk-ssh-ed25519@openssh.com or sk-ecdsa-sha2-nistp256@openssh.com.";
const ONE_LINE: &str = "Use the one line of a .pub file: type, key and comment.";

/// Reason to refuse a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PublicKeyError {
    /// The text is too long.
    #[error("The text is too long for a public key. {ONE_LINE}")]
    TooLong,
    /// The text is a private key.
    #[error(
        "This is a private key, which should never leave your machine. Use the public one, in the file ending in .pub."
    )]
    PrivateKey,
    /// The key is in another format.
    #[error("The key is not in OpenSSH's format. Convert it with `ssh-keygen -i -f FILE`.")]
    OtherFormat,
    /// The text has several lines.
    #[error("The text has several lines. Add one key at a time.")]
    SeveralLines,
    /// The text is no key.
    #[error("This is not a public key. {ONE_LINE}")]
    NoKey,
    /// The type is not one of those that are accepted.
    #[error("The type of the key is not supported. {TYPES}")]
    UnknownType,
    /// The key is a certificate.
    #[error("Certificates are not supported. Use the public key that was certified.")]
    Certificate,
    /// Something other than `no-touch-required` stands before the type.
    #[error(
        "The option before the type is not supported. Use the line without options, or with `no-touch-required`."
    )]
    Options,
    /// `no-touch-required` stands before a key that no hardware token has.
    #[error("`no-touch-required` is for keys of hardware tokens (sk-...). Remove it.")]
    TouchOption,
    /// The key is not base64.
    #[error("The key is damaged: it is not base64. Copy the whole line of the .pub file again.")]
    Base64,
    /// The key is not what its type promises.
    #[error(
        "The key is damaged: a part is missing or has a wrong length. Copy the whole line of the .pub file again."
    )]
    Damaged,
    /// Something follows the key.
    #[error("The key is damaged: more follows its end. Copy the whole line of the .pub file again.")]
    TrailingBytes,
    /// The line names another type than the key.
    #[error(
        "The line says {line}, but the key is of type {key}. Copy the whole line of the .pub file again."
    )]
    OtherType {
        /// Type that the line names.
        line: &'static str,
        /// Type that the key names.
        key: &'static str,
    },
    /// The point of an ECDSA key is not on its curve.
    #[error(
        "The key is damaged: its point is not on the curve. Generate another one with `ssh-keygen -t ed25519`."
    )]
    NotOnCurve,
    /// The numbers of an RSA key are none that RSA can use.
    #[error(
        "The RSA key has an unusable modulus or exponent. Generate another one with `ssh-keygen -t ed25519`."
    )]
    UnusableRsa,
    /// The RSA key is too short.
    #[error(
        "The RSA key has {bits} bits, which is too weak. Use at least {min}, or an Ed25519 key (`ssh-keygen -t ed25519`)."
    )]
    ShortRsa {
        /// Length of its modulus.
        bits: usize,
        /// Minimum length.
        min: usize,
    },
    /// The RSA key is too long.
    #[error("The RSA key has {bits} bits. Use at most {max}, or an Ed25519 key (`ssh-keygen -t ed25519`).")]
    LongRsa {
        /// Length of its modulus.
        bits: usize,
        /// Maximum length.
        max: usize,
    },
    /// The key is a DSA key.
    #[error("DSA keys are too weak. Generate another one with `ssh-keygen -t ed25519`.")]
    Dsa,
    /// The comment is too long, or has control characters.
    #[error("The comment of the key is invalid. Use at most {max} bytes without control characters.")]
    Comment {
        /// Maximum length in bytes.
        max: usize,
    },
}

impl PublicKeyError {
    /// Returns whether the key is sound, but too weak.
    #[must_use]
    pub fn is_weakness(self) -> bool {
        matches!(self, Self::Dsa | Self::ShortRsa { .. })
    }
}
