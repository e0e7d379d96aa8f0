//! Plans: quotas and rate limits of users. The installation may override a plan's limits, and a single user's
//! limits override both.

use std::num::NonZeroU32;
use std::str::FromStr;

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};

use crate::ai::money::Money;
use crate::vm_limits::VmLimits;

/// Plan of a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plan {
    /// Administrator of the installation: no quota but the machine's capacity.
    Owner,
    /// Plan for trying Rigbox out.
    Free,
    /// Plan for regular use.
    Pro,
}

/// Error for a text that is not a plan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a valid plan. Use owner, free or pro.")]
pub struct InvalidPlan(String);

/// Limits that replace those of the level below, for a plan or a user. `None` inherits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitOverrides {
    /// Maximum number of workspaces.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_vms: Option<u32>,
    /// Maximum memory of one workspace in MiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_ram_per_vm_mb: Option<u32>,
    /// Maximum number of virtual CPUs of one workspace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_vcpu_per_vm: Option<u32>,
    /// Maximum disk size of one workspace in MiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_disk_per_vm_mb: Option<u32>,
    /// Maximum number of apps of one workspace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_apps_per_vm: Option<u32>,
    /// Maximum number of SSH keys.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_ssh_keys: Option<u32>,
    /// Credits for AI calls that a month brings, in US dollars.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ai_credits_usd: Option<u32>,
    /// Requests per minute for keys and the account.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authentication_per_min: Option<NonZeroU32>,
    /// Requests per minute for workspaces and their contents.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workspaces_per_min: Option<NonZeroU32>,
    /// Requests per minute for apps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub apps_per_min: Option<NonZeroU32>,
    /// Limits of each workspace's network and disk.
    #[serde(skip_serializing_if = "VmLimits::is_empty")]
    pub limits: VmLimits,
}

impl LimitOverrides {
    /// Returns these limits, with `below` for those that are not set.
    #[must_use]
    pub fn over(self, below: Self) -> Self {
        Self {
            max_vms: self.max_vms.or(below.max_vms),
            max_ram_per_vm_mb: self.max_ram_per_vm_mb.or(below.max_ram_per_vm_mb),
            max_vcpu_per_vm: self.max_vcpu_per_vm.or(below.max_vcpu_per_vm),
            max_disk_per_vm_mb: self.max_disk_per_vm_mb.or(below.max_disk_per_vm_mb),
            max_apps_per_vm: self.max_apps_per_vm.or(below.max_apps_per_vm),
            max_ssh_keys: self.max_ssh_keys.or(below.max_ssh_keys),
            ai_credits_usd: self.ai_credits_usd.or(below.ai_credits_usd),
            authentication_per_min: self.authentication_per_min.or(below.authentication_per_min),
            workspaces_per_min: self.workspaces_per_min.or(below.workspaces_per_min),
            apps_per_min: self.apps_per_min.or(below.apps_per_min),
            limits: self.limits.over(below.limits),
        }
    }
}

/// Limits of an installation's plans.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Plans {
    /// Overrides for the administrator.
    pub owner: LimitOverrides,
    /// Overrides for [`Plan::Free`].
    pub free: LimitOverrides,
    /// Overrides for [`Plan::Pro`].
    pub pro: LimitOverrides,
    /// Rate limits per client address for requests without a valid credential. Other limits have no effect.
    #[serde(deserialize_with = "without_vms")]
    pub anonymous: LimitOverrides,
}

/// Reads the limits of clients that have no workspaces.
fn without_vms<'de, D: Deserializer<'de>>(deserializer: D) -> Result<LimitOverrides, D::Error> {
    let limits = LimitOverrides::deserialize(deserializer)?;
    if limits.limits.is_empty() {
        return Ok(limits);
    }
    Err(D::Error::custom("`limits` is for plans of users. Clients without an account have no workspaces."))
}

