//! Counter of the outbound requests of a VM that were refused: packets and names. Repetitions are counted for some seconds, so that a VM
//! that tries a thousand times yields one report and cannot fill anything.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use rigbox_proto::guestio::EgressRefused;

use crate::sanitize::sanitize;

/// Different destinations between two reports. Any further ones are dropped.
const MAX_DESTINATIONS: usize = 64;
const MAX_NAME_CHARS: usize = 255;

/// Destination of a refused request.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Destination {
    Address { protocol: u8, address: Ipv4Addr, port: u16 },
    Name(String),
}

/// Refusals of one VM that have not been reported yet: their count, and the time of the first in Unix ms.
#[derive(Default)]
pub(crate) struct RefusalCounter {
    counts: Mutex<HashMap<Destination, (u32, i64)>>,
}

impl RefusalCounter {
    pub(crate) fn count(&self, destination: Destination) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let is_full = counts.len() >= MAX_DESTINATIONS;
        if let Some((count, _)) = counts.get_mut(&destination) {
            *count = count.saturating_add(1);
        } else if !is_full {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            counts.insert(destination, (1, i64::try_from(now.as_millis()).unwrap_or(0)));
        }
    }

    /// Returns the reports since the last call.
    pub(crate) fn take(&self) -> Vec<EgressRefused> {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.drain().map(|(destination, (count, unix_ms))| report(destination, count, unix_ms)).collect()
    }
}

fn report(destination: Destination, count: u32, unix_ms: i64) -> EgressRefused {
    let base = EgressRefused { count, unix_ms, ..Default::default() };
    match destination {
        Destination::Name(name) => EgressRefused {
            protocol: "dns".to_owned(),
            name: sanitize(&name).chars().take(MAX_NAME_CHARS).collect(),
            ..base
        },
        Destination::Address { protocol, address, port } => EgressRefused {
            protocol: match protocol {
                1 => "icmp".to_owned(),
                6 => "tcp".to_owned(),
                17 => "udp".to_owned(),
                other => other.to_string(),
            },
            address: address.to_string(),
            port: port.into(),
            ..base
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repetitions_are_counted_and_destinations_are_bounded() {
        let refusals = RefusalCounter::default();
        for n in 0..1000 {
            refusals.count(Destination::Name("a.example".into()));
            refusals.count(Destination::Name(format!("{n}.example")));
        }
        let reports = refusals.take();
        assert_eq!(reports.len(), MAX_DESTINATIONS);
        assert_eq!(
            reports.iter().find(|refused| refused.name == "a.example").map(|refused| refused.count),
            Some(1000)
        );
        assert!(refusals.take().is_empty());
    }
}
