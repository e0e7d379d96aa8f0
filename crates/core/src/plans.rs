//! Plans: what a user may have at once, and how often a user may ask. A plan's numbers may be set otherwise for the installation, and
//! those again for one user.

use std::num::NonZeroU32;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A user's plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plan {
    /// The installation's administrator: no ceiling but the machine's capacity.
    Owner,
    /// To try it out.
    Free,
    /// To work with it.
    Pro,
}

/// A text that is no plan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a plan: expected owner, free or pro")]
pub struct BadPlan(String);

/// Numbers that are set otherwise, for a plan or for a user; what is none is as it would be without them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Overrides {
    /// Workspaces.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_vms: Option<u32>,
    /// MiB of memory of one workspace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_ram_per_vm_mb: Option<u32>,
    /// Processors of one workspace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_vcpu_per_vm: Option<u32>,
    /// MiB of disk of one workspace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_disk_per_vm_mb: Option<u32>,
    /// Apps of one workspace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_apps_per_vm: Option<u32>,
    /// Requests a minute for keys and the account.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authentication_per_min: Option<NonZeroU32>,
    /// Requests a minute for workspaces and what is in them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workspaces_per_min: Option<NonZeroU32>,
    /// Requests a minute for apps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub apps_per_min: Option<NonZeroU32>,
}

impl Overrides {
    /// These, and where they say nothing, `below`.
    #[must_use]
    pub fn over(self, below: Self) -> Self {
        Self {
            max_vms: self.max_vms.or(below.max_vms),
            max_ram_per_vm_mb: self.max_ram_per_vm_mb.or(below.max_ram_per_vm_mb),
            max_vcpu_per_vm: self.max_vcpu_per_vm.or(below.max_vcpu_per_vm),
            max_disk_per_vm_mb: self.max_disk_per_vm_mb.or(below.max_disk_per_vm_mb),
            max_apps_per_vm: self.max_apps_per_vm.or(below.max_apps_per_vm),
            authentication_per_min: self.authentication_per_min.or(below.authentication_per_min),
            workspaces_per_min: self.workspaces_per_min.or(below.workspaces_per_min),
            apps_per_min: self.apps_per_min.or(below.apps_per_min),
        }
    }
}

/// The plans of an installation: what is set otherwise there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Plans {
    /// For the administrator.
    pub owner: Overrides,
    /// For [`Plan::Free`].
    pub free: Overrides,
    /// For [`Plan::Pro`].
    pub pro: Overrides,
    /// For each address from which no valid credential comes; only rates count.
    pub strangers: Overrides,
}

impl Plans {
    /// How often one address may ask without a valid credential.
    pub fn rates_of_strangers(&self) -> Rates {
        Terms(self.strangers.over(Plan::Free.defaults())).rates()
    }

    /// What a user of `plan` may, with what is set for that user alone.
    pub fn terms(&self, plan: Plan, user: Overrides) -> Terms {
        let of_plan = match plan {
            Plan::Owner => self.owner,
            Plan::Free => self.free,
            Plan::Pro => self.pro,
        };
        Terms(user.over(of_plan).over(plan.defaults()))
    }
}

/// What one user may: ceilings and rates. What is none is bounded by nothing but the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms(Overrides);

/// Requests a minute; none is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rates {
    /// Keys and the account.
    pub authentication: Option<NonZeroU32>,
    /// Workspaces and what is in them.
    pub workspaces: Option<NonZeroU32>,
    /// Apps.
    pub apps: Option<NonZeroU32>,
}

impl Rates {
    /// Those of every plan but the administrator's, and of strangers.
    pub const DEFAULT: Self = Self {
        authentication: NonZeroU32::new(120),
        workspaces: NonZeroU32::new(180),
        apps: NonZeroU32::new(240),
    };
}

impl Terms {
    /// How often the user may ask.
    pub fn rates(&self) -> Rates {
        Rates {
            authentication: self.0.authentication_per_min,
            workspaces: self.0.workspaces_per_min,
            apps: self.0.apps_per_min,
        }
    }

