//! Limits of one VM's network and disk, which protect its neighbors. A node has a number for each; a plan or a user may lower it.

use std::fmt;
use std::num::{NonZeroU16, NonZeroU32};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Data rate in MB/s that the kernel and QEMU can count: their arithmetic overflows beyond some 14 GB/s.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct MbPerS(NonZeroU32);

/// Error for a data rate that is zero or too large.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a data rate is out of range; expected 1 to {max} MB/s", max = MbPerS::MAX)]
pub struct InvalidRate;

impl MbPerS {
    /// Largest rate.
    pub const MAX: u32 = 10_000;

    /// Returns the rate, if it is in range.
    pub const fn new(number: u32) -> Option<Self> {
        match NonZeroU32::new(number) {
            Some(rate) if number <= Self::MAX => Some(Self(rate)),
            _ => None,
        }
    }

    /// Returns the number.
    pub const fn get(self) -> u32 {
        self.0.get()
    }
}

impl TryFrom<u32> for MbPerS {
    type Error = InvalidRate;

    fn try_from(number: u32) -> Result<Self, InvalidRate> {
        Self::new(number).ok_or(InvalidRate)
    }
}

impl TryFrom<NonZeroU32> for MbPerS {
    type Error = InvalidRate;

    fn try_from(number: NonZeroU32) -> Result<Self, InvalidRate> {
        number.get().try_into()
    }
}

impl From<MbPerS> for u32 {
    fn from(rate: MbPerS) -> Self {
        rate.get()
    }
}

impl FromStr for MbPerS {
    type Err = InvalidRate;

    fn from_str(text: &str) -> Result<Self, InvalidRate> {
        text.parse().ok().and_then(Self::new).ok_or(InvalidRate)
    }
}

impl fmt::Display for MbPerS {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// Limits of one VM's network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NetworkLimits {
    /// Outward connections at once.
    pub connections: NonZeroU32,
    /// New connections per second, after a burst of twice as many.
    pub new_connections_per_s: NonZeroU32,
    /// Bandwidth in each direction.
    pub bandwidth_mb_per_s: MbPerS,
    /// Connections to the bridge at once.
    pub bridge_connections: NonZeroU16,
    /// DNS queries in flight.
    pub dns_queries: NonZeroU16,
    /// DNS queries per second that the VM's cache does not answer, after a burst of ten times as many.
    pub dns_queries_per_s: NonZeroU32,
}

impl NetworkLimits {
    /// Limits of a node that is not configured otherwise.
    pub const DEFAULT: Self = Self {
        connections: NonZeroU32::new(4_096).unwrap(),
        new_connections_per_s: NonZeroU32::new(200).unwrap(),
        bandwidth_mb_per_s: MbPerS::new(125).unwrap(),
        bridge_connections: NonZeroU16::new(128).unwrap(),
        dns_queries: NonZeroU16::new(64).unwrap(),
        dns_queries_per_s: NonZeroU32::new(50).unwrap(),
    };

    /// Returns the lower number of each limit.
    #[must_use]
    pub fn lowered(self, limits: &VmLimits) -> Self {
        Self {
            connections: lower(self.connections, limits.connections),
            new_connections_per_s: lower(self.new_connections_per_s, limits.new_connections_per_s),
            bandwidth_mb_per_s: lower(self.bandwidth_mb_per_s, limits.bandwidth_mb_per_s),
            bridge_connections: lower(self.bridge_connections, limits.bridge_connections),
            dns_queries: lower(self.dns_queries, limits.dns_queries),
            dns_queries_per_s: lower(self.dns_queries_per_s, limits.dns_queries_per_s),
        }
    }
}

impl Default for NetworkLimits {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// Limits of one VM's disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskLimits {
    /// Traffic, reads and writes together, MB (10^6 bytes) per second.
    pub mb_per_s: MbPerS,
    /// Operations per second.
    pub iops: NonZeroU32,
}

impl DiskLimits {
    /// Limits of a node that is not configured otherwise.
    pub const DEFAULT: Self =
        Self { mb_per_s: MbPerS::new(500).unwrap(), iops: NonZeroU32::new(20_000).unwrap() };

    /// Returns the lower number of each limit.
    #[must_use]
    pub fn lowered(self, limits: &VmLimits) -> Self {
        Self {
            mb_per_s: lower(self.mb_per_s, limits.disk_mb_per_s),
            iops: lower(self.iops, limits.disk_iops),
        }
    }
}

