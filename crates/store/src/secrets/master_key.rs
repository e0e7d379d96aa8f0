//! Master keys and their sources (a file, an environment variable, or a command such as a KMS client). A
//! source yields one base64 key per line: the first encrypts, the others only decrypt what they still
//! protect.

use std::fmt;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tokio::io::AsyncReadExt;
use zeroize::{Zeroize, Zeroizing};

use crate::tokens::create_private;
use crate::{Error, random};

const KEY_BYTES: usize = 32;
/// Maximum size of a source's output in bytes.
const MAX_FILE_BYTES: u64 = 64 * 1024;
/// Maximum run time of a command.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(30);

/// Public id of a master key. It reveals nothing about the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MasterKeyId([u8; 8]);

impl MasterKeyId {
    pub(crate) fn from_bytes(bytes: [u8; 8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for MasterKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", u64::from_be_bytes(self.0))
    }
}

impl FromStr for MasterKeyId {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(u64::from_str_radix(text, 16)?.to_be_bytes()))
    }
}

/// Master key.
pub(crate) struct MasterKey {
    id: MasterKeyId,
    bytes: Zeroizing<[u8; KEY_BYTES]>,
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MasterKey({}, ..)", self.id)
    }
}

impl MasterKey {
    pub(crate) fn generate() -> Result<Self, Error> {
        Ok(Self::new(Zeroizing::new(random()?)))
    }

    fn new(bytes: Zeroizing<[u8; KEY_BYTES]>) -> Self {
        let derived = Zeroizing::new(blake3::derive_key("Rigbox master key id, version 1", &*bytes));
        let mut id = [0; 8];
        id.iter_mut().zip(derived.iter()).for_each(|(to, from)| *to = *from);
        Self { id: MasterKeyId(id), bytes }
    }

    pub(crate) fn id(&self) -> MasterKeyId {
        self.id
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &*self.bytes
    }
}

/// Keys of a source, the encrypting one first; at least one.
#[derive(Debug, Clone)]
pub(crate) struct MasterKeys {
    first: Arc<MasterKey>,
    others: Vec<Arc<MasterKey>>,
}

impl MasterKeys {
    /// Parses one key per line. Empty lines and lines that start with `#` are ignored.
    fn parse(text: &[u8]) -> Result<Self, String> {
        let mut keys = Vec::new();
        for (number, line) in text.split(|byte| *byte == b'\n').enumerate() {
            let line = line.trim_ascii();
            if line.is_empty() || line.starts_with(b"#") {
                continue;
            }
            let decoded = STANDARD.decode(line).map(Zeroizing::new).ok();
            let bytes: Option<[u8; KEY_BYTES]> =
                decoded.and_then(|decoded| decoded.as_slice().try_into().ok());
            // The line is not repeated: it may be most of a key.
            let bytes =
                bytes.ok_or_else(|| format!("line {} is not {KEY_BYTES} bytes in base64", number + 1))?;
            keys.push(Arc::new(MasterKey::new(Zeroizing::new(bytes))));
        }
        let mut keys = keys.into_iter();
        let first = keys.next().ok_or("it contains no key")?;
        Ok(Self { first, others: keys.collect() })
    }

    pub(crate) fn first(&self) -> &Arc<MasterKey> {
        &self.first
    }

    /// Returns the keys that only decrypt.
    pub(crate) fn others(&self) -> &[Arc<MasterKey>] {
        &self.others
    }

    pub(crate) fn get(&self, id: MasterKeyId) -> Option<&Arc<MasterKey>> {
        std::iter::once(&self.first).chain(&self.others).find(|key| key.id == id)
    }

    /// Returns these keys plus those of `before`, which a record read a moment ago may need.
    pub(crate) fn after(mut self, before: &Self) -> Self {
        for key in std::iter::once(&before.first).chain(&before.others) {
            if self.get(key.id).is_none() {
                self.others.push(key.clone());
            }
        }
        self
    }
}

/// Source of master keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    /// A file with mode 0600. It is created with a new key if it is missing and nothing is encrypted yet.
    File(PathBuf),
    /// An environment variable.
    Env(String),
    /// A program with arguments that prints the keys.
    Command(Vec<String>),
}

impl fmt::Display for KeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Env(name) => write!(f, "environment variable {name}"),
            Self::Command(words) => write!(f, "command `{}`", words.join(" ")),
        }
    }
}

impl KeySource {
    /// Reads the current keys.
    pub(crate) async fn read(&self) -> Result<MasterKeys, Error> {
        let text = match self {
            Self::File(path) => self.read_file(path),
            Self::Env(name) => match std::env::var(name) {
                Ok(text) => Ok(text.into_bytes()),
                Err(_) => Err("it is not set, or not valid UTF-8".to_owned()),
            },
            Self::Command(words) => run(words).await,
        };
        let keyring = text.map(Zeroizing::new).and_then(|text| MasterKeys::parse(&text));
        keyring.map_err(|problem| self.error(problem))
    }

    /// Checks that the source has these keys.
    pub async fn check(&self, wanted: &[MasterKeyId]) -> Result<(), Error> {
        if wanted.is_empty() {
            return Ok(());
        }
        let keys = self.read().await?;
        match wanted.iter().find(|id| keys.get(**id).is_none()) {
            Some(wanted) => Err(Error::WrongMasterKey { wanted: *wanted, origin: self.to_string() }),
            None => Ok(()),
        }
    }

