//! Secrets of the control role: the key of the token hashes, and tokens as they are issued.
//!
//! None of these types prints its content.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use rigbox_core::tokens::{self, DIGITS, TokenKind};
use zeroize::Zeroizing;

use crate::{Error, random};

const KEY_BYTES: usize = 32;
const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// Key of the keyed hash under which tokens are stored. A copy of the database alone reveals nothing about
/// them.
#[derive(Clone)]
pub struct TokenKey([u8; KEY_BYTES]);

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenKey(..)")
    }
}

impl TokenKey {
    /// Reads the key from its file, or creates both (mode 0600).
    pub fn load_or_create(path: &Path) -> Result<Self, Error> {
        match fs::read(path) {
            Ok(bytes) => Self::check(path, &bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let key: [u8; KEY_BYTES] = random()?;
                create_private(path, &key)?;
                Ok(Self(key))
            }
            Err(error) => Err(Error::file(path, error)),
        }
    }

    fn check(path: &Path, bytes: &[u8]) -> Result<Self, Error> {
        let key = bytes.try_into().map_err(|_| {
            Error::file(
                path,
                format!("{} bytes, expected {KEY_BYTES}: restore it from a backup", bytes.len()),
            )
        })?;
        let mode = fs::metadata(path).map_err(|error| Error::file(path, error))?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(Error::file(path, format!("mode {mode:o} lets others read it: chmod 600 it")));
        }
        Ok(Self(key))
    }

    /// Reads the key from its file, which has to exist.
    pub fn load(path: &Path) -> Result<Self, Error> {
        let bytes = fs::read(path).map_err(|error| Error::file(path, error))?;
        Self::check(path, &bytes)
    }

    /// Returns the public id of the key. It reveals nothing about the key.
    pub fn id(&self) -> String {
        let id = self.derive("Rigbox token key id, version 1");
        id.iter().take(8).fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
    }

    /// Derives an independent key for another purpose.
    pub fn derive(&self, purpose: &str) -> [u8; KEY_BYTES] {
        blake3::derive_key(purpose, &self.0)
    }

    /// Returns the hash that is stored in place of `token`.
    pub fn hash(&self, token: &str) -> TokenHash {
        TokenHash(blake3::keyed_hash(&self.0, token.as_bytes()).to_hex().to_string())
    }
}

/// Keyed hash of a token. Its lookup compares nothing that an attacker could steer byte by byte.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct TokenHash(String);

impl TokenHash {
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenHash(..)")
    }
}

macro_rules! token {
    ($(#[$doc:meta])* $name:ident, $kind:expr) => {
        $(#[$doc])*
        #[derive(Clone)]
        pub struct $name(Zeroizing<String>);

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($name), "(..)"))
            }
        }

        impl $name {
            /// Generates a new token.
            pub fn mint() -> Result<Self, Error> {
                random_text($kind.prefix(), BASE62, DIGITS).map(Self)
            }

            /// Parses a token; checks its form only.
            pub fn parse(text: &str) -> Option<Self> {
                (tokens::kind(text.as_bytes()) == Some($kind)).then(|| Self(Zeroizing::new(text.to_owned())))
            }

            /// Returns the token itself, to be issued once or hashed.
            pub fn reveal(&self) -> &str {
                &self.0
            }
        }
    };
}

token! {
    /// User's API key in clear. Exists only where it is minted and where it is presented.
    ApiKey, TokenKind::ApiKey
}
token! {
    /// A workspace's own key of one boot, in clear. Exists only on its way into the VM and where it is
    /// presented.
    WorkspaceKey, TokenKind::Workspace
}
token! {
    /// Session token of a browser's cookie.
    SessionToken, TokenKind::Session
}
token! {
    /// Token of a sign-in link, valid once. As part of a URL it has no other use and a short lifetime.
    LinkToken, TokenKind::Link
}
token! {
    /// Code of the handoff of a browser from the console to an app, valid once. As part of a URL it has no
    /// other use, needs a matching state, and has a short lifetime.
    AppCode, TokenKind::AppCode
}
token! {
    /// Secret with which a machine polls its device login.
    DeviceSecret, TokenKind::Device
}

