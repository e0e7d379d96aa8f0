//! One message with descriptors beside it, over a socket that keeps the bounds of messages (`SOCK_SEQPACKET`).

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, recvmsg, sendmsg,
    socket_with, socketpair,
};

/// More descriptors than one message ever carries.
const MOST: usize = 16;
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Connects to the packet socket at `path`.
///
/// # Errors
/// As connect(2).
pub fn connect_to(path: &std::path::Path) -> io::Result<OwnedFd> {
    let socket = packet_socket()?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}

/// Listens on a packet socket at `path`, which must not exist.
///
/// # Errors
/// As bind(2).
pub fn listen_at(path: &std::path::Path) -> io::Result<OwnedFd> {
    let socket = packet_socket()?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    rustix::net::listen(&socket, 16)?;
    Ok(socket)
}

/// Listens at `path`, in place of what a dead process left there, on a thread named `name`, and gives each connection of a process of
/// `uid` to `serve`; others are closed at once.
///
/// # Errors
/// As unlink(2), bind(2) or chmod(2), or there is no thread to be had.
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
    let listener = listen_at(path)?;
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o666))?;
    let accept = move || {
        loop {
            let Ok(peer) = rustix::net::accept_with(&listener, SocketFlags::CLOEXEC) else {
                // Out of descriptors, perhaps: they come back.
                std::thread::sleep(ACCEPT_PAUSE);
                continue;
            };
            if rustix::net::sockopt::socket_peercred(&peer).is_ok_and(|cred| cred.uid.as_raw() == uid) {
                serve(peer);
            }
        }
    };
    std::thread::Builder::new().name(name.to_owned()).spawn(accept).map(drop)
}

/// Two packet sockets, connected to each other.
///
/// # Errors
/// As socketpair(2).
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

fn packet_socket() -> io::Result<OwnedFd> {
    Ok(socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

/// Sends one message with copies of `fds`.
///
/// # Errors
/// As sendmsg(2).
pub fn send(socket: impl AsFd, message: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if fds.len() > MOST || (!fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds))) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many descriptors for one message"));
    }
    sendmsg(socket, &[IoSlice::new(message)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Receives one message of at most `limit` bytes and the descriptors beside it. An empty message without descriptors is the end.
///
/// # Errors
/// As recvmsg(2), or the message is longer than `limit`.
pub fn receive(socket: impl AsFd, limit: usize) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut message = vec![0; limit];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
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
            format!("a message longer than {limit} bytes"),
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
    fn a_descriptor_crosses() {
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
    fn a_long_message_is_refused() {
        let (here, there) = pair().unwrap();
        send(&here, &[0; 65], &[]).unwrap();
        assert!(receive(&there, 64).is_err());
    }
}
