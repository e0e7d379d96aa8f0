//! Size of a workspace: the request, the template's minimum and the plan's limit.

use crate::templates::Template;

/// Memory, virtual CPUs and disk of a workspace. None of them is zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resources {
    ram_mb: u32,
    vcpu_count: u32,
    disk_size_mb: u32,
}

/// Requested size; `None` means the template's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ResourceRequest {
    /// Memory in MiB.
    pub ram_mb: Option<u32>,
    /// Virtual CPUs.
    pub vcpu_count: Option<u32>,
    /// Disk size in MiB.
    pub disk_size_mb: Option<u32>,
}

/// Largest workspace that a plan and the machine allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResourceLimits {
    /// Memory in MiB.
    pub ram_mb: u32,
    /// Virtual CPUs.
    pub vcpu_count: u32,
    /// Disk size in MiB.
    pub disk_size_mb: u32,
}

/// Error for an invalid size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResourceError {
    /// A size of zero.
    #[error("{field} is 0. Use at least 1, or omit it for the template's size.")]
    Zero {
        /// Name of the field.
        field: &'static str,
    },
    /// Larger than the limit.
    #[error("{field} {requested} exceeds the limit of {limit} ({limit_name}).")]
    AboveLimit {
        /// Name of the field.
        field: &'static str,
        /// Name of the limit, as in `/users/me/limits`.
        limit_name: &'static str,
        /// Requested value.
        requested: u32,
        /// Largest allowed value.
        limit: u32,
    },
}

impl Resources {
    /// Creates a size. Zero is refused.
    pub fn new(ram_mb: u32, vcpu_count: u32, disk_size_mb: u32) -> Result<Self, ResourceError> {
        for (field, value) in [("ram_mb", ram_mb), ("vcpu_count", vcpu_count), ("disk_size_mb", disk_size_mb)]
        {
            if value == 0 {
                return Err(ResourceError::Zero { field });
            }
        }
        Ok(Self { ram_mb, vcpu_count, disk_size_mb })
    }

    /// Returns the size of a new workspace: the request, raised to the template's minimum, refused above the
    /// limit.
    pub fn resolve(
        requested: ResourceRequest,
        template: &Template,
        ceiling: ResourceLimits,
    ) -> Result<Self, ResourceError> {
        let one = |field, limit_name, requested: Option<u32>, floor: u32, limit: u32| {
            let wanted = requested.unwrap_or(floor);
            match wanted {
                0 => Err(ResourceError::Zero { field }),
                _ if wanted.max(floor) > limit => {
                    Err(ResourceError::AboveLimit { field, limit_name, requested: wanted.max(floor), limit })
                }
                _ => Ok(wanted.max(floor)),
            }
        };
        Self::new(
            one("ram_mb", "max_ram_per_vm_mb", requested.ram_mb, template.ram_mb, ceiling.ram_mb)?,
            one(
                "vcpu_count",
                "max_vcpu_per_vm",
                requested.vcpu_count,
                template.vcpu_count,
                ceiling.vcpu_count,
            )?,
            one(
                "disk_size_mb",
                "max_disk_total_mb",
                requested.disk_size_mb,
                template.disk_size_mb,
                ceiling.disk_size_mb,
            )?,
        )
    }

    /// Returns the memory in MiB.
    pub fn ram_mb(self) -> u32 {
        self.ram_mb
    }

    /// Returns the number of virtual CPUs.
    pub fn vcpu_count(self) -> u32 {
        self.vcpu_count
    }

    /// Returns the disk size in MiB.
    pub fn disk_size_mb(self) -> u32 {
        self.disk_size_mb
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::templates;

    const MACHINE: ResourceLimits = ResourceLimits { ram_mb: 8192, vcpu_count: 4, disk_size_mb: 100_000 };

    fn base(requested: ResourceRequest) -> Result<Resources, ResourceError> {
        Resources::resolve(requested, templates::find("base").unwrap(), MACHINE)
    }

    #[test]
    fn omitted_and_small_sizes_become_the_templates() {
        assert_eq!(base(ResourceRequest::default()), Resources::new(512, 1, 4096));
        assert_eq!(
            base(ResourceRequest { ram_mb: Some(1), ..Default::default() }),
            Resources::new(512, 1, 4096)
        );
        assert_eq!(
            base(ResourceRequest { ram_mb: Some(600), ..Default::default() }),
            Resources::new(600, 1, 4096)
        );
    }

    #[test]
    fn zero_and_oversized_requests_name_their_field() {
        let zero = base(ResourceRequest { vcpu_count: Some(0), ..Default::default() }).unwrap_err();
        assert!(zero.to_string().contains("vcpu_count is 0"));
        let much = base(ResourceRequest { disk_size_mb: Some(u32::MAX), ..Default::default() }).unwrap_err();
        assert!(much.to_string().contains("max_disk_total_mb"), "{much}");
    }
}
