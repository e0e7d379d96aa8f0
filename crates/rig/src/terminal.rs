//! The terminal that `rig` runs in: whether there is one, how large it is, and raw mode for as long as a command in a
//! workspace has it.

use std::io::{IsTerminal, stdin, stdout};

use rustix::fs::{FileType, fstat, major, minor};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

/// What stands behind our stdin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stdin {
    /// Somebody who types.
    Terminal,
    /// Nothing at all.
    Null,
    /// A file or a pipe.
    Data,
}

/// `/dev/null`, in Linux's list of devices.
const NULL: (u32, u32) = (1, 3);

impl Stdin {
    pub(crate) fn of_process() -> Self {
        if stdin().is_terminal() {
            return Self::Terminal;
        }
        let null = fstat(stdin()).is_ok_and(|about| {
            FileType::from_raw_mode(about.st_mode) == FileType::CharacterDevice
                && (major(about.st_rdev), minor(about.st_rdev)) == NULL
        });
        if null { Self::Null } else { Self::Data }
    }
}

/// Rows and columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Size {
    pub(crate) rows: u16,
    pub(crate) cols: u16,
}

/// Of the terminal we write to, or read from; none when there is no terminal or it does not know.
pub(crate) fn size() -> Option<Size> {
    let size = tcgetwinsize(stdout()).or_else(|_| tcgetwinsize(stdin())).ok()?;
    (size.ws_row > 0 && size.ws_col > 0).then_some(Size { rows: size.ws_row, cols: size.ws_col })
}

/// Every key goes to the command; the terminal is as before when this is dropped.
pub(crate) struct RawMode {
    before: Termios,
}

impl RawMode {
    pub(crate) fn enter() -> std::io::Result<Self> {
        let before = tcgetattr(stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(stdin(), OptionalActions::Now, &raw)?;
        Ok(Self { before })
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        let _ = tcsetattr(stdin(), OptionalActions::Now, &self.before);
    }
}
