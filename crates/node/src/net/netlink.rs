//! Messages to the kernel's netfilter, as nfnetlink defines them.

use std::io;
use std::os::fd::OwnedFd;

use rustix::net::netlink::{NETFILTER, SocketAddrNetlink};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with};

// linux/netlink.h
pub(super) const NLM_F_REQUEST: u16 = 1;
pub(super) const NLM_F_ACK: u16 = 4;
pub(super) const NLM_F_DUMP: u16 = 0x300;
pub(super) const NLMSG_ERROR: u16 = 2;
pub(super) const NLMSG_DONE: u16 = 3;
/// Flag in the type of an attribute that contains attributes.
pub(super) const NLA_F_NESTED: u16 = 1 << 15;
/// Length of the header of a message, and of netfilter's own after it.
const HEADERS_LEN: usize = 20;

/// Opens a socket in the network namespace of the calling thread.
pub(super) fn open() -> io::Result<OwnedFd> {
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, Some(NETFILTER))?;
    bind(&socket, &SocketAddrNetlink::new(0, 0))?;
    Ok(socket)
}

/// Returns the error that the kernel reports as a negative number.
pub(super) fn error(code: [u8; 4]) -> io::Error {
    io::Error::from_raw_os_error(i32::from_ne_bytes(code).saturating_neg())
}

/// Builds a message. `resource` is the last field of netfilter's header.
pub(super) fn message(kind: u16, flags: u16, family: u8, resource: u16, attributes: &[u8]) -> Vec<u8> {
    let mut message = Vec::with_capacity(HEADERS_LEN + attributes.len());
    message.extend(u32::try_from(HEADERS_LEN + attributes.len()).unwrap_or(0).to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    // Sequence number and port id.
    message.extend([0; 8]);
    message.extend([family, 0]);
    message.extend(resource.to_be_bytes());
    message.extend(attributes);
    message
}

/// Appends an attribute.
pub(super) fn attribute(to: &mut Vec<u8>, kind: u16, value: &[u8]) {
    to.extend(u16::try_from(4 + value.len()).unwrap_or(0).to_ne_bytes());
    to.extend(kind.to_ne_bytes());
    to.extend(value);
    to.resize(to.len().next_multiple_of(4), 0);
}

/// Appends an attribute that contains attributes.
pub(super) fn nested(to: &mut Vec<u8>, kind: u16, fill: impl FnOnce(&mut Vec<u8>)) {
    let mut value = Vec::new();
    fill(&mut value);
    attribute(to, kind | NLA_F_NESTED, &value);
}

/// Splits a batch into its messages: their types, and what follows the two headers.
pub(super) fn messages(mut batch: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::try_from(u32::from_ne_bytes(batch.get(..4)?.try_into().ok()?)).ok()?;
        let message = batch.get(..length).filter(|message| message.len() >= 16)?;
        batch = batch.get(length.next_multiple_of(4)..).unwrap_or_default();
        let kind = u16::from_ne_bytes(message.get(4..6)?.try_into().ok()?);
        // An error, or the end of a dump, has no netfilter header.
        let header = if matches!(kind, NLMSG_ERROR | NLMSG_DONE) { 16 } else { HEADERS_LEN };
        Some((kind, message.get(header..)?))
    })
}

/// Returns the value of the first attribute of this type.
pub(super) fn find(mut attributes: &[u8], kind: u16) -> Option<&[u8]> {
    loop {
        let length = usize::from(u16::from_ne_bytes(attributes.get(..2)?.try_into().ok()?));
        let found = u16::from_ne_bytes(attributes.get(2..4)?.try_into().ok()?) & !NLA_F_NESTED;
        let value = attributes.get(4..length)?;
        if found == kind {
            return Some(value);
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_code_is_an_error() {
        for (code, error_number) in [(-1, 1), (-105, 105), (i32::MIN, i32::MAX)] {
            assert_eq!(error(code.to_ne_bytes()).raw_os_error(), Some(error_number));
        }
    }
}