impl ApiKey {
    /// Returns a prefix that suffices to tell keys apart, and is useless otherwise.
    pub fn preview(&self) -> String {
        format!("{}…", self.0.chars().take(9).collect::<String>())
    }
}

/// Alphabet of user codes: no vowels, so no words (RFC 8628, section 6.1).
const CODE_LETTERS: &[u8] = b"BCDFGHJKLMNPQRSTVWXZ";
const CODE_LENGTH: usize = 8;

/// User code of a device login: 34 bits, valid for minutes, behind a sign-in and a rate limit.
#[derive(Clone, PartialEq, Eq)]
pub struct UserCode(Zeroizing<String>);

impl fmt::Debug for UserCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("UserCode(..)")
    }
}

impl UserCode {
    /// Generates a new code.
    pub fn mint() -> Result<Self, Error> {
        random_text("", CODE_LETTERS, CODE_LENGTH).map(Self)
    }

    /// Parses a code as typed, with or without blanks and dashes.
    pub fn parse(text: &str) -> Option<Self> {
        let code: String = text
            .chars()
            .take(64)
            .filter(|character| !matches!(character, ' ' | '-'))
            .map(|character| character.to_ascii_uppercase())
            .collect();
        let fits = code.len() == CODE_LENGTH && code.bytes().all(|byte| CODE_LETTERS.contains(&byte));
        fits.then(|| Self(Zeroizing::new(code)))
    }

    /// Returns the code for display: `BCDF-GHJK`.
    pub fn shown(&self) -> String {
        let (first, second) = self.0.split_at_checked(CODE_LENGTH / 2).unwrap_or((&self.0, ""));
        format!("{first}-{second}")
    }

    /// Returns the code to be hashed.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

/// Returns a prefix followed by uniformly random characters of an alphabet.
fn random_text(prefix: &str, alphabet: &[u8], length: usize) -> Result<Zeroizing<String>, Error> {
    let length = prefix.len() + length;
    // Never reallocated, which would leave a copy behind.
    let mut text = Zeroizing::new(String::with_capacity(length));
    text.push_str(prefix);
    // Rejection sampling: bytes beyond the largest multiple of the alphabet's size would bias it.
    let fair = 256 - 256 % alphabet.len();
    while text.len() < length {
        let missing = length - text.len();
        text.extend(
            random::<64>()?
                .into_iter()
                .filter(|byte| usize::from(*byte) < fair)
                .filter_map(|byte| alphabet.get(usize::from(byte) % alphabet.len()))
                .map(|digit| char::from(*digit))
                .take(missing),
        );
    }
    Ok(text)
}

/// Creates a file that only its owner can read. Its content is durable before it gets its name.
pub(crate) fn create_private(path: &Path, content: &[u8]) -> Result<(), Error> {
    let made = || -> io::Result<()> {
        let mut partial = path.as_os_str().to_owned();
        partial.push(".new");
        let mut open =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&partial)?;
        open.write_all(content)?;
        open.sync_all()?;
        fs::rename(&partial, path)?;
        match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => fs::File::open(folder)?.sync_all(),
            _ => Ok(()),
        }
    };
    made().map_err(|error| Error::file(path, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_is_accepted_in_any_spelling() {
        let code = UserCode::mint().unwrap();
        let shown = code.shown();
        assert_eq!((shown.len(), shown.get(4..5)), (9, Some("-")));
        for typed in [shown.clone(), shown.to_lowercase(), shown.replace('-', ""), format!(" {shown} ")] {
            assert!(UserCode::parse(&typed) == Some(code.clone()), "{typed}");
        }
        for wrong in ["", "BCDF-GHJ", "BCDF-GHJKL", "ACDF-GHJK", "BCDF_GHJK", "BCDF-GHJ\u{c4}"] {
            assert!(UserCode::parse(wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn token_kinds_are_not_interchangeable() {
        let (key, session) = (ApiKey::mint().unwrap(), SessionToken::mint().unwrap());
        assert!(ApiKey::parse(key.reveal()).is_some() && SessionToken::parse(session.reveal()).is_some());
        assert!(SessionToken::parse(key.reveal()).is_none() && ApiKey::parse(session.reveal()).is_none());
        assert_eq!(format!("{key:?} {session:?}"), "ApiKey(..) SessionToken(..)");
    }
}
