//! What a VM wanted outside and did not get: packets that its network refused, of which the kernel sends the beginnings, and names. Counted for
//! some seconds, so that a VM that tries a thousand times is one line and cannot fill anything.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rigbox_proto::guestio::{EgressRefused, fd_request::Channel, report};
use rigbox_sys::async_file::AsyncFile;
use tokio::io::AsyncReadExt;

use crate::fds::FdError;
use crate::vm::Vm;

/// How long the same is counted before it is told.
const COUNTED_FOR: Duration = Duration::from_secs(5);
/// Different ones told in that time; what is more is lost.
const MOST: usize = 64;
const AGAIN_AFTER: Duration = Duration::from_secs(1);
/// Longest batch of the kernel's messages.
const BATCH: usize = 64 * 1024;

/// What was refused.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum What {
    Packet { protocol: u8, address: Ipv4Addr, port: u16 },
    Name(String),
}

/// Counts of one VM, not told yet: how often, and since when (Unix ms).
#[derive(Default)]
pub(crate) struct Refusals {
    counts: Mutex<HashMap<What, (u32, i64)>>,
}

impl Refusals {
    pub(crate) fn note(&self, what: What) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let full = counts.len() >= MOST;
        if let Some((count, _)) = counts.get_mut(&what) {
            *count = count.saturating_add(1);
        } else if !full {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            counts.insert(what, (1, i64::try_from(now.as_millis()).unwrap_or(0)));
        }
    }

    fn take(&self) -> Vec<EgressRefused> {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.drain().map(|(what, (count, unix_ms))| report_of(what, count, unix_ms)).collect()
    }
}

fn report_of(what: What, count: u32, unix_ms: i64) -> EgressRefused {
    let none = EgressRefused { count, unix_ms, ..Default::default() };
    match what {
        What::Name(name) => EgressRefused {
            protocol: "dns".to_owned(),
            name: crate::text::clean(&name).chars().take(255).collect(),
            ..none
        },
        What::Packet { protocol, address, port } => EgressRefused {
            protocol: match protocol {
                1 => "icmp".to_owned(),
                6 => "tcp".to_owned(),
                17 => "udp".to_owned(),
                other => other.to_string(),
            },
            address: address.to_string(),
            port: port.into(),
            ..none
        },
    }
}

/// Reads and tells for as long as the VM is attended to; dropped with its entry.
pub(crate) async fn attend(vm: Arc<Vm>) {
    loop {
        if let Err(error) = session(&vm).await {
            tracing::debug!(workspace = %vm.workspace_id, boot = %vm.boot_id, %error, "refusals");
        }
        tell(&vm);
        tokio::time::sleep(AGAIN_AFTER).await;
    }
}

async fn session(vm: &Vm) -> Result<(), FdError> {
    let socket = vm.fds.get(&vm.boot_id, Channel::Nflog).await?;
    let mut socket = AsyncFile::new(socket.into())?;
    let mut tick = tokio::time::interval(COUNTED_FOR);
    let mut buffer = vec![0; BATCH];
    loop {
        tokio::select! {
            _ = tick.tick() => tell(vm),
            read = socket.read(&mut buffer) => match read {
                Ok(0) => return Ok(()),
                Ok(length) => packets(buffer.get(..length).unwrap_or_default(), |what| vm.refusals.note(what)),
                // More came than fits: what is lost is lost.
                Err(error) if error.raw_os_error() == Some(OVERRUN) => {}
                Err(error) => return Err(error.into()),
            },
        }
    }
}

fn tell(vm: &Vm) {
    for refused in vm.refusals.take() {
        tracing::debug!(workspace = %vm.workspace_id, ?refused, "refused");
        vm.report(report::Report::EgressRefused(refused));
    }
}

/// `ENOBUFS`
const OVERRUN: i32 = 105;
// linux/netfilter/nfnetlink_log.h
const PACKET: u16 = 4 << 8;
const PAYLOAD: u16 = 9;

