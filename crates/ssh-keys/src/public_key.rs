//! Public keys of users: one line as in `authorized_keys` or a `.pub` file, read, checked and normalized.

mod blob;
mod error;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};

use self::blob::Algorithm;
pub use self::error::PublicKeyError;

/// Maximum length of a line. The longest key that is accepted, RSA with 8,192 bits, takes 1,400 bytes.
pub const MAX_KEY_LINE_LEN: usize = 16 * 1024;
/// Maximum length of a comment.
const MAX_COMMENT_LEN: usize = 255;
/// Option before the type: signatures without a touch of the hardware token are accepted.
const NO_TOUCH_REQUIRED: &str = "no-touch-required";
/// Words that only private keys contain: in PEM, OpenSSH's format and PuTTY's, and OpenSSH's format without its first line.
const PRIVATE_MARKS: [&str; 3] = ["PRIVATE KEY", "PuTTY-User-Key-File", "b3BlbnNzaC1rZXktdjEA"];
/// First words of public keys in the formats of PEM and RFC 4716.
const OTHER_FORMATS: [&str; 2] = ["-----BEGIN", "---- BEGIN"];

/// Public key of a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey {
    algorithm: Algorithm,
    blob: Vec<u8>,
    comment: String,
    no_touch_required: bool,
}

impl PublicKey {
    /// Reads one line: type, base64, and a comment if there is one. The only option taken is `no-touch-required`.
    ///
    /// # Errors
    /// [`PublicKeyError`], which says what would be right. No error contains a part of the text.
    pub fn parse(text: &str) -> Result<Self, PublicKeyError> {
        if text.len() > MAX_KEY_LINE_LEN {
            return Err(PublicKeyError::TooLong);
        }
        let line = one_line(text)?;
        let (first, rest) = word(line);
        let no_touch_required = first == NO_TOUCH_REQUIRED;
        let (name, rest) = if no_touch_required { word(rest) } else { (first, rest) };
        let algorithm = Algorithm::of(name).map_err(|error| better_reason(error, rest))?;
        if no_touch_required && !algorithm.is_of_hardware_token() {
            return Err(PublicKeyError::TouchOption);
        }
        let (encoded, comment) = word(rest);
        let blob = STANDARD.decode(encoded).map_err(|_| PublicKeyError::Base64)?;
        algorithm.check(&blob)?;
        Ok(Self { algorithm, blob, comment: checked_comment(comment)?, no_touch_required })
    }

    /// Returns the name of the key's type.
    #[must_use]
    pub fn algorithm(&self) -> &'static str {
        self.algorithm.name()
    }

    /// Returns the key as SSH writes it in messages.
    #[must_use]
    pub fn blob(&self) -> &[u8] {
        &self.blob
    }

    /// Returns the comment; an empty one if there is none.
    #[must_use]
    pub fn comment(&self) -> &str {
        &self.comment
    }

    /// Returns whether signatures count that the owner of the hardware token did not confirm by a touch.
    #[must_use]
    pub fn no_touch_required(&self) -> bool {
        self.no_touch_required
    }

    /// Returns the fingerprint, as `ssh-keygen -l` shows it.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        fingerprint(&self.blob)
    }

    /// Returns the line without options.
    #[must_use]
    pub fn line(&self) -> String {
        let line = format!("{} {} {}", self.algorithm(), STANDARD.encode(&self.blob), self.comment);
        line.trim_end().to_owned()
    }
}

/// Returns the fingerprint of a key as SSH writes it: `SHA256:` and base64 without padding.
#[must_use]
pub fn fingerprint(blob: &[u8]) -> String {
    format!("SHA256:{}", STANDARD_NO_PAD.encode(digest(&SHA256, blob)))
}

/// Returns the only line of a text.
fn one_line(text: &str) -> Result<&str, PublicKeyError> {
    if PRIVATE_MARKS.iter().any(|mark| text.contains(mark)) {
        return Err(PublicKeyError::PrivateKey);
    }
    let line = text.trim();
    if OTHER_FORMATS.iter().any(|mark| line.starts_with(mark)) {
        return Err(PublicKeyError::OtherFormat);
    }
    if line.contains(['\n', '\r']) { Err(PublicKeyError::SeveralLines) } else { Ok(line) }
}

/// Returns the first word of a line, and what follows it.
fn word(line: &str) -> (&str, &str) {
    let (word, rest) = line.split_once([' ', '\t']).unwrap_or((line, ""));
    (word, rest.trim_start())
}

/// Returns why a line does not begin with a type, where what follows its first word tells.
fn better_reason(error: PublicKeyError, rest: &str) -> PublicKeyError {
    let has_type =
        rest.split([' ', '\t']).any(|word| Algorithm::of(word) != Err(PublicKeyError::UnknownType));
    match error {
        PublicKeyError::UnknownType if has_type => PublicKeyError::Options,
        PublicKeyError::UnknownType if rest.is_empty() => PublicKeyError::NoKey,
        other => other,
    }
}

fn checked_comment(comment: &str) -> Result<String, PublicKeyError> {
    if comment.len() > MAX_COMMENT_LEN || comment.chars().any(char::is_control) {
        return Err(PublicKeyError::Comment { max: MAX_COMMENT_LEN });
    }
    Ok(comment.to_owned())
}

#[cfg(test)]
mod tests;
