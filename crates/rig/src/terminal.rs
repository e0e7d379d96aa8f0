//! The terminal that `rig` runs in: whether there is one, how large it is, and raw mode for as long as a command in a
//! workspace has it.

use std::io::{IsTerminal, stdin, stdout};

use rustix::fs::{FileType, fstat, major, minor};
use rustix::termios::{
    LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcgetwinsize, tcsetattr,
};

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

/// The character of Ctrl-C.
const INTERRUPT: u8 = 3;

/// What somebody types at our stdin without it being shown; nothing when they give up (Ctrl-C, Ctrl-D).
pub(crate) fn read_hidden() -> std::io::Result<Option<String>> {
    let before = tcgetattr(stdin())?;
    let mut hidden = before.clone();
    // Ctrl-C as a signal would end us with the terminal still silent: here it ends the line.
    hidden.local_modes.remove(LocalModes::ECHO | LocalModes::ISIG);
    hidden.special_codes[SpecialCodeIndex::VEOL] = INTERRUPT;
    tcsetattr(stdin(), OptionalActions::Flush, &hidden)?;
    let _restored = Restored { before };
    let mut line = String::new();
    stdin().read_line(&mut line)?;
    let text = line.strip_suffix('\n').filter(|text| !text.contains(char::from(INTERRUPT)));
    Ok(text.map(str::to_owned))
}

/// The terminal is as before when this is dropped.
struct Restored {
    before: Termios,
}

impl Drop for Restored {
    fn drop(&mut self) {
        let _ = tcsetattr(stdin(), OptionalActions::Now, &self.before);
    }
}

/// Every key goes to the command; the terminal is as before when this is dropped.
pub(crate) struct RawMode {
    _restored: Restored,
}

impl RawMode {
    pub(crate) fn enter() -> std::io::Result<Self> {
        let before = tcgetattr(stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(stdin(), OptionalActions::Now, &raw)?;
        Ok(Self { _restored: Restored { before } })
    }
}
