//! Searches files, sparse ones included, and the memory of processes for secrets: in plain, in hexadecimal and in base64.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use aho_corasick::{AhoCorasick, AhoCorasickKind};
use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use nix::errno::Errno;
use nix::unistd::{Whence, lseek};

const CHUNK: usize = 4 << 20;
/// Limit for the memory read from one process.
const MAX_MEMORY_BYTES: u64 = 8 << 30;

/// Value to search for.
pub(crate) struct Needle {
    pub(crate) kind: &'static str,
    pub(crate) bytes: Vec<u8>,
}

/// Search for all needles in one pass.
pub(crate) struct Search {
    matcher: AhoCorasick,
    /// Kind and form of each pattern.
    patterns: Vec<(&'static str, &'static str)>,
    max_len: usize,
}

/// Kind and form of each needle that was found.
pub(crate) type Findings = std::collections::BTreeSet<(&'static str, &'static str)>;

fn forms(bytes: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut forms = vec![
        ("plain", bytes.to_vec()),
        ("hexadecimal", hex.to_uppercase().into_bytes()),
        ("hexadecimal", hex.into_bytes()),
    ];
    // Base64 of a text depends on its offset modulo 3. Characters that also encode neighboring bytes are left out.
    for (before, shared) in [(0, 0), (1, 2), (2, 3)] {
        let moved = [&vec![0; before], bytes].concat();
        let whole = moved.len() * 8 / 6;
        for text in [STANDARD_NO_PAD.encode(&moved), URL_SAFE_NO_PAD.encode(&moved)] {
            forms.push(("base64", text.as_bytes()[shared..whole].to_vec()));
        }
    }
    forms.sort();
    forms.dedup();
    forms
}

impl Search {
    pub(crate) fn new(needles: &[Needle]) -> Result<Self> {
        let (mut patterns, mut all) = (Vec::new(), Vec::new());
        for needle in needles {
            anyhow::ensure!(
                needle.bytes.len() >= 16,
                "{} is too short to rule out a coincidence",
                needle.kind
            );
            for (form, bytes) in forms(&needle.bytes) {
                patterns.push((needle.kind, form));
                all.push(bytes);
            }
        }
        let max_len = all.iter().map(Vec::len).max().context("nothing to look for")?;
        let matcher = AhoCorasick::builder().kind(Some(AhoCorasickKind::DFA)).build(&all)?;
        Ok(Self { matcher, patterns, max_len })
    }

    fn look(&self, bytes: &[u8], seen: &mut Findings) {
        for found in self.matcher.find_overlapping_iter(bytes) {
            seen.insert(self.patterns[found.pattern().as_usize()]);
        }
    }

    /// Searches the bytes that `read` gives between two offsets, in overlapping chunks. A chunk that cannot be read is skipped.
    fn range(
        &self,
        mut at: u64,
        end: u64,
        seen: &mut Findings,
        read: impl Fn(&mut [u8], u64) -> io::Result<usize>,
    ) -> u64 {
        let (mut buffer, mut kept, mut bytes) = (vec![0; CHUNK], 0, 0);
        while at < end {
            let room = (CHUNK - kept).min(usize::try_from(end - at).unwrap_or(CHUNK));
            match read(&mut buffer[kept..kept + room], at) {
                Ok(0) => break,
                Ok(count) => {
                    let filled = kept + count;
                    self.look(&buffer[..filled], seen);
                    kept = filled.min(self.max_len - 1);
                    buffer.copy_within(filled - kept..filled, 0);
                    (at, bytes) = (at + count as u64, bytes + count as u64);
                }
                Err(_) => (at, kept) = (at + 4096, 0),
            }
        }
        bytes
    }

    /// A file's data; holes are not read. Answers how many bytes that were.
    pub(crate) fn file(&self, path: &Path, seen: &mut Findings) -> Result<u64> {
        let file = File::open(path).with_context(|| path.display().to_string())?;
        let (mut at, mut bytes) = (0, 0);
        loop {
            let data = match lseek(&file, at, Whence::SeekData) {
                Ok(data) => data,
                // No more data; or a namespace's name, which has none.
                Err(Errno::ENXIO | Errno::ESPIPE) => return Ok(bytes),
                Err(error) => return Err(error).with_context(|| path.display().to_string()),
            };
            let hole = lseek(&file, data, Whence::SeekHole)?;
            bytes += self.range(data as u64, hole as u64, seen, |buffer, at| file.read_at(buffer, at));
            at = hole;
        }
    }

    /// Searches every file below `folder` (no pipes, no sockets, no links), and calls `with` for each file and its findings.
    pub(crate) fn folder(&self, folder: &Path, with: &mut impl FnMut(&Path, Findings)) -> Result<u64> {
        let mut bytes = 0;
        for entry in std::fs::read_dir(folder).with_context(|| folder.display().to_string())? {
            let (path, kind) = entry.and_then(|entry| Ok((entry.path(), entry.file_type()?)))?;
            if kind.is_dir() {
                bytes += self.folder(&path, with)?;
            } else if kind.is_file() {
                let mut seen = Findings::new();
                match self.file(&path, &mut seen) {
                    Ok(read) => bytes += read,
                    // One that has just been removed holds nothing.
                    Err(_) if !path.exists() => continue,
                    Err(error) => return Err(error),
                }
                with(&path, seen);
            }
        }
        Ok(bytes)
    }

    /// Searches the memory that a process can write to, without its programs. Returns the number of bytes.
    pub(crate) fn memory(&self, pid: i32, seen: &mut Findings) -> Result<u64> {
        let maps = std::fs::read_to_string(format!("/proc/{pid}/maps"))?;
        let memory = File::open(format!("/proc/{pid}/mem"))?;
        let mut bytes = 0;
        for line in maps.lines() {
            let mut words = line.split_whitespace();
            let (Some(range), Some(modes)) = (words.next(), words.next()) else { continue };
            let Some((start, end)) = range.split_once('-') else { continue };
            if !modes.starts_with("rw") || line.contains("[v") {
                continue;
            }
            let (start, end) = (u64::from_str_radix(start, 16)?, u64::from_str_radix(end, 16)?);
            bytes += self.range(start, end, seen, |buffer, at| memory.read_at(buffer, at));
            anyhow::ensure!(bytes < MAX_MEMORY_BYTES, "process {pid} has more memory than is searched");
        }
        Ok(bytes)
    }
}
