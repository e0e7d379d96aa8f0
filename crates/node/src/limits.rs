//! Limits of a VM as set by control, validated. They only lower the node's own, so a number that is too large does no harm.

use std::num::NonZeroU32;

use rigbox_core::vm_limits::VmLimits;
use rigbox_proto::node::{DiskLimits, NetworkLimits};

use crate::error::Error;

/// Returns the limits of a VM's network.
pub(crate) fn of_network(limits: Option<NetworkLimits>) -> Result<VmLimits, Error> {
    let limits = limits.unwrap_or_default();
    Ok(VmLimits {
        connections: number("connections", limits.connections)?,
        new_connections_per_s: number("new_connections_per_s", limits.new_connections_per_s)?,
        bandwidth_mb_per_s: number("bandwidth_mb_per_s", limits.bandwidth_mb_per_s)?,
        bridge_connections: number("bridge_connections", limits.bridge_connections)?,
        dns_queries: number("dns_queries", limits.dns_queries)?,
        dns_queries_per_s: number("dns_queries_per_s", limits.dns_queries_per_s)?,
        ..VmLimits::default()
    })
}

/// Returns the limits of a VM's disk.
pub(crate) fn of_disk(limits: Option<DiskLimits>) -> Result<VmLimits, Error> {
    let limits = limits.unwrap_or_default();
    Ok(VmLimits {
        disk_mb_per_s: number("mb_per_s", limits.mb_per_s)?,
        disk_iops: number("iops", limits.iops)?,
        ..VmLimits::default()
    })
}

fn number<T: TryFrom<NonZeroU32>>(name: &str, number: Option<u32>) -> Result<Option<T>, Error> {
    let Some(number) = number else { return Ok(None) };
    let valid = NonZeroU32::new(number).and_then(|number| number.try_into().ok());
    let invalid = || Error::Refused("bad_request", format!("the limit {name} is out of range: {number}"));
    valid.ok_or_else(invalid).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limit_of_zero_or_beyond_its_range_is_refused() {
        assert_eq!(of_network(None).unwrap(), VmLimits::default());
        let set =
            NetworkLimits { connections: Some(u32::MAX), dns_queries: Some(65_535), ..Default::default() };
        let limits = of_network(Some(set)).unwrap();
        assert_eq!(limits.connections, Some(NonZeroU32::MAX));
        for bad in [
            NetworkLimits { connections: Some(0), ..Default::default() },
            NetworkLimits { new_connections_per_s: Some(0), ..Default::default() },
            NetworkLimits { bandwidth_mb_per_s: Some(10_001), ..Default::default() },
            NetworkLimits { bridge_connections: Some(65_536), ..Default::default() },
            NetworkLimits { dns_queries: Some(0), ..Default::default() },
            NetworkLimits { dns_queries_per_s: Some(0), ..Default::default() },
        ] {
            let error = of_network(Some(bad)).unwrap_err();
            assert!(matches!(error, Error::Refused("bad_request", _)), "{bad:?}: {error}");
        }
        assert_eq!(of_disk(None).unwrap(), VmLimits::default());
        for bad in [(Some(0), None), (Some(10_001), None), (None, Some(0))] {
            let (mb_per_s, iops) = bad;
            assert!(of_disk(Some(DiskLimits { mb_per_s, iops })).is_err(), "{bad:?}");
        }
    }
}
