//! Removal of connections from the kernel's tables (ctnetlink). The entries of a VM that has ended would otherwise keep its places in the
//! tables of the egress namespace and of the host until they time out.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;

use rustix::net::{RecvFlags, SendFlags, recv, send};

use super::netlink::{
    self, NLM_F_DUMP, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, attribute, find, messages, nested,
};

const AF_INET: u8 = 2;
// linux/netfilter/nfnetlink_conntrack.h
const IPCTNL_MSG_CT_GET: u16 = 1 << 8 | 1;
const IPCTNL_MSG_CT_DELETE: u16 = 1 << 8 | 2;
pub(super) const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_FILTER: u16 = 25;
const CTA_FILTER_ORIG_FLAGS: u16 = 1;
const CTA_FILTER_F_CTA_IP_SRC: u32 = 1;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;

const MAX_BATCH_BYTES: usize = 64 * 1024;
/// Bytes of requests per system call.
const MAX_REQUEST_BYTES: usize = 16 * 1024;

/// Addresses and ports of a connection's packets in one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Tuple {
    pub(super) source: Ipv4Addr,
    pub(super) target: Ipv4Addr,
    protocol: u8,
    source_port: u16,
    target_port: u16,
}

impl Tuple {
    /// Returns the tuple of the opposite direction.
    pub(super) fn reversed(self) -> Self {
        Self {
            source: self.target,
            target: self.source,
            source_port: self.target_port,
            target_port: self.source_port,
            ..self
        }
    }

    pub(super) fn parse(attributes: &[u8]) -> Option<Self> {
        let (ip, proto) = (find(attributes, CTA_TUPLE_IP)?, find(attributes, CTA_TUPLE_PROTO)?);
        let address = |kind| Some(Ipv4Addr::from(<[u8; 4]>::try_from(find(ip, kind)?).ok()?));
        let port = |kind| Some(u16::from_be_bytes(find(proto, kind)?.try_into().ok()?));
        Some(Self {
            source: address(CTA_IP_V4_SRC)?,
            target: address(CTA_IP_V4_DST)?,
            protocol: *find(proto, CTA_PROTO_NUM)?.first()?,
            source_port: port(CTA_PROTO_SRC_PORT)?,
            target_port: port(CTA_PROTO_DST_PORT)?,
        })
    }

    pub(super) fn encode(self, to: &mut Vec<u8>) {
        nested(to, CTA_TUPLE_ORIG, |tuple| {
            nested(tuple, CTA_TUPLE_IP, |ip| {
                attribute(ip, CTA_IP_V4_SRC, &self.source.octets());
                attribute(ip, CTA_IP_V4_DST, &self.target.octets());
            });
            nested(tuple, CTA_TUPLE_PROTO, |proto| {
                attribute(proto, CTA_PROTO_NUM, &[self.protocol]);
                attribute(proto, CTA_PROTO_SRC_PORT, &self.source_port.to_be_bytes());
                attribute(proto, CTA_PROTO_DST_PORT, &self.target_port.to_be_bytes());
            });
        });
    }
}

/// Connection in the calling thread's namespace: the packets of who opened it, and the expected replies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Connection {
    pub(super) original: Tuple,
    pub(super) reply: Tuple,
}

/// Returns the TCP and UDP connections that `source` has opened through the calling thread's namespace. (Others time out in seconds.)
pub(super) fn opened_by(source: Ipv4Addr) -> io::Result<Vec<Connection>> {
    let socket = netlink::open()?;
    let mut attributes = Vec::new();
    nested(&mut attributes, CTA_TUPLE_ORIG, |tuple| {
        nested(tuple, CTA_TUPLE_IP, |ip| attribute(ip, CTA_IP_V4_SRC, &source.octets()));
    });
    nested(&mut attributes, CTA_FILTER, |filter| {
        attribute(filter, CTA_FILTER_ORIG_FLAGS, &CTA_FILTER_F_CTA_IP_SRC.to_ne_bytes());
    });
    let request = netlink::message(IPCTNL_MSG_CT_GET, NLM_F_REQUEST | NLM_F_DUMP, AF_INET, 0, &attributes);
    send(&socket, &request, SendFlags::empty())?;
    read_dump(&socket, source)
}

fn read_dump(socket: &OwnedFd, source: Ipv4Addr) -> io::Result<Vec<Connection>> {
    let mut connections = Vec::new();
    let mut buffer = vec![0; MAX_BATCH_BYTES];
    loop {
        let (length, _) = recv(socket, &mut buffer, RecvFlags::empty())?;
        if read_batch(buffer.get(..length).unwrap_or_default(), source, &mut connections)? {
            return Ok(connections);
        }
    }
}

/// Adds the connections that `source` has opened from one batch of a dump. Returns whether the dump ends with it.
pub(super) fn read_batch(
    batch: &[u8],
    source: Ipv4Addr,
    connections: &mut Vec<Connection>,
) -> io::Result<bool> {
    for (kind, body) in messages(batch) {
        match kind {
            NLMSG_DONE => return Ok(true),
            NLMSG_ERROR => {
                let code = body.get(..4).and_then(|code| code.try_into().ok());
                return Err(netlink::error(code.unwrap_or_default()));
            }
            _ => {}
        }
        let tuple = |kind| find(body, kind).and_then(Tuple::parse);
        if let (Some(original), Some(reply)) = (tuple(CTA_TUPLE_ORIG), tuple(CTA_TUPLE_REPLY))
            && original.source == source
        {
            connections.push(Connection { original, reply });
        }
    }
    Ok(false)
}

/// Removes connections from the calling thread's namespace. Those that have ended meanwhile are no error.
pub(super) fn remove(originals: impl Iterator<Item = Tuple>) -> io::Result<()> {
    let socket = netlink::open()?;
    let mut batch = Vec::new();
    let mut originals = originals.peekable();
    while let Some(original) = originals.next() {
        let mut attributes = Vec::new();
        original.encode(&mut attributes);
        batch.extend(netlink::message(IPCTNL_MSG_CT_DELETE, NLM_F_REQUEST, AF_INET, 0, &attributes));
        if batch.len() > MAX_REQUEST_BYTES || originals.peek().is_none() {
            send(&socket, &batch, SendFlags::empty())?;
            batch.clear();
        }
    }
    Ok(())
}