    /// Reads the current keys, or creates a key file if there is none.
    pub(crate) async fn read_or_create(&self) -> Result<MasterKeys, Error> {
        if let Self::File(path) = self
            && !path.exists()
        {
            write(path, &[&MasterKey::generate()?])?;
        }
        self.read().await
    }

    fn read_file(&self, path: &Path) -> Result<Vec<u8>, String> {
        let read = || -> io::Result<(u32, Vec<u8>)> {
            let file = std::fs::File::open(path)?;
            let mode = file.metadata()?.permissions().mode() & 0o777;
            let mut text = Vec::new();
            file.take(MAX_FILE_BYTES).read_to_end(&mut text)?;
            Ok((mode, text))
        };
        match read() {
            Ok((mode, mut text)) if mode & 0o077 != 0 => {
                text.zeroize();
                Err(format!("mode {mode:o} lets others read it: chmod 600 it"))
            }
            Ok((_, text)) => Ok(text),
            Err(error) => Err(error.to_string()),
        }
    }

    pub(crate) fn error(&self, problem: impl fmt::Display) -> Error {
        Error::MasterKeySource { origin: self.to_string(), problem: problem.to_string() }
    }
}

/// Writes a key file atomically.
pub(crate) fn write(path: &Path, keys: &[&MasterKey]) -> Result<(), Error> {
    let mut text = Zeroizing::new(Vec::with_capacity(keys.len() * (KEY_BYTES * 2)));
    for key in keys {
        text.extend_from_slice(Zeroizing::new(STANDARD.encode(key.bytes.as_slice())).as_bytes());
        text.push(b'\n');
    }
    create_private(path, &text)
}

async fn run(words: &[String]) -> Result<Vec<u8>, String> {
    let (program, arguments) = words.split_first().ok_or("it is empty")?;
    let mut child = tokio::process::Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| format!("it cannot be run: {error}"))?;
    let output = child.stdout.take().ok_or("it has no output")?;
    let read = async {
        let mut text = Vec::new();
        output.take(MAX_FILE_BYTES).read_to_end(&mut text).await?;
        Ok::<_, io::Error>((child.wait().await?, text))
    };
    match tokio::time::timeout(COMMAND_TIMEOUT, read).await {
        Err(_) => Err(format!("it did not finish within {} s", COMMAND_TIMEOUT.as_secs())),
        Ok(Err(error)) => Err(error.to_string()),
        Ok(Ok((status, text))) if status.success() => Ok(text),
        Ok(Ok((status, mut text))) => {
            text.zeroize();
            Err(format!("it failed ({status}); see the log for its standard error"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_does_not_print() {
        let key = MasterKey::generate().unwrap();
        let ring = MasterKeys { first: Arc::new(MasterKey::new(key.bytes.clone())), others: vec![] };
        let text = format!("{key:?} {ring:?}");
        let printed = [
            STANDARD.encode(key.bytes.as_slice()),
            format!("{:?}", key.bytes),
            blake3::Hash::from(*key.bytes).to_string(),
        ];
        assert!(
            printed.iter().all(|form| !text.contains(form)) && text.contains(&key.id.to_string()),
            "{text}"
        );
        assert_eq!(key.id.to_string().parse(), Ok(key.id));
    }

    #[test]
    fn keyring_is_a_key_per_line() {
        let line = |byte: u8| STANDARD.encode([byte; KEY_BYTES]);
        let text = format!("# of 2027\n{}\n\n {}\r\n", line(1), line(2));
        let ring = MasterKeys::parse(text.as_bytes()).unwrap();
        assert_eq!((ring.first.bytes(), ring.others.len()), ([1; KEY_BYTES].as_slice(), 1));
        assert!(ring.get(ring.others[0].id).is_some());
        for (bad, says) in
            [("", "no key"), ("# only\n", "no key"), ("abc\n", "line 1"), (&line(1)[..40], "line 1")]
        {
            let error = MasterKeys::parse(bad.as_bytes()).unwrap_err();
            assert!(error.contains(says) && !error.contains("AQEB"), "{bad}: {error}");
        }
    }

    #[tokio::test]
    async fn every_source_yields_a_keyring_or_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("master.key");
        let file = KeySource::File(path.clone());
        assert!(file.read().await.unwrap_err().to_string().contains("master.key"));
        let made = file.read_or_create().await.unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let id = made.first.id;
        assert_eq!(file.read_or_create().await.unwrap().first.id, id);

        let command =
            |words: &[&str]| KeySource::Command(words.iter().map(|word| (*word).to_owned()).collect());
        let cat = command(&["cat", path.to_str().unwrap()]);
        assert_eq!(cat.read().await.unwrap().first.id, id);
        for (source, says) in [
            (command(&["false"]), "failed"),
            (command(&["/nonesuch"]), "cannot be run"),
            (command(&[]), "empty"),
            (command(&["echo", "x"]), "line 1"),
            (KeySource::Env("RIGBOX_NONESUCH".to_owned()), "RIGBOX_NONESUCH"),
        ] {
            let error = source.read().await.unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(file.read().await.unwrap_err().to_string().contains("chmod 600"));
    }
}
