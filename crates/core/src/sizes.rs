//! How large a workspace is: what was asked for, the template's floor, the plan's ceiling.

use crate::templates::Template;

/// Memory, processors and disk of a workspace. None of them is zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    ram_mb: u32,
    vcpu_count: u32,
    disk_size_mb: u32,
}

/// What a request may leave open.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AskedSizes {
    /// MiB of memory.
    pub ram_mb: Option<u32>,
    /// Processors.
    pub vcpu_count: Option<u32>,
    /// MiB of disk.
    pub disk_size_mb: Option<u32>,
}

/// The largest workspace that a plan, or the machine, allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ceiling {
    /// MiB of memory.
    pub ram_mb: u32,
    /// Processors.
    pub vcpu_count: u32,
    /// MiB of disk.
    pub disk_size_mb: u32,
}

/// Why a size is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadSize {
    /// Zero of something.
    #[error("{field} is 0: expected at least 1, or leave it out for the template's size")]
    Zero {
        /// Name of the field.
        field: &'static str,
    },
    /// More than the ceiling.
    #[error("{field} {asked} is above the limit of {limit} ({limit_name})")]
    AboveLimit {
        /// Name of the field.
        field: &'static str,
        /// Name of the limit, as `/users/me/limits` has it.
        limit_name: &'static str,
        /// What was asked for.
        asked: u32,
        /// What would do.
        limit: u32,
    },
}

impl Sizes {
    /// Sizes as stored; zero of anything is refused.
    pub fn new(ram_mb: u32, vcpu_count: u32, disk_size_mb: u32) -> Result<Self, BadSize> {
        for (field, value) in [("ram_mb", ram_mb), ("vcpu_count", vcpu_count), ("disk_size_mb", disk_size_mb)]
        {
            if value == 0 {
                return Err(BadSize::Zero { field });
            }
        }
        Ok(Self { ram_mb, vcpu_count, disk_size_mb })
    }

    /// What a new workspace gets: the sizes asked for, raised to the template's floor, refused above the ceiling.
    pub fn resolve(asked: AskedSizes, template: &Template, ceiling: Ceiling) -> Result<Self, BadSize> {
        let one = |field, limit_name, asked: Option<u32>, floor: u32, limit: u32| {
            let wanted = asked.unwrap_or(floor);
            match wanted {
                0 => Err(BadSize::Zero { field }),
                _ if wanted.max(floor) > limit => {
                    Err(BadSize::AboveLimit { field, limit_name, asked: wanted.max(floor), limit })
                }
                _ => Ok(wanted.max(floor)),
            }
        };
        Self::new(
            one("ram_mb", "max_ram_per_vm_mb", asked.ram_mb, template.ram_mb, ceiling.ram_mb)?,
            one("vcpu_count", "max_vcpu_per_vm", asked.vcpu_count, template.vcpu_count, ceiling.vcpu_count)?,
            one(
                "disk_size_mb",
                "max_disk_total_mb",
                asked.disk_size_mb,
                template.disk_size_mb,
                ceiling.disk_size_mb,
            )?,
        )
    }

    /// MiB of memory.
    pub fn ram_mb(self) -> u32 {
        self.ram_mb
    }

    /// Processors.
    pub fn vcpu_count(self) -> u32 {
        self.vcpu_count
    }

    /// MiB of disk.
    pub fn disk_size_mb(self) -> u32 {
        self.disk_size_mb
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::templates;

    const MACHINE: Ceiling = Ceiling { ram_mb: 8192, vcpu_count: 4, disk_size_mb: 100_000 };

    fn base(asked: AskedSizes) -> Result<Sizes, BadSize> {
        Sizes::resolve(asked, templates::find("base").unwrap(), MACHINE)
    }

    #[test]
    fn a_size_left_out_is_the_templates_and_one_below_it_is_raised() {
        assert_eq!(base(AskedSizes::default()), Sizes::new(512, 1, 4096));
        assert_eq!(base(AskedSizes { ram_mb: Some(1), ..Default::default() }), Sizes::new(512, 1, 4096));
        assert_eq!(base(AskedSizes { ram_mb: Some(600), ..Default::default() }), Sizes::new(600, 1, 4096));
    }

    #[test]
    fn zero_and_too_much_are_refused_by_name() {
        let zero = base(AskedSizes { vcpu_count: Some(0), ..Default::default() }).unwrap_err();
        assert!(zero.to_string().contains("vcpu_count is 0"));
        let much = base(AskedSizes { disk_size_mb: Some(u32::MAX), ..Default::default() }).unwrap_err();
        assert!(much.to_string().contains("max_disk_total_mb"), "{much}");
    }
}
