//! Connections of a VM's host over vsock(7), which the VM accepts.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use nix::libc;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, VsockAddr, bind, getpeername, listen, socket,
};
use rustix::net::{SocketFlags, accept_with};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::async_file::AsyncFile;

/// Connections that wait to be accepted: one session follows the other.
const BACKLOG: i32 = 4;
/// Delay after a failure to accept, for want of memory or descriptors.
const RETRY_DELAY: Duration = Duration::from_millis(100);

/// Socket on which a VM's host connects.
#[derive(Debug)]
pub struct HostListener {
    socket: AsyncFd<OwnedFd>,
}

impl HostListener {
    /// Listens on `port` of this VM. Only root may take a port below 1024.
    ///
    /// # Errors
    /// Fails without vsock, without permission, or if the port is taken.
    pub fn bind(port: u32) -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(AddressFamily::Vsock, SockType::Stream, flags, None)?;
        bind(socket.as_raw_fd(), &VsockAddr::new(libc::VMADDR_CID_ANY, port))?;
        listen(&socket, Backlog::new(BACKLOG)?)?;
        // SAFETY: an `OwnedFd` names the same open descriptor for as long as it lives; `AsyncFd` owns it.
        let socket = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }?;
        Ok(Self { socket })
    }

    /// Waits for a connection of the host. Those of processes in this VM are closed. Cancellation-safe.
    ///
    /// # Errors
    /// Fails if the runtime shuts down.
    pub async fn accept(&self) -> io::Result<AsyncFile> {
        loop {
            let mut guard = self.socket.readable().await?;
            let accepted = guard.try_io(|socket| {
                let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
                accept_with(socket.get_ref(), flags).map_err(io::Error::from)
            });
            let connection = match accepted {
                Ok(Ok(connection)) => connection,
                Ok(Err(_)) => {
                    tokio::time::sleep(RETRY_DELAY).await;
                    continue;
                }
                Err(_would_block) => continue,
            };
            // One that has ended has no peer.
            let peer = getpeername::<VsockAddr>(connection.as_raw_fd());
            if peer.is_ok_and(|peer| peer.cid() == libc::VMADDR_CID_HOST) {
                return AsyncFile::new(connection.into());
            }
        }
    }
}
