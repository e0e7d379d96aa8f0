//! Secrets of the control role: the key that tokens are hashed with, and tokens (API keys, workspace keys) as they are handed out.
//!
//! None of these types prints its content.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use zeroize::Zeroizing;

use crate::{Error, random};

const KEY_BYTES: usize = 32;
const DIGITS: usize = 43;
const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// Key of the keyed hash under which tokens are stored: a copy of the database alone says nothing about them.
#[derive(Clone)]
pub struct TokenKey([u8; KEY_BYTES]);

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenKey(..)")
    }
}

impl TokenKey {
    /// Reads the key from its file, or makes key and file (mode 0600) where there is none.
    pub fn load_or_create(path: &Path) -> Result<Self, Error> {
        match fs::read(path) {
            Ok(bytes) => Self::check(path, &bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let key: [u8; KEY_BYTES] = random()?;
                create_private(path, &key)?;
                Ok(Self(key))
            }
            Err(error) => Err(file(path, error)),
        }
    }

    fn check(path: &Path, bytes: &[u8]) -> Result<Self, Error> {
        let key = bytes.try_into().map_err(|_| {
            file(path, format!("{} bytes, expected {KEY_BYTES}: restore it from a backup", bytes.len()))
        })?;
        let mode = fs::metadata(path).map_err(|error| file(path, error))?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(file(path, format!("mode {mode:o} lets others read it: chmod 600 it")));
        }
        Ok(Self(key))
    }

    /// A key for another purpose, from which this one does not follow.
    pub(crate) fn derive(&self, purpose: &str) -> [u8; KEY_BYTES] {
        blake3::derive_key(purpose, &self.0)
    }

    /// What is stored instead of `token`.
    pub fn hash(&self, token: &str) -> TokenHash {
        TokenHash(blake3::keyed_hash(&self.0, token.as_bytes()).to_hex().to_string())
    }
}

/// Keyed hash of a token. Looking it up compares nothing that an attacker could steer byte by byte.
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

/// Characters of a preview after the prefix.
const SHOWN: usize = 6;

macro_rules! tokens {
    ($($(#[$doc:meta])* $name:ident, $prefix:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone)]
        pub struct $name(Zeroizing<String>);

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($name), "(..)"))
            }
        }

        impl $name {
            /// A new one: 43 base62 characters carry 256 bits.
            pub fn mint() -> Result<Self, Error> {
                mint($prefix).map(Self)
            }

            /// The token in `text`, if it looks like one.
            pub fn parse(text: &str) -> Option<Self> {
                let digits = text.strip_prefix($prefix)?;
                let fits = digits.len() == DIGITS && digits.bytes().all(|byte| byte.is_ascii_alphanumeric());
                fits.then(|| Self(Zeroizing::new(text.to_owned())))
            }

            /// The token itself, to be shown once or hashed.
            pub fn reveal(&self) -> &str {
                &self.0
            }
        }
    )*};
}

tokens! {
    /// A user's API key in clear: exists where it is minted and where it is presented, nowhere else.
    ApiKey, "rb_";
    /// The key that a workspace has of itself for one boot, in clear: exists on its way into the VM and where it is presented.
    WorkspaceKey, "rb_ws_";
}

impl ApiKey {
    /// Enough to tell keys apart, too little to use.
    pub fn preview(&self) -> String {
        format!("{}…", self.0.chars().take("rb_".len() + SHOWN).collect::<String>())
    }
}

fn mint(prefix: &str) -> Result<Zeroizing<String>, Error> {
    let mut text = Zeroizing::new(String::with_capacity(prefix.len() + DIGITS));
    text.push_str(prefix);
    while text.len() < prefix.len() + DIGITS {
        let missing = prefix.len() + DIGITS - text.len();
        // Bytes above 247 are dropped, so that all 62 digits are equally likely.
        text.extend(
            random::<64>()?
                .into_iter()
                .filter(|byte| *byte < 248)
                .filter_map(|byte| BASE62.get(usize::from(byte) % BASE62.len()))
                .map(|digit| char::from(*digit))
                .take(missing),
        );
    }
    Ok(text)
}

/// Creates a file that only its owner may read, with its content on disk before it has its name.
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
    made().map_err(|error| file(path, error))
}

fn file(path: &Path, problem: impl fmt::Display) -> Error {
    Error::File { path: path.display().to_string(), problem: problem.to_string() }
}