    /// How many apps one workspace of the user may have.
    pub fn max_apps_per_vm(&self) -> u32 {
        self.0.max_apps_per_vm.unwrap_or(UNLIMITED).min(UNLIMITED)
    }

    /// What the user may have on this machine.
    pub fn limits(&self, machine: Machine) -> Limits {
        let Overrides { max_vms, max_ram_per_vm_mb, max_vcpu_per_vm, max_disk_per_vm_mb, .. } = self.0;
        let one = |limit: Option<u32>, machine: u32| limit.unwrap_or(machine).min(machine);
        // As many as there may be of the largest that there may be.
        let all = |limit: Option<u32>, otherwise: u32| match (max_vms, limit) {
            (Some(vms), Some(limit)) => vms.saturating_mul(limit).min(UNLIMITED),
            _ => otherwise,
        };
        Limits {
            max_vms: max_vms.unwrap_or(UNLIMITED).min(UNLIMITED),
            max_ram_per_vm_mb: one(max_ram_per_vm_mb, machine.ram_mb),
            max_ram_total_mb: all(max_ram_per_vm_mb, UNLIMITED),
            max_disk_per_vm_mb: one(max_disk_per_vm_mb, machine.disk_total_mb),
            max_disk_total_mb: all(max_disk_per_vm_mb, machine.disk_total_mb),
            max_vcpu_per_vm: one(max_vcpu_per_vm, machine.vcpus),
            max_running_vcpus: all(max_vcpu_per_vm, UNLIMITED),
        }
    }
}

/// Ceilings for one user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Workspaces.
    pub max_vms: u32,
    /// MiB of memory of one workspace.
    pub max_ram_per_vm_mb: u32,
    /// MiB of memory of all workspaces.
    pub max_ram_total_mb: u32,
    /// MiB of disk of one workspace.
    pub max_disk_per_vm_mb: u32,
    /// MiB of disk of all workspaces.
    pub max_disk_total_mb: u32,
    /// Processors of one workspace.
    pub max_vcpu_per_vm: u32,
    /// Processors of all running workspaces.
    pub max_running_vcpus: u32,
}

/// What the machine has: nobody's ceiling lies above it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Machine {
    /// Processors.
    pub vcpus: u32,
    /// MiB of memory.
    pub ram_mb: u32,
    /// MiB of disk.
    pub disk_total_mb: u32,
}

/// The largest number that the API's 32-bit fields hold on every client.
const UNLIMITED: u32 = i32::MAX as u32;

impl Plan {
    /// The plan's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Owner => "owner",
            Self::Free => "free",
            Self::Pro => "pro",
        }
    }

    /// What the plan is where nothing is set otherwise.
    fn defaults(self) -> Overrides {
        let ceilings = |vms, ram, vcpu, disk, apps| Overrides {
            max_vms: Some(vms),
            max_ram_per_vm_mb: Some(ram),
            max_vcpu_per_vm: Some(vcpu),
            max_disk_per_vm_mb: Some(disk),
            max_apps_per_vm: Some(apps),
            authentication_per_min: Rates::DEFAULT.authentication,
            workspaces_per_min: Rates::DEFAULT.workspaces,
            apps_per_min: Rates::DEFAULT.apps,
        };
        match self {
            Self::Owner => {
                Overrides { authentication_per_min: Rates::DEFAULT.authentication, ..Overrides::default() }
            }
            Self::Free => ceilings(2, 1_024, 1, 4_096, 5),
            Self::Pro => ceilings(10, 4_096, 4, 10_240, 20),
        }
    }
}

impl FromStr for Plan {
    type Err = BadPlan;

