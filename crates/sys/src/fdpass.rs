//! File descriptor passing: messages with attached descriptors (`SCM_RIGHTS`) over `SOCK_SEQPACKET` sockets, which keep
//! message boundaries.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType, recvmsg, sendmsg, socket_with,
    socketpair,
};

/// Upper bound for descriptors in one message; no caller sends more.
const MAX_FDS: usize = 16;
const LISTEN_BACKLOG: i32 = 16;
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(50);

/// Connects to the socket at `path`.
///
/// # Errors
/// As connect(2).
pub fn connect(path: &std::path::Path) -> io::Result<OwnedFd> {
    let socket = seqpacket_socket()?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}

/// Listens on a new socket at `path`, which must not exist.
///
/// # Errors
/// As bind(2).
pub fn listen(path: &std::path::Path) -> io::Result<OwnedFd> {
    let socket = seqpacket_socket()?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    rustix::net::listen(&socket, LISTEN_BACKLOG)?;
    Ok(socket)
}

/// Listens at `path` on a thread named `name` and passes each connection of a process of `uid` to `serve`. Connections of other
/// users are closed at once. Replaces a stale socket file.
///
/// # Errors
/// As unlink(2), bind(2) or chmod(2), or if the thread cannot be spawned.
pub fn serve(
    path: &std::path::Path,
    uid: u32,
    name: &str,
    serve: impl Fn(OwnedFd) + Send + 'static,
) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = listen(path)?;
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o666))?;
    let accept = move || {
        loop {
            let Ok(peer) = rustix::net::accept_with(&listener, SocketFlags::CLOEXEC) else {
                // Probably out of descriptors, which is temporary.
                std::thread::sleep(ACCEPT_RETRY_DELAY);
                continue;
            };
            if rustix::net::sockopt::socket_peercred(&peer).is_ok_and(|cred| cred.uid.as_raw() == uid) {
                serve(peer);
            }
        }
    };
    std::thread::Builder::new().name(name.to_owned()).spawn(accept).map(drop)
}

/// Returns a pair of connected sockets.
///
/// # Errors
/// As socketpair(2).
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

fn seqpacket_socket() -> io::Result<OwnedFd> {
    Ok(socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

/// Sends one message with duplicates of `fds` attached.
///
/// # Errors
/// As sendmsg(2).
pub fn send(socket: impl AsFd, message: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if fds.len() > MAX_FDS || (!fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds))) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many descriptors for one message"));
    }
    sendmsg(socket, &[IoSlice::new(message)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Receives one message of at most `limit` bytes, and its descriptors. An empty message without descriptors means end of stream.
///
/// # Errors
/// As recvmsg(2), or if the message is longer than `limit`.
pub fn receive(socket: impl AsFd, limit: usize) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut message = vec![0; limit];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received =
        recvmsg(socket, &mut [IoSliceMut::new(&mut message)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let fds = control
        .drain()
        .filter_map(|item| match item {
            RecvAncillaryMessage::ScmRights(fds) => Some(fds),
            _ => None,
        })
        .flatten()
        .collect();
    if received.flags.contains(ReturnFlags::TRUNC) || received.flags.contains(ReturnFlags::CTRUNC) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("message is longer than {limit} bytes"),
        ));
    }
    message.truncate(received.bytes);
    Ok((message, fds))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn descriptor_is_passed_with_its_message() {
        let (here, there) = pair().unwrap();
        let (mut reader, writer) = std::io::pipe().unwrap();
        send(&here, b"take this", &[writer.as_fd()]).unwrap();
        drop(writer);
        let (message, mut fds) = receive(&there, 64).unwrap();
        assert_eq!(message, b"take this");
        let mut writer = std::fs::File::from(fds.pop().unwrap());
        writer.write_all(b"through").unwrap();
        drop(writer);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "through");
    }

    #[test]
    fn message_over_the_limit_is_refused() {
        let (here, there) = pair().unwrap();
        send(&here, &[0; 65], &[]).unwrap();
        assert!(receive(&there, 64).is_err());
    }
}