impl Plans {
    /// Returns the rate limits of one address without a valid credential.
    pub fn anonymous_rates(&self) -> RateLimits {
        Entitlements(self.anonymous.over(Plan::Free.defaults())).rates()
    }

    /// Returns the entitlements of a user of `plan` with the user's own overrides.
    pub fn entitlements(&self, plan: Plan, user: LimitOverrides) -> Entitlements {
        let of_plan = match plan {
            Plan::Owner => self.owner,
            Plan::Free => self.free,
            Plan::Pro => self.pro,
        };
        Entitlements(user.over(of_plan).over(plan.defaults()))
    }
}

/// Quota and rate limits of one user. `None` means that only the machine is the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entitlements(LimitOverrides);

/// Requests per minute. `None` means no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimits {
    /// Requests for keys and the account.
    pub authentication: Option<NonZeroU32>,
    /// Requests for workspaces and their contents.
    pub workspaces: Option<NonZeroU32>,
    /// Requests for apps.
    pub apps: Option<NonZeroU32>,
}

impl RateLimits {
    /// Limits of every plan but the administrator's, and of unauthenticated clients.
    pub const DEFAULT: Self = Self {
        authentication: NonZeroU32::new(120),
        workspaces: NonZeroU32::new(180),
        apps: NonZeroU32::new(240),
    };
}

impl Entitlements {
    /// Returns the user's rate limits.
    pub fn rates(&self) -> RateLimits {
        RateLimits {
            authentication: self.0.authentication_per_min,
            workspaces: self.0.workspaces_per_min,
            apps: self.0.apps_per_min,
        }
    }

    /// Returns how many apps one workspace of the user may have.
    pub fn max_apps_per_vm(&self) -> u32 {
        self.0.max_apps_per_vm.unwrap_or(UNLIMITED).min(UNLIMITED)
    }

    /// Returns how many SSH keys the user may have.
    pub fn max_ssh_keys(&self) -> u32 {
        self.0.max_ssh_keys.unwrap_or(UNLIMITED).min(UNLIMITED)
    }

    /// Returns the credits for AI calls that a month brings. Without a setting there are none, for the administrator too: nobody spends
    /// the operator's money unasked.
    pub fn ai_credits(&self) -> Money {
        Money::from_dollars(self.0.ai_credits_usd.unwrap_or(0))
    }

    /// Returns the limits of the user's VMs, as far as they differ from those of a node.
    pub fn vm_limits(&self) -> VmLimits {
        self.0.limits
    }

    /// Returns the user's quota on this machine.
    pub fn limits(&self, machine: MachineCapacity) -> Limits {
        let LimitOverrides { max_vms, max_ram_per_vm_mb, max_vcpu_per_vm, max_disk_per_vm_mb, .. } = self.0;
        let one = |limit: Option<u32>, machine: u32| limit.unwrap_or(machine).min(machine);
        // The total is the number of workspaces times the size of the largest.
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

/// Quota of one user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Maximum number of workspaces.
    pub max_vms: u32,
    /// Maximum memory of one workspace in MiB.
    pub max_ram_per_vm_mb: u32,
    /// Maximum memory of all workspaces in MiB.
    pub max_ram_total_mb: u32,
    /// Maximum disk size of one workspace in MiB.
    pub max_disk_per_vm_mb: u32,
    /// Maximum disk size of all workspaces in MiB.
    pub max_disk_total_mb: u32,
    /// Maximum number of virtual CPUs of one workspace.
    pub max_vcpu_per_vm: u32,
    /// Maximum number of virtual CPUs of all running workspaces.
    pub max_running_vcpus: u32,
}

/// Capacity of the machine, which caps every quota.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MachineCapacity {
    /// Number of CPUs.
    pub vcpus: u32,
    /// Memory in MiB.
    pub ram_mb: u32,
    /// Disk space in MiB.
    pub disk_total_mb: u32,
}

/// Largest number that a signed 32-bit field of any API client can hold.
const UNLIMITED: u32 = i32::MAX as u32;