/// Finds the packets in a batch of netlink messages.
fn packets(mut batch: &[u8], mut found: impl FnMut(What)) {
    while let Some((message, rest)) = chunk(batch, u32_at(batch, 0)) {
        batch = rest;
        if u16_at(message, 4) != Some(PACKET) {
            continue;
        }
        // Behind the header and the family's own.
        let mut attributes = message.get(20..).unwrap_or_default();
        while let Some((attribute, rest)) = chunk(attributes, u16_at(attributes, 0).map(u32::from)) {
            attributes = rest;
            if u16_at(attribute, 2) == Some(PAYLOAD)
                && let Some(what) = attribute.get(4..).and_then(header)
            {
                found(what);
            }
        }
    }
}

/// The first `length` bytes, and what follows from the next multiple of 4 on.
fn chunk(bytes: &[u8], length: Option<u32>) -> Option<(&[u8], &[u8])> {
    let length = usize::try_from(length?).ok().filter(|length| *length >= 4)?;
    let chunk = bytes.get(..length)?;
    Some((chunk, bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// Where an IPv4 packet was to go.
fn header(packet: &[u8]) -> Option<What> {
    let first = *packet.first()?;
    if first >> 4 != 4 {
        return None;
    }
    let protocol = *packet.get(9)?;
    let address: [u8; 4] = packet.get(16..20)?.try_into().ok()?;
    let behind = usize::from(first & 0xf) * 4;
    let port = packet.get(behind + 2..behind + 4).and_then(|bytes| bytes.try_into().ok());
    let port = port.filter(|_| matches!(protocol, 6 | 17)).map_or(0, u16::from_be_bytes);
    Some(What::Packet { protocol, address: address.into(), port })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(packet: &[u8]) -> Vec<u8> {
        let mut body = vec![2, 0, 0, 1];
        for (kind, value) in [(1u16, [0; 4].as_slice()), (PAYLOAD, packet)] {
            body.extend(u16::try_from(4 + value.len()).unwrap().to_ne_bytes());
            body.extend(kind.to_ne_bytes());
            body.extend(value);
            body.resize(body.len().next_multiple_of(4), 0);
        }
        let mut message = u32::try_from(16 + body.len()).unwrap().to_ne_bytes().to_vec();
        message.extend(PACKET.to_ne_bytes());
        message.extend([0; 10]);
        message.extend(body);
        message
    }

    fn packet(protocol: u8, port: u16) -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0, 40, 0, 0, 0, 0, 64, protocol, 0, 0, 172, 16, 0, 2, 10, 0, 0, 1];
        packet.extend([0x12, 0x34]);
        packet.extend(port.to_be_bytes());
        packet
    }

    fn all(batch: &[u8]) -> Vec<What> {
        let mut found = Vec::new();
        packets(batch, |what| found.push(what));
        found
    }

    #[test]
    fn packets_are_read_and_nonsense_is_not() {
        let address = Ipv4Addr::new(10, 0, 0, 1);
        let batch =
            [message(&packet(6, 80)), message(&packet(1, 9)), message(b"\x60"), message(&[])].concat();
        assert_eq!(
            all(&batch),
            [What::Packet { protocol: 6, address, port: 80 }, What::Packet { protocol: 1, address, port: 0 }]
        );
        for end in 0..batch.len() {
            all(&batch[..end]);
        }
        for length in [0u32, 3, u32::MAX] {
            assert_eq!(all(&[length.to_ne_bytes().as_slice(), &[0; 40]].concat()), []);
        }
        // A header that says it is longer than the packet.
        assert_eq!(
            all(&message(&[&[0x4f], &packet(6, 80)[1..]].concat())),
            [What::Packet { protocol: 6, address, port: 0 }]
        );
    }

    #[test]
    fn the_same_is_counted_and_not_more_than_so_many() {
        let refusals = Refusals::default();
        for n in 0..1000 {
            refusals.note(What::Name("a.example".into()));
            refusals.note(What::Name(format!("{n}.example")));
        }
        let told = refusals.take();
        assert_eq!(told.len(), MOST);
        assert_eq!(
            told.iter().find(|refused| refused.name == "a.example").map(|refused| refused.count),
            Some(1000)
        );
        assert!(refusals.take().is_empty());
    }
}
