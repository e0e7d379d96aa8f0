//! Helper mode of the agent for files: one operation as one of the guest's users, so that the kernel checks the permissions and no path, link
//! or mount in the guest can abuse the agent's root privileges. The operation is on the command line, content on stdin and stdout. A failure
//! is one line on stderr, `CODE MESSAGE`.

mod authorized_keys;
mod inspect;
mod watch;
mod write;

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use prost::Message;

/// The helper's `argv[0]`.
pub(crate) const HELPER_NAME: &str = "@rigbox-files";

/// Operation of the helper. Its fields are the words of the command line.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    /// Replaces the content of a file by stdin.
    Write { path: PathBuf, mode: u32, create_parents: bool },
    /// Writes a description and then the content to stdout. `limit` 0: no limit.
    Read { path: PathBuf, offset: u64, limit: u64 },
    /// Describes one file.
    Stat { path: PathBuf },
    /// Describes the files of a directory.
    List { path: PathBuf },
    /// Creates a directory.
    MakeDirectory { path: PathBuf, mode: u32, create_parents: bool },
    /// Renames a file, over another one if there is one.
    Rename { from: PathBuf, to: PathBuf },
    /// Removes a file, or a directory, which has to be empty unless `recursive`.
    Remove { path: PathBuf, recursive: bool },
    /// Reports changes in a directory, or of a file, until killed.
    Watch { path: PathBuf },
    /// Replaces the managed lines of an `authorized_keys` by stdin.
    SyncKeys { path: PathBuf },
}

impl Operation {
    /// Returns the words of the command line.
    pub(crate) fn words(&self) -> Vec<OsString> {
        let word = |text: &dyn ToString| OsString::from(text.to_string());
        let path = |path: &Path| path.as_os_str().to_owned();
        match self {
            Self::Write { path: p, mode, create_parents } => {
                vec!["write".into(), path(p), word(mode), word(create_parents)]
            }
            Self::Read { path: p, offset, limit } => {
                vec!["read".into(), path(p), word(offset), word(limit)]
            }
            Self::Stat { path: p } => vec!["stat".into(), path(p)],
            Self::List { path: p } => vec!["list".into(), path(p)],
            Self::MakeDirectory { path: p, mode, create_parents } => {
                vec!["mkdir".into(), path(p), word(mode), word(create_parents)]
            }
            Self::Rename { from, to } => vec!["rename".into(), path(from), path(to)],
            Self::Remove { path: p, recursive } => vec!["remove".into(), path(p), word(recursive)],
            Self::Watch { path: p } => vec!["watch".into(), path(p)],
            Self::SyncKeys { path: p } => vec!["sync-keys".into(), path(p)],
        }
    }

    fn parse(words: &[OsString]) -> Option<Self> {
        let text = |at: usize| words.get(at)?.to_str();
        let path = |at: usize| words.get(at).map(PathBuf::from);
        let number = |at: usize| text(at)?.parse::<u64>().ok();
        let flag = |at: usize| text(at)?.parse::<bool>().ok();
        let mode = |at: usize| text(at)?.parse::<u32>().ok();
        Some(match text(0)? {
            "write" => Self::Write { path: path(1)?, mode: mode(2)?, create_parents: flag(3)? },
            "read" => Self::Read { path: path(1)?, offset: number(2)?, limit: number(3)? },
            "stat" => Self::Stat { path: path(1)? },
            "list" => Self::List { path: path(1)? },
            "mkdir" => Self::MakeDirectory { path: path(1)?, mode: mode(2)?, create_parents: flag(3)? },
            "rename" => Self::Rename { from: path(1)?, to: path(2)? },
            "remove" => Self::Remove { path: path(1)?, recursive: flag(2)? },
            "watch" => Self::Watch { path: path(1)? },
            "sync-keys" => Self::SyncKeys { path: path(1)? },
            _ => return None,
        })
    }
}

/// Failure of an operation.
#[derive(Debug, PartialEq, Eq)]
struct Failure {
    code: &'static str,
    message: String,
}

impl Failure {
    fn bad_request(message: String) -> Self {
        Self { code: "bad_request", message }
    }

    fn of(path: &Path, error: &io::Error) -> Self {
        let path = path.display();
        let (code, message) = match error.kind() {
            io::ErrorKind::NotFound => ("not_found", format!("{path} not found.")),
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                ("permission_denied", format!("The user may not access {path}."))
            }
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                ("no_space", format!("No space left for {path}."))
            }
            io::ErrorKind::IsADirectory => ("bad_request", format!("{path} is a directory.")),
            io::ErrorKind::NotADirectory => ("bad_request", format!("A part of {path} is not a directory.")),
            io::ErrorKind::AlreadyExists => ("bad_request", format!("{path} already exists.")),
            io::ErrorKind::DirectoryNotEmpty => {
                ("bad_request", format!("The directory {path} is not empty."))
            }
            io::ErrorKind::InvalidFilename => ("bad_request", format!("The name {path} is too long.")),
            _ => ("bad_request", format!("{path}: {error}.")),
        };
        Self { code, message }
    }
}

/// Runs the operation of the command line.
pub(crate) fn run() -> ExitCode {
    let words: Vec<OsString> = std::env::args_os().skip(1).collect();
    let done = match Operation::parse(&words) {
        Some(operation) => perform(&operation),
        None => Err(Failure::bad_request("The operation is unknown.".to_owned())),
    };
    let Err(Failure { code, message }) = done else { return ExitCode::SUCCESS };
    eprintln!("{code} {}", message.replace('\n', " "));
    ExitCode::FAILURE
}

fn perform(operation: &Operation) -> Result<(), Failure> {
    match operation {
        Operation::Write { path, mode, create_parents } => {
            write::write(path, *mode, *create_parents, &mut io::stdin().lock())
        }
        Operation::Read { path, offset, limit } => inspect::read(path, *offset, *limit),
        Operation::Stat { path } => inspect::stat(path),
        Operation::List { path } => inspect::list(path),
        Operation::MakeDirectory { path, mode, create_parents } => {
            write::make_directory(path, *mode, *create_parents)
        }
        Operation::Rename { from, to } => {
            std::fs::rename(from, to).map_err(|error| Failure::of(from, &error))
        }
        Operation::Remove { path, recursive } => write::remove(path, *recursive),
        Operation::SyncKeys { path } => authorized_keys::sync(path, &mut io::stdin().lock()),
        Operation::Watch { path } => watch::watch(path),
    }
}

/// Writes a message to stdout, after its length as 4 bytes in little-endian order.
fn write_message(message: &impl Message) -> io::Result<()> {
    let bytes = message.encode_to_vec();
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    let mut stdout = io::stdout().lock();
    stdout.write_all(&length.to_le_bytes())?;
    stdout.write_all(&bytes)?;
    stdout.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operation_is_parsed_back_from_its_words() {
        let path = PathBuf::from("/a b/ü");
        for operation in [
            Operation::Write { path: path.clone(), mode: 0o755, create_parents: true },
            Operation::Read { path: path.clone(), offset: 7, limit: 0 },
            Operation::Stat { path: path.clone() },
            Operation::List { path: path.clone() },
            Operation::MakeDirectory { path: path.clone(), mode: 0, create_parents: false },
            Operation::Rename { from: path.clone(), to: "/c".into() },
            Operation::Remove { path: path.clone(), recursive: true },
            Operation::Watch { path },
        ] {
            assert_eq!(Operation::parse(&operation.words()), Some(operation));
        }
        assert_eq!(Operation::parse(&["write".into()]), None);
        assert_eq!(Operation::parse(&[]), None);
    }
}
