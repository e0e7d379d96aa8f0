//! Subscribes to what the rules of a namespace refuse (`log group` in `vm.nft`): a netlink socket that yields the beginnings of packets. They
//! are a guest's bytes, so whoever gets the socket reads them, never the node; all that is read here is the kernel's yes or no.

use std::io;
use std::os::fd::OwnedFd;

use rustix::net::netlink::{NETFILTER, SocketAddrNetlink};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, send, socket_with,
};

/// The group of `vm.nft`.
const GROUP: u16 = 1;
// linux/netfilter/nfnetlink.h and nfnetlink_log.h
const CONFIGURE: u16 = 4 << 8 | 1;
const REQUEST_AND_ACK: u16 = 1 | 4;
const COMMAND: u16 = 1;
const BIND: u8 = 1;
const MODE: u16 = 2;
const COPY_PACKET: u8 = 2;
/// Enough for the headers.
const COPIED: u32 = 64;

/// Of a netlink message's type: the kernel's answer to a request.
const ANSWER: u16 = 2;

/// Subscribes in the network namespace of the calling thread.
pub(super) fn subscribe() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, Some(NETFILTER))?;
    bind(&socket, &SocketAddrNetlink::new(0, 0))?;
    send(&socket, &request(), SendFlags::empty())?;
    // Packets that were refused in this moment may come before the answer.
    for _ in 0..64 {
        let mut answer = [0; 20];
        recv(&socket, &mut answer, RecvFlags::TRUNC)?;
        let [_, _, _, _, kind_a, kind_b, .., a, b, c, d] = answer;
        if u16::from_ne_bytes([kind_a, kind_b]) == ANSWER {
            return match i32::from_ne_bytes([a, b, c, d]) {
                0 => Ok(socket),
                error => Err(io::Error::from_raw_os_error(-error)),
            };
        }
    }
    Err(io::Error::other("the kernel does not answer"))
}

/// Asks for the packets of the group and for so much of each.
fn request() -> Vec<u8> {
    let mut body = vec![0, 0];
    body.extend(GROUP.to_be_bytes());
    attribute(&mut body, COMMAND, &[BIND]);
    let [a, b, c, d] = COPIED.to_be_bytes();
    attribute(&mut body, MODE, &[a, b, c, d, COPY_PACKET, 0]);
    let mut message = Vec::new();
    message.extend(u32::try_from(16 + body.len()).unwrap_or(0).to_ne_bytes());
    message.extend(CONFIGURE.to_ne_bytes());
    message.extend(REQUEST_AND_ACK.to_ne_bytes());
    // Number and sender.
    message.extend([0; 8]);
    message.extend(body);
    message
}

fn attribute(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    body.extend(u16::try_from(4 + value.len()).unwrap_or(0).to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value);
    body.resize(body.len().next_multiple_of(4), 0);
}
