//! Reader of the packets that a VM's network refused (NFLOG). Counts their destinations and reports all refusals of the VM to the node.

use std::sync::Arc;
use std::time::Duration;

use rigbox_proto::guestio::RefusalReport;
use rigbox_proto::guestio::fd_request::Channel;
use rigbox_sys::async_file::AsyncFile;
use tokio::io::AsyncReadExt;
use tokio::time::MissedTickBehavior;

use crate::descriptors::DescriptorError;
use crate::refusal_counter::Destination;
use crate::vm::Vm;

const REPORT_INTERVAL: Duration = Duration::from_secs(5);
const REPORT_TIMEOUT: Duration = Duration::from_secs(5);
const RETRY_DELAY: Duration = Duration::from_secs(1);
/// Size of a batch of netlink messages.
const MAX_BATCH_BYTES: usize = 64 * 1024;
const ENOBUFS: i32 = 105;
// linux/netfilter/nfnetlink_log.h
const NFULNL_MSG_PACKET: u16 = 4 << 8;
const NFULA_PAYLOAD: u16 = 9;

/// Counts and reports refusals for as long as the VM is attached.
pub(crate) async fn run(vm: Arc<Vm>) {
    tokio::join!(count(&vm), report(&vm));
}

async fn count(vm: &Vm) {
    loop {
        if let Err(error) = session(vm).await {
            tracing::debug!(workspace = %vm.workspace_id, boot = %vm.boot_id, %error, "packet log failed; retrying");
        }
        tokio::time::sleep(RETRY_DELAY).await;
    }
}

async fn session(vm: &Vm) -> Result<(), DescriptorError> {
    let socket = vm.context.descriptors.get(&vm.boot_id, Channel::Nflog).await?;
    let mut socket = AsyncFile::new(socket.into())?;
    let mut buffer = vec![0; MAX_BATCH_BYTES];
    loop {
        match socket.read(&mut buffer).await {
            Ok(0) => return Ok(()),
            Ok(length) => {
                let batch = buffer.get(..length).unwrap_or_default();
                parse_batch(batch, |destination| vm.refusals.count(destination));
            }
            // The socket's buffer overflowed. The lost packets are not counted.
            Err(error) if error.raw_os_error() == Some(ENOBUFS) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Reports what was counted, one call at a time. What the node does not take is lost.
async fn report(vm: &Vm) {
    let mut tick = tokio::time::interval(REPORT_INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let refused = vm.refusals.take();
        if refused.is_empty() {
            continue;
        }
        let report = RefusalReport { boot_id: vm.boot_id.clone(), refused };
        let mut node = vm.context.node.clone();
        match tokio::time::timeout(REPORT_TIMEOUT, node.report_refusals(report)).await {
            Ok(Ok(_)) => {}
            Ok(Err(status)) => {
                tracing::debug!(workspace = %vm.workspace_id, %status, "node took no refusals")
            }
            Err(_) => tracing::debug!(workspace = %vm.workspace_id, "node took no refusals in time"),
        }
    }
}

/// Finds the packets in a batch of netlink messages.
fn parse_batch(mut batch: &[u8], mut found: impl FnMut(Destination)) {
    while let Some((message, rest)) = split_chunk(batch, u32_at(batch, 0)) {
        batch = rest;
        if u16_at(message, 4) != Some(NFULNL_MSG_PACKET) {
            continue;
        }
        // After the netlink header and the netfilter header.
        let mut attributes = message.get(20..).unwrap_or_default();
        while let Some((attribute, rest)) = split_chunk(attributes, u16_at(attributes, 0).map(u32::from)) {
            attributes = rest;
            if u16_at(attribute, 2) == Some(NFULA_PAYLOAD)
                && let Some(destination) = attribute.get(4..).and_then(parse_packet)
            {
                found(destination);
            }
        }
    }
}

/// Returns the first `length` bytes, and the rest from the next multiple of 4 on.
fn split_chunk(bytes: &[u8], length: Option<u32>) -> Option<(&[u8], &[u8])> {
    let length = usize::try_from(length?).ok().filter(|length| *length >= 4)?;
    let chunk = bytes.get(..length)?;
    Some((chunk, bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
}

fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(offset..offset + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(offset..offset + 4)?.try_into().ok()?))
}

/// Parses the destination of an IPv4 packet.
fn parse_packet(packet: &[u8]) -> Option<Destination> {
    let first = *packet.first()?;
    if first >> 4 != 4 {
        return None;
    }
    let protocol = *packet.get(9)?;
    let address: [u8; 4] = packet.get(16..20)?.try_into().ok()?;
    let header_len = usize::from(first & 0xf) * 4;
    let port = packet.get(header_len + 2..header_len + 4).and_then(|bytes| bytes.try_into().ok());
    let port = port.filter(|_| matches!(protocol, 6 | 17)).map_or(0, u16::from_be_bytes);
    Some(Destination::Address { protocol, address: address.into(), port })
}

#[cfg(test)]
mod fuzz;

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn message(packet: &[u8]) -> Vec<u8> {
        let mut body = vec![2, 0, 0, 1];
        for (kind, value) in [(1u16, [0; 4].as_slice()), (NFULA_PAYLOAD, packet)] {
            body.extend(u16::try_from(4 + value.len()).unwrap().to_ne_bytes());
            body.extend(kind.to_ne_bytes());
            body.extend(value);
            body.resize(body.len().next_multiple_of(4), 0);
        }
        let mut message = u32::try_from(16 + body.len()).unwrap().to_ne_bytes().to_vec();
        message.extend(NFULNL_MSG_PACKET.to_ne_bytes());
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

    fn all(batch: &[u8]) -> Vec<Destination> {
        let mut found = Vec::new();
        parse_batch(batch, |destination| found.push(destination));
        found
    }

    #[test]
    fn packets_are_parsed_and_garbage_is_ignored() {
        let address = Ipv4Addr::new(10, 0, 0, 1);
        let batch =
            [message(&packet(6, 80)), message(&packet(1, 9)), message(b"\x60"), message(&[])].concat();
        assert_eq!(
            all(&batch),
            [
                Destination::Address { protocol: 6, address, port: 80 },
                Destination::Address { protocol: 1, address, port: 0 }
            ]
        );
        for end in 0..batch.len() {
            all(&batch[..end]);
        }
        for length in [0u32, 3, u32::MAX] {
            assert_eq!(all(&[length.to_ne_bytes().as_slice(), &[0; 40]].concat()), []);
        }
        // The header claims to be longer than the packet.
        assert_eq!(
            all(&message(&[&[0x4f], &packet(6, 80)[1..]].concat())),
            [Destination::Address { protocol: 6, address, port: 0 }]
        );
    }
}
