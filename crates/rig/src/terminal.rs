//! The terminal that `rig` runs in: its kind and size, questions, hidden input, and raw mode.

use std::io::{BufRead, IsTerminal, Write, stderr, stdin, stdout};

use rustix::fs::{FileType, fstat, major, minor};
use rustix::termios::{
    LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcgetwinsize, tcsetattr,
};

use crate::failure::Failure;

/// Kind of standard input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stdin {
    /// A terminal.
    Terminal,
    /// `/dev/null`.
    Null,
    /// A file or a pipe.
    Data,
}

/// Device number of `/dev/null`.
const DEV_NULL: (u32, u32) = (1, 3);

impl Stdin {
    pub(crate) fn of_process() -> Self {
        if stdin().is_terminal() {
            return Self::Terminal;
        }
        let null = fstat(stdin()).is_ok_and(|about| {
            FileType::from_raw_mode(about.st_mode) == FileType::CharacterDevice
                && (major(about.st_rdev), minor(about.st_rdev)) == DEV_NULL
        });
        if null { Self::Null } else { Self::Data }
    }
}

/// Size of a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Size {
    pub(crate) rows: u16,
    pub(crate) cols: u16,
}

/// Returns the size of the terminal on stdout or stdin, if there is one that reports it.
pub(crate) fn size() -> Option<Size> {
    let size = tcgetwinsize(stdout()).or_else(|_| tcgetwinsize(stdin())).ok()?;
    (size.ws_row > 0 && size.ws_col > 0).then_some(Size { rows: size.ws_row, cols: size.ws_col })
}

/// Asks a question about the removal of `name`. Fails unless the answer is yes, and without a terminal, where no one can answer.
pub(crate) fn confirm(name: &str, question: &str) -> Result<(), Failure> {
    let refused = |code, text: &str| Err(Failure::new(code, format!("{name} was not removed: {text}")));
    if !stdin().is_terminal() {
        return refused("confirmation_required", "not a terminal; use --force to skip the confirmation");
    }
    let _ = write!(stderr(), "{question} [y/N] ");
    let _ = stderr().flush();
    let mut response = String::new();
    let _ = stdin().lock().read_line(&mut response);
    match response.trim().to_ascii_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => refused("cancelled", "canceled"),
    }
}

/// Character of Ctrl-C.
const INTERRUPT: u8 = 3;

/// Reads a line from the terminal without echo; returns `None` after Ctrl-C or Ctrl-D.
pub(crate) fn read_hidden() -> std::io::Result<Option<String>> {
    let before = tcgetattr(stdin())?;
    let mut hidden = before.clone();
    // As a signal, Ctrl-C would leave the terminal without echo. Here it ends the line.
    hidden.local_modes.remove(LocalModes::ECHO | LocalModes::ISIG);
    hidden.special_codes[SpecialCodeIndex::VEOL] = INTERRUPT;
    tcsetattr(stdin(), OptionalActions::Flush, &hidden)?;
    let _restore = RestoreGuard { before };
    let mut line = String::new();
    stdin().read_line(&mut line)?;
    let text = line.strip_suffix('\n').filter(|text| !text.contains(char::from(INTERRUPT)));
    Ok(text.map(str::to_owned))
}

/// Guard that restores the terminal when dropped.
struct RestoreGuard {
    before: Termios,
}

impl Drop for RestoreGuard {
    fn drop(&mut self) {
        let _ = tcsetattr(stdin(), OptionalActions::Now, &self.before);
    }
}

/// Guard of raw mode, in which every key goes to the command.
pub(crate) struct RawMode {
    _restore: RestoreGuard,
}

impl RawMode {
    pub(crate) fn enter() -> std::io::Result<Self> {
        let before = tcgetattr(stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(stdin(), OptionalActions::Now, &raw)?;
        Ok(Self { _restore: RestoreGuard { before } })
    }
}