    fn from_str(text: &str) -> Result<Self, BadPlan> {
        [Self::Owner, Self::Free, Self::Pro]
            .into_iter()
            .find(|plan| plan.as_str() == text)
            .ok_or_else(|| BadPlan(text.chars().take(64).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MACHINE: Machine = Machine { vcpus: 8, ram_mb: 16_000, disk_total_mb: 200_000 };
    const NOTHING: Overrides = Overrides {
        max_vms: None,
        max_ram_per_vm_mb: None,
        max_vcpu_per_vm: None,
        max_disk_per_vm_mb: None,
        max_apps_per_vm: None,
        authentication_per_min: None,
        workspaces_per_min: None,
        apps_per_min: None,
    };

    #[test]
    fn a_plan_is_what_it_says_where_nothing_is_set() {
        let limits = |plan| Plans::default().terms(plan, NOTHING).limits(MACHINE);
        let free = Limits {
            max_vms: 2,
            max_ram_per_vm_mb: 1_024,
            max_ram_total_mb: 2_048,
            max_disk_per_vm_mb: 4_096,
            max_disk_total_mb: 8_192,
            max_vcpu_per_vm: 1,
            max_running_vcpus: 2,
        };
        assert_eq!(limits(Plan::Free), free);
        let owner = limits(Plan::Owner);
        assert_eq!((owner.max_vms, owner.max_ram_per_vm_mb), (UNLIMITED, 16_000));
        assert_eq!((owner.max_disk_total_mb, owner.max_running_vcpus), (200_000, UNLIMITED));
        let apps = |plan| Plans::default().terms(plan, NOTHING).max_apps_per_vm();
        assert_eq!([Plan::Free, Plan::Pro, Plan::Owner].map(apps), [5, 20, UNLIMITED]);
        let rates = |plan| Plans::default().terms(plan, NOTHING).rates();
        assert_eq!((rates(Plan::Free), rates(Plan::Pro)), (Rates::DEFAULT, Rates::DEFAULT));
        assert_eq!(rates(Plan::Owner), Rates { workspaces: None, apps: None, ..Rates::DEFAULT });
    }

    #[test]
    fn the_users_number_is_before_the_installations_and_that_before_the_plans() {
        let plans = Plans {
            free: Overrides { max_vms: Some(3), max_vcpu_per_vm: Some(2), ..NOTHING },
            ..Plans::default()
        };
        let user = Overrides { max_vms: Some(7), workspaces_per_min: NonZeroU32::new(1_000), ..NOTHING };
        let terms = plans.terms(Plan::Free, user);
        let limits = terms.limits(MACHINE);
        assert_eq!((limits.max_vms, limits.max_vcpu_per_vm, limits.max_ram_per_vm_mb), (7, 2, 1_024));
        assert_eq!((limits.max_ram_total_mb, limits.max_running_vcpus), (7 * 1_024, 14));
        assert_eq!(terms.rates().workspaces, NonZeroU32::new(1_000));
        assert_eq!(terms.rates().authentication, NonZeroU32::new(120));
        // Other plans are as they were.
        assert_eq!(plans.terms(Plan::Pro, NOTHING).limits(MACHINE).max_vms, 10);
        let owner = Plans { owner: user, ..Plans::default() }.terms(Plan::Owner, NOTHING);
        assert_eq!((owner.limits(MACHINE).max_vms, owner.rates().workspaces), (7, NonZeroU32::new(1_000)));
    }

    #[test]
    fn nobodys_workspace_is_larger_than_the_machine() {
        let user = Overrides { max_ram_per_vm_mb: Some(u32::MAX), max_vms: Some(u32::MAX), ..NOTHING };
        let limits = Plans::default().terms(Plan::Free, user).limits(MACHINE);
        assert_eq!((limits.max_ram_per_vm_mb, limits.max_ram_total_mb), (16_000, UNLIMITED));
        assert_eq!(limits.max_vms, UNLIMITED);
    }

    #[test]
    fn what_is_set_is_read_as_it_was_written_and_nothing_else_is() {
        let set = Overrides { max_vms: Some(3), apps_per_min: NonZeroU32::new(9), ..NOTHING };
        let text = serde_json::to_string(&set).unwrap();
        assert_eq!(text, r#"{"max_vms":3,"apps_per_min":9}"#);
        assert_eq!(serde_json::from_str::<Overrides>(&text).unwrap(), set);
        for bad in [r#"{"max_vm":3}"#, r#"{"apps_per_min":0}"#, r#"{"max_vms":-1}"#] {
            assert!(serde_json::from_str::<Overrides>(bad).is_err(), "{bad}");
        }
        assert!(serde_json::from_str::<Plans>(r#"{"fre":{}}"#).is_err());
    }
}