impl Plan {
    /// Returns the wire name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Owner => "owner",
            Self::Free => "free",
            Self::Pro => "pro",
        }
    }

    /// Returns the built-in limits of the plan.
    fn defaults(self) -> LimitOverrides {
        let ceilings = |vms, ram, vcpu, disk, apps, ssh_keys| LimitOverrides {
            max_vms: Some(vms),
            max_ram_per_vm_mb: Some(ram),
            max_vcpu_per_vm: Some(vcpu),
            max_disk_per_vm_mb: Some(disk),
            max_apps_per_vm: Some(apps),
            max_ssh_keys: Some(ssh_keys),
            ai_credits_usd: None,
            authentication_per_min: RateLimits::DEFAULT.authentication,
            workspaces_per_min: RateLimits::DEFAULT.workspaces,
            apps_per_min: RateLimits::DEFAULT.apps,
            limits: VmLimits::default(),
        };
        match self {
            Self::Owner => LimitOverrides {
                authentication_per_min: RateLimits::DEFAULT.authentication,
                ..LimitOverrides::default()
            },
            Self::Free => ceilings(2, 1_024, 1, 4_096, 5, 5),
            Self::Pro => ceilings(10, 4_096, 4, 10_240, 20, 20),
        }
    }
}

impl FromStr for Plan {
    type Err = InvalidPlan;

