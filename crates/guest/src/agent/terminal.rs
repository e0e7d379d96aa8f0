//! Pseudo-terminal of a command (pty(7)).

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};

use rigbox_proto::guest::WindowSize;
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use rigbox_sys::async_file::AsyncFile;

/// Controller side of a new terminal.
pub(super) struct Terminal {
    pub(super) reader: AsyncFile,
    pub(super) writer: AsyncFile,
    /// Third descriptor, for its size and its foreground job.
    pub(super) control: OwnedFd,
}

impl Terminal {
    /// Creates a terminal and attaches its other side to `command` as standard input, output and error.
    pub(super) fn attach(command: &mut Command, size: WindowSize) -> io::Result<Self> {
        let controller = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        grantpt(&controller)?;
        unlockpt(&controller)?;
        let peer =
            ioctl_tiocgptpeer(&controller, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        resize(&controller, size)?;
        command.stdin(Stdio::from(peer.try_clone()?)).stdout(Stdio::from(peer.try_clone()?)).stderr(peer);
        let controller = File::from(controller);
        Ok(Self {
            reader: AsyncFile::new(controller.try_clone()?)?,
            writer: AsyncFile::new(controller.try_clone()?)?,
            control: controller.into(),
        })
    }
}

/// Sets the size of the terminal, which notifies its foreground process group.
pub(super) fn resize(terminal: &OwnedFd, size: WindowSize) -> io::Result<()> {
    let size = Winsize {
        ws_row: u16::try_from(size.rows).unwrap_or(u16::MAX),
        ws_col: u16::try_from(size.cols).unwrap_or(u16::MAX),
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    Ok(tcsetwinsize(terminal, size)?)
}
