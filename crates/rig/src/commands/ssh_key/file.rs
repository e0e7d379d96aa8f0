//! File of a public key: which one, and its text. A private key is recognized here, so that it never leaves the machine.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::failure::Failure;

/// Maximum length of a public key that the server takes.
const MAX_FILE_BYTES: u64 = 16 * 1024;
const STDIN: &str = "-";
/// Words that only private keys contain: in PEM, OpenSSH's format and PuTTY's, and OpenSSH's format without its first line.
const PRIVATE_MARKS: [&str; 3] = ["PRIVATE KEY", "PuTTY-User-Key-File", "b3BlbnNzaC1rZXktdjEA"];

/// Public key as it is in a file.
#[derive(Debug)]
pub(super) struct KeyFile {
    /// Path of the file, for messages.
    pub(super) place: String,
    pub(super) text: String,
}

impl KeyFile {
    /// Returns the comment of the key, if it has one.
    pub(super) fn comment(&self) -> Option<&str> {
        let line = self.text.trim();
        let line = line.strip_prefix("no-touch-required ").unwrap_or(line).trim_start();
        let (_, key) = line.split_once(char::is_whitespace)?;
        let (_, comment) = key.trim_start().split_once(char::is_whitespace)?;
        Some(comment.trim_start())
    }
}

/// Reads the public key of a file, of stdin, or the only one in `~/.ssh`.
pub(super) fn read(path: Option<PathBuf>) -> Result<KeyFile, Failure> {
    let path = match path {
        Some(path) => path,
        None => only_key()?,
    };
    let (place, text) = if path == Path::new(STDIN) {
        ("stdin".to_owned(), bounded(std::io::stdin().lock()))
    } else {
        (path.display().to_string(), File::open(&path).and_then(bounded))
    };
    let text =
        text.map_err(|problem| Failure::new("unreadable", format!("cannot read {place}: {problem}")))?;
    if PRIVATE_MARKS.iter().any(|mark| text.contains(mark)) {
        let message = format!(
            "{place} has a private key, which was not sent; use the public one, in the file ending in .pub"
        );
        return Err(Failure::new("private_key", message));
    }
    let text = text.trim_start_matches('\u{feff}').to_owned();
    match text.trim().lines().count() {
        0 => Err(Failure::new("bad_key", format!("{place} is empty"))),
        1 => Ok(KeyFile { place, text }),
        _ => {
            let message = format!(
                "{place} is not one key in OpenSSH's format, which is one line; convert another format with \
                 `ssh-keygen -i -f FILE`, and add `-m PKCS8` or `-m PEM` for these"
            );
            Err(Failure::new("bad_key", message))
        }
    }
}

fn bounded(source: impl Read) -> std::io::Result<String> {
    let mut text = String::new();
    source.take(MAX_FILE_BYTES + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err(std::io::Error::other("it is too long for a public key"));
    }
    Ok(text)
}

/// Returns the only public key in `~/.ssh`.
fn only_key() -> Result<PathBuf, Failure> {
    let usage = |message: String| Failure::new("usage", message);
    let folder = std::env::home_dir().map(|home| home.join(".ssh"));
    let folder = folder.ok_or_else(|| usage("no home folder; name a public key with --file".to_owned()))?;
    let mut keys = public_keys(&folder);
    match (keys.pop(), keys.as_slice()) {
        (Some(key), []) => Ok(key),
        (None, _) => Err(usage(format!(
            "no public key in {}; make one with `ssh-keygen -t ed25519`, or name one with --file",
            folder.display()
        ))),
        (Some(last), others) => {
            let names: Vec<String> =
                others.iter().chain([&last]).map(|key| key.display().to_string()).collect();
            Err(usage(format!("several public keys; name one with --file: {}", names.join(", "))))
        }
    }
}

/// Returns the files of public keys in a folder, sorted. Those of certificates are none.
fn public_keys(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let is_key = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.ends_with(".pub") && !name.ends_with("-cert.pub") && path.is_file()
    };
    let mut keys: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(is_key).collect();
    keys.sort();
    keys
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comment_is_what_follows_the_key() {
        let comment = |text: &str| {
            let file = KeyFile { place: String::new(), text: text.to_owned() };
            file.comment().map(str::to_owned)
        };
        assert_eq!(comment("ssh-ed25519 AAAA ada@laptop\n").as_deref(), Some("ada@laptop"));
        assert_eq!(comment("no-touch-required sk-x AAAA my key").as_deref(), Some("my key"));
        assert_eq!(comment("ssh-ed25519  AAAA  ada").as_deref(), Some("ada"));
        assert_eq!(comment("ssh-ed25519 AAAA\n"), None);
        assert_eq!(comment(""), None);
    }
}
