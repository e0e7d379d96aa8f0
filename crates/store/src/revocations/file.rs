//! File of the log: one JSON line each. An entry is durable before its transaction commits. Processes append in turn, because each does so
//! while it has the database's write lock.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

use super::entry::{Entry, Header, Revocation, effective};
use crate::Error;
use crate::tokens::create_private;

/// Format of the log.
const VERSION: u32 = 1;
/// Size from which the log is rewritten without what no longer counts, if that is more than half of it.
const COMPACT_BYTES: u64 = 1 << 20;
/// Time after which an ended session is forgotten: none lasts so long.
const SESSION_TTL_MS: i64 = 24 * 60 * 60 * 1000;

/// Log at its path.
#[derive(Debug)]
pub(super) struct LogFile {
    path: PathBuf,
    /// Size from which it is worth trying to compact the log, in bytes.
    compact_from: AtomicU64,
}

/// Content of a log.
#[derive(Debug, PartialEq)]
pub(super) struct Log {
    pub(super) header: Header,
    pub(super) entries: Vec<Entry>,
    /// Bytes up to the end of the last whole line.
    length: u64,
}

impl Log {
    /// Returns whether the log is, or was, of the database with this id.
    pub(super) fn belongs_to(&self, database: &str) -> bool {
        let mut changes = self.entries.iter().flat_map(|entry| &entry.changes);
        self.header.database == database
            || changes.any(|change| matches!(change, Revocation::Database { id } if id == database))
    }

    /// Returns the number of the last entry.
    pub(super) fn last(&self) -> i64 {
        self.entries.last().map_or(0, |entry| entry.seq).max(self.header.after)
    }
}

impl LogFile {
    /// Returns the log beside a database.
    pub(super) fn beside(database: &Path) -> Self {
        let path = database.with_file_name("revocations.log");
        Self { path, compact_from: AtomicU64::new(COMPACT_BYTES) }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Creates a log without entries.
    pub(super) fn create(&self, database: &str, after: i64) -> Result<(), Error> {
        let header = Header { version: VERSION, database: database.to_owned(), after };
        create_private(&self.path, &line(&header)?)
    }

    /// Writes into the log that entries up to the number `after` were lost. Those that it has stay.
    pub(super) fn mark_loss(&self, log: &mut Log, after: i64) -> Result<(), Error> {
        log.header.after = after;
        let mut text = line(&log.header)?;
        for entry in &log.entries {
            text.extend(line(entry)?);
        }
        log.length = text.len() as u64;
        create_private(&self.path, &text)
    }

    /// Reads the log, if there is one. A torn last line was never acknowledged and is left out.
    pub(super) fn read(&self) -> Result<Option<Log>, Error> {
        let text = match fs::read(&self.path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            read => read.map_err(|error| self.error(error))?,
        };
        let length = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let whole = text.get(..length).unwrap_or_default();
        let mut lines = whole.split_inclusive(|byte| *byte == b'\n');
        let header = lines.next().and_then(|line| serde_json::from_slice::<Header>(line).ok());
        let header = header.filter(|header| header.version == VERSION).ok_or_else(|| self.damaged(1))?;
        let mut entries: Vec<Entry> = Vec::new();
        for (at, line) in lines.enumerate() {
            let entry: Entry = serde_json::from_slice(line).map_err(|_| self.damaged(at + 2))?;
            if entries.last().is_some_and(|before| entry.seq < before.seq) {
                return Err(self.damaged(at + 2));
            }
            entries.push(entry);
        }
        Ok(Some(Log { header, entries, length: length as u64 }))
    }

    /// Appends an entry, durably. Cuts off what an interrupted append has left.
    pub(super) fn append(&self, entry: &Entry) -> Result<(), Error> {
        let line = line(entry)?;
        let append = || -> io::Result<()> {
            let mut file = OpenOptions::new().read(true).write(true).open(&self.path)?;
            let end = whole_lines(&mut file)?;
            file.set_len(end)?;
            file.seek(SeekFrom::Start(end))?;
            let written = file.write_all(&line).and_then(|()| file.sync_data());
            if written.is_err() {
                // Nothing depends on it: the next append cuts it off otherwise.
                let _ = file.set_len(end);
            }
            written
        };
        append().map_err(|error| self.error(error))
    }

    /// Rewrites a large log without what no longer counts up to the number `committed`. A later entry may be of a failed transaction, so it
    /// takes the place of no earlier one yet.
    pub(super) fn compact(&self, log: &Log, committed: i64) -> Result<(), Error> {
        if log.length < COMPACT_BYTES {
            return Ok(());
        }
        let (settled, open) =
            log.entries.split_at(log.entries.partition_point(|entry| entry.seq <= committed));
        let mut kept = effective(settled);
        let newest = log.entries.iter().map(|entry| entry.at).max().unwrap_or(0);
        for entry in kept.iter_mut().filter(|entry| entry.at < newest - SESSION_TTL_MS) {
            entry.changes.retain(|change| !matches!(change, Revocation::Session { .. }));
        }
        let mut text = line(&log.header)?;
        let last = settled.last().map(|entry| entry.seq);
        kept.retain(|entry| !entry.changes.is_empty() || Some(entry.seq) == last);
        for entry in kept.iter().chain(open) {
            text.extend(line(entry)?);
        }
        let is_worth_it = text.len() as u64 <= log.length / 2;
        let remains = if is_worth_it { text.len() as u64 } else { log.length };
        // Otherwise each revocation would read all of it, only to find that it still counts.
        self.compact_from.store(COMPACT_BYTES.max(remains.saturating_mul(2)), Ordering::Relaxed);
        if is_worth_it { create_private(&self.path, &text) } else { Ok(()) }
    }

    pub(super) fn exists(&self) -> bool {
        self.path.exists()
    }

    /// Returns whether the log has the size from which it may be compacted.
    pub(super) fn is_large(&self) -> bool {
        let from = self.compact_from.load(Ordering::Relaxed);
        fs::metadata(&self.path).is_ok_and(|metadata| metadata.len() >= from)
    }

    fn error(&self, problem: impl std::fmt::Display) -> Error {
        Error::file(&self.path, problem)
    }

    fn damaged(&self, line: usize) -> Error {
        self.error(format!(
            "line {line} is damaged. Restore this log from a copy, or move it away and look through what was revoked"
        ))
    }
}

/// Returns the end of the last whole line.
fn whole_lines(file: &mut File) -> io::Result<u64> {
    let length = file.seek(SeekFrom::End(0))?;
    let mut last = [0];
    if length > 0 {
        file.seek(SeekFrom::Start(length - 1))?;
        file.read_exact(&mut last)?;
    }
    if last == [b'\n'] {
        return Ok(length);
    }
    let mut text = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.read_to_end(&mut text)?;
    Ok(text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at as u64 + 1))
}

fn line(value: &impl Serialize) -> Result<Vec<u8>, Error> {
    let mut line = serde_json::to_vec(value).map_err(|error| Error::Damaged(error.to_string()))?;
    line.push(b'\n');
    Ok(line)
}
