//! Subscription to the packets that the rules of a namespace refuse (`log group` in `vm.nft`): a netlink socket that yields their headers.
//! They are a guest's bytes, so only the receiver of the socket reads them, never the node. Only the kernel's acknowledgement is read
//! here.

use std::io;
use std::os::fd::OwnedFd;

use rustix::net::{RecvFlags, SendFlags, recv, send};

use super::netlink::{self, NLM_F_ACK, NLM_F_REQUEST, NLMSG_ERROR, attribute};

/// NFLOG group in `vm.nft`.
const GROUP: u16 = 1;
// linux/netfilter/nfnetlink_log.h
const NFULNL_MSG_CONFIG: u16 = 4 << 8 | 1;
const NFULA_CFG_CMD: u16 = 1;
const NFULNL_CFG_CMD_BIND: u8 = 1;
const NFULA_CFG_MODE: u16 = 2;
const NFULNL_COPY_PACKET: u8 = 2;
/// Bytes of each packet to copy: enough for its headers.
const COPY_RANGE: u32 = 64;

/// Subscribes in the network namespace of the calling thread.
pub(super) fn subscribe() -> io::Result<OwnedFd> {
    let socket = netlink::open()?;
    send(&socket, &request(), SendFlags::empty())?;
    // Packets that are refused at this moment may arrive before the acknowledgement.
    for _ in 0..64 {
        let mut message = [0; 20];
        recv(&socket, &mut message, RecvFlags::TRUNC)?;
        let [_, _, _, _, kind_a, kind_b, .., a, b, c, d] = message;
        if u16::from_ne_bytes([kind_a, kind_b]) == NLMSG_ERROR {
            return match [a, b, c, d] {
                [0, 0, 0, 0] => Ok(socket),
                code => Err(netlink::error(code)),
            };
        }
    }
    Err(io::Error::other("the kernel did not acknowledge the subscription"))
}

/// Builds the request that binds the group and sets the copy range.
fn request() -> Vec<u8> {
    let mut attributes = Vec::new();
    attribute(&mut attributes, NFULA_CFG_CMD, &[NFULNL_CFG_CMD_BIND]);
    let [a, b, c, d] = COPY_RANGE.to_be_bytes();
    attribute(&mut attributes, NFULA_CFG_MODE, &[a, b, c, d, NFULNL_COPY_PACKET, 0]);
    netlink::message(NFULNL_MSG_CONFIG, NLM_F_REQUEST | NLM_F_ACK, 0, GROUP, &attributes)
}