impl Default for DiskLimits {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// Limits of a plan's or a user's VMs. `None` inherits from the level below, in the end from the node, whose number is also the ceiling.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct VmLimits {
    /// Outward connections at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connections: Option<NonZeroU32>,
    /// New connections per second, after a burst of twice as many.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub new_connections_per_s: Option<NonZeroU32>,
    /// Bandwidth in each direction.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bandwidth_mb_per_s: Option<MbPerS>,
    /// Connections to the bridge at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bridge_connections: Option<NonZeroU16>,
    /// DNS queries in flight.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dns_queries: Option<NonZeroU16>,
    /// DNS queries per second that the VM's cache does not answer, after a burst of ten times as many.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dns_queries_per_s: Option<NonZeroU32>,
    /// Disk traffic, reads and writes together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_mb_per_s: Option<MbPerS>,
    /// Disk operations per second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_iops: Option<NonZeroU32>,
}

impl VmLimits {
    /// Returns these limits, with `below` for those that are not set.
    #[must_use]
    pub fn over(self, below: Self) -> Self {
        Self {
            connections: self.connections.or(below.connections),
            new_connections_per_s: self.new_connections_per_s.or(below.new_connections_per_s),
            bandwidth_mb_per_s: self.bandwidth_mb_per_s.or(below.bandwidth_mb_per_s),
            bridge_connections: self.bridge_connections.or(below.bridge_connections),
            dns_queries: self.dns_queries.or(below.dns_queries),
            dns_queries_per_s: self.dns_queries_per_s.or(below.dns_queries_per_s),
            disk_mb_per_s: self.disk_mb_per_s.or(below.disk_mb_per_s),
            disk_iops: self.disk_iops.or(below.disk_iops),
        }
    }

    /// Returns whether nothing is set.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

fn lower<T: Ord>(ceiling: T, limit: Option<T>) -> T {
    match limit {
        Some(limit) => limit.min(ceiling),
        None => ceiling,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every_limit(number: u16) -> VmLimits {
        let (narrow, wide) = (NonZeroU16::new(number), NonZeroU32::new(number.into()));
        VmLimits {
            connections: wide,
            new_connections_per_s: wide,
            bandwidth_mb_per_s: MbPerS::new(number.into()),
            bridge_connections: narrow,
            dns_queries: narrow,
            dns_queries_per_s: wide,
            disk_mb_per_s: MbPerS::new(number.into()),
            disk_iops: wide,
        }
    }

    #[test]
    fn lower_of_plan_and_node_counts() {
        let (network, disk) = (NetworkLimits::DEFAULT, DiskLimits::DEFAULT);
        assert_eq!(
            (network.lowered(&VmLimits::default()), disk.lowered(&VmLimits::default())),
            (network, disk)
        );
        let NetworkLimits { connections, new_connections_per_s, bandwidth_mb_per_s, .. } =
            network.lowered(&every_limit(7));
        assert_eq!((connections.get(), new_connections_per_s.get(), bandwidth_mb_per_s.get()), (7, 7, 7));
        let NetworkLimits { bridge_connections, dns_queries, dns_queries_per_s, .. } =
            network.lowered(&every_limit(7));
        assert_eq!((bridge_connections.get(), dns_queries.get(), dns_queries_per_s.get()), (7, 7, 7));
        let lowered = disk.lowered(&every_limit(7));
        assert_eq!((lowered.mb_per_s.get(), lowered.iops.get()), (7, 7));
        // The node's number is the ceiling.
        assert_eq!(network.lowered(&every_limit(9_999)), network);
        let lowered = disk.lowered(&VmLimits { disk_iops: NonZeroU32::new(u32::MAX), ..every_limit(501) });
        assert_eq!(lowered, disk);
    }

    #[test]
    fn limit_that_is_set_counts_before_that_of_the_level_below() {
        let user = VmLimits { connections: NonZeroU32::new(1), ..VmLimits::default() };
        let both = user.over(every_limit(2));
        assert_eq!(both, VmLimits { connections: NonZeroU32::new(1), ..every_limit(2) });
        assert_eq!(every_limit(3).over(every_limit(2)), every_limit(3));
        assert_eq!(VmLimits::default().over(every_limit(2)), every_limit(2));
    }

    #[test]
    fn rate_beyond_what_can_be_counted_is_refused() {
        let rate = serde_json::from_str::<MbPerS>;
        assert_eq!((rate("1").unwrap().get(), rate("10000").unwrap().get()), (1, 10_000));
        for bad in ["0", "10001", "4294967296", "-1"] {
            assert!(rate(bad).is_err() && bad.parse::<MbPerS>().is_err(), "{bad}");
        }
        assert_eq!("125".parse(), MbPerS::try_from(125));
    }
}
