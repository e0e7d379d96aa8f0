//! A pseudo-terminal for a command (pty(7)).

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};

use rigbox_proto::guest::WindowSize;
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use rigbox_sys::async_file::AsyncFile;

/// The host's side of a new terminal.
pub(super) struct Terminal {
    pub(super) reader: AsyncFile,
    pub(super) writer: AsyncFile,
    /// A third descriptor, for [`resize`].
    pub(super) size: OwnedFd,
}

impl Terminal {
    /// Makes a terminal and gives its other side to `command` as standard input, output and error.
    pub(super) fn attach(command: &mut Command, size: WindowSize) -> io::Result<Self> {
        let host = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        grantpt(&host)?;
        unlockpt(&host)?;
        let guest = ioctl_tiocgptpeer(&host, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        resize(&host, size)?;
        command.stdin(Stdio::from(guest.try_clone()?)).stdout(Stdio::from(guest.try_clone()?)).stderr(guest);
        let host = File::from(host);
        Ok(Self {
            reader: AsyncFile::new(host.try_clone()?)?,
            writer: AsyncFile::new(host.try_clone()?)?,
            size: host.into(),
        })
    }
}

/// Tells the terminal, and so its foreground process group, a new size.
pub(super) fn resize(terminal: &OwnedFd, size: WindowSize) -> io::Result<()> {
    let size = Winsize {
        ws_row: u16::try_from(size.rows).unwrap_or(u16::MAX),
        ws_col: u16::try_from(size.cols).unwrap_or(u16::MAX),
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    Ok(tcsetwinsize(terminal, size)?)
}
