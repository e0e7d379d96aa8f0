//! Asynchronous I/O on character devices, such as the virtio-serial port to the host or a terminal.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Open device in non-blocking mode, as a tokio byte stream.
pub struct AsyncFile {
    file: AsyncFd<File>,
}

impl AsyncFile {
    /// Switches `file` to non-blocking mode and registers it with the current tokio runtime.
    ///
    /// # Errors
    /// Fails if `file` is of a kind that cannot be polled.
    pub fn new(file: File) -> io::Result<Self> {
        fcntl_setfl(&file, fcntl_getfl(&file)? | OFlags::NONBLOCK)?;
        // SAFETY: a `File` owns its descriptor and names the same one for as long as it lives; `AsyncFd` owns the `File`.
        let file = unsafe { AsyncFd::register(file) }?;
        Ok(Self { file })
    }
}

impl AsyncRead for AsyncFile {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            let mut guard = ready!(self.file.poll_read_ready(cx))?;
            let space = buffer.initialize_unfilled();
            match guard.try_io(|file| file.get_ref().read(space)) {
                Ok(Ok(count)) => {
                    buffer.advance(count);
                    return Poll::Ready(Ok(()));
                }
                Ok(Err(error)) => return Poll::Ready(Err(error)),
                Err(_would_block) => {}
            }
        }
    }
}

impl AsyncWrite for AsyncFile {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.file.poll_write_ready(cx))?;
            match guard.try_io(|file| file.get_ref().write(bytes)) {
                Ok(result) => return Poll::Ready(result),
                Err(_would_block) => {}
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Descriptor registered once with the runtime, to wait until it is readable. A pidfd becomes readable when its process exits.
#[derive(Debug)]
pub struct ReadableFd {
    fd: AsyncFd<OwnedFd>,
}

impl ReadableFd {
    /// Registers `fd` with the current tokio runtime.
    ///
    /// # Errors
    /// Fails if `fd` cannot be polled, or if the process or the system lacks the resources for it.
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        // SAFETY: an `OwnedFd` names the same open descriptor for as long as it lives; `AsyncFd` owns it.
        let fd = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?;
        Ok(Self { fd })
    }

    /// Waits until the descriptor is readable.
    ///
    /// # Errors
    /// Fails if the runtime shuts down. It says nothing about the descriptor then.
    pub async fn readable(&self) -> io::Result<()> {
        self.fd.readable().await?.retain_ready();
        Ok(())
    }
}

impl AsFd for ReadableFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.get_ref().as_fd()
    }
}