    fn from_str(text: &str) -> Result<Self, InvalidPlan> {
        [Self::Owner, Self::Free, Self::Pro]
            .into_iter()
            .find(|plan| plan.as_str() == text)
            .ok_or_else(|| InvalidPlan(text.chars().take(64).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MACHINE: MachineCapacity = MachineCapacity { vcpus: 8, ram_mb: 16_000, disk_total_mb: 200_000 };

    #[test]
    fn plan_has_its_built_in_limits_without_overrides() {
        let limits = |plan| Plans::default().entitlements(plan, LimitOverrides::default()).limits(MACHINE);
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
        let apps = |plan| Plans::default().entitlements(plan, LimitOverrides::default()).max_apps_per_vm();
        assert_eq!([Plan::Free, Plan::Pro, Plan::Owner].map(apps), [5, 20, UNLIMITED]);
        let ssh_keys = |plan| Plans::default().entitlements(plan, LimitOverrides::default()).max_ssh_keys();
        assert_eq!([Plan::Free, Plan::Pro, Plan::Owner].map(ssh_keys), [5, 20, UNLIMITED]);
        let rates = |plan| Plans::default().entitlements(plan, LimitOverrides::default()).rates();
        assert_eq!((rates(Plan::Free), rates(Plan::Pro)), (RateLimits::DEFAULT, RateLimits::DEFAULT));
        assert_eq!(rates(Plan::Owner), RateLimits { workspaces: None, apps: None, ..RateLimits::DEFAULT });
    }

    #[test]
    fn user_limits_override_installation_limits_override_plan_limits() {
        let plans = Plans {
            free: LimitOverrides { max_vms: Some(3), max_vcpu_per_vm: Some(2), ..LimitOverrides::default() },
            ..Plans::default()
        };
        let user = LimitOverrides {
            max_vms: Some(7),
            workspaces_per_min: NonZeroU32::new(1_000),
            ..LimitOverrides::default()
        };
        let terms = plans.entitlements(Plan::Free, user);
        let limits = terms.limits(MACHINE);
        assert_eq!((limits.max_vms, limits.max_vcpu_per_vm, limits.max_ram_per_vm_mb), (7, 2, 1_024));
        assert_eq!((limits.max_ram_total_mb, limits.max_running_vcpus), (7 * 1_024, 14));
        assert_eq!(terms.rates().workspaces, NonZeroU32::new(1_000));
        assert_eq!(terms.rates().authentication, NonZeroU32::new(120));
        // Other plans are unaffected.
        assert_eq!(plans.entitlements(Plan::Pro, LimitOverrides::default()).limits(MACHINE).max_vms, 10);
        let owner =
            Plans { owner: user, ..Plans::default() }.entitlements(Plan::Owner, LimitOverrides::default());
        assert_eq!((owner.limits(MACHINE).max_vms, owner.rates().workspaces), (7, NonZeroU32::new(1_000)));
    }

    #[test]
    fn plans_grant_no_credits_unless_they_are_set() {
        let set = |dollars| LimitOverrides { ai_credits_usd: Some(dollars), ..LimitOverrides::default() };
        let plans = Plans { pro: set(20), ..Plans::default() };
        let credits = |plan, user| plans.entitlements(plan, user).ai_credits();
        let none = LimitOverrides::default();
        let all = [Plan::Owner, Plan::Free, Plan::Pro].map(|plan| credits(plan, none));
        assert_eq!(all, [Money::ZERO, Money::ZERO, Money::from_dollars(20)]);
        assert_eq!(credits(Plan::Pro, set(0)), Money::ZERO);
    }

    #[test]
    fn limits_of_vms_come_from_the_user_then_the_plan() {
        let limits = |connections, iops| LimitOverrides {
            limits: VmLimits {
                connections: NonZeroU32::new(connections),
                disk_iops: NonZeroU32::new(iops),
                ..VmLimits::default()
            },
            ..LimitOverrides::default()
        };
        let plans = Plans { free: limits(10, 20), ..Plans::default() };
        let of = |plan, user| plans.entitlements(plan, user).vm_limits();
        assert_eq!(of(Plan::Free, LimitOverrides::default()), limits(10, 20).limits);
        assert_eq!(of(Plan::Free, limits(30, 0)), limits(30, 20).limits);
        assert_eq!(of(Plan::Pro, LimitOverrides::default()), VmLimits::default());
    }

    #[test]
    fn no_quota_exceeds_the_machine() {
        let user = LimitOverrides {
            max_ram_per_vm_mb: Some(u32::MAX),
            max_vms: Some(u32::MAX),
            ..LimitOverrides::default()
        };
        let limits = Plans::default().entitlements(Plan::Free, user).limits(MACHINE);
        assert_eq!((limits.max_ram_per_vm_mb, limits.max_ram_total_mb), (16_000, UNLIMITED));
        assert_eq!(limits.max_vms, UNLIMITED);
    }

    #[test]
    fn overrides_round_trip_and_unknown_fields_are_refused() {
        let set = LimitOverrides {
            max_vms: Some(3),
            apps_per_min: NonZeroU32::new(9),
            ..LimitOverrides::default()
        };
        let text = serde_json::to_string(&set).unwrap();
        assert_eq!(text, r#"{"max_vms":3,"apps_per_min":9}"#);
        assert_eq!(serde_json::from_str::<LimitOverrides>(&text).unwrap(), set);
        for bad in [r#"{"max_vm":3}"#, r#"{"apps_per_min":0}"#, r#"{"max_vms":-1}"#] {
            assert!(serde_json::from_str::<LimitOverrides>(bad).is_err(), "{bad}");
        }
        let limits = VmLimits { dns_queries: std::num::NonZeroU16::new(5), ..VmLimits::default() };
        let set = LimitOverrides { max_vms: Some(3), limits, ..LimitOverrides::default() };
        let text = serde_json::to_string(&set).unwrap();
        assert_eq!(text, r#"{"max_vms":3,"limits":{"dns_queries":5}}"#);
        assert_eq!(serde_json::from_str::<LimitOverrides>(&text).unwrap(), set);
        let plans = |text: &str| serde_json::from_str::<Plans>(text).map_err(|error| error.to_string());
        assert!(plans(r#"{"fre":{}}"#).is_err());
        plans(r#"{"anonymous":{"apps_per_min":9}}"#).unwrap();
        let error = plans(r#"{"anonymous":{"limits":{"connections":9}}}"#).unwrap_err();
        assert!(error.contains("have no workspaces"), "{error}");
    }
}
