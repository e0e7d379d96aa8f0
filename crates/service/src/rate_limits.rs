//! Rate limits: smooth (GCRA, ITU-T I.371), per user and class of routes, and per address for callers without
//! a valid key. Per process: several replicas would each count on their own.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use governor::Quota;
use governor::clock::{Clock, DefaultClock};
use governor::middleware::StateInformationMiddleware;
use governor::state::keyed::DashMapStateStore;
use rigbox_core::authz::{Credential, Principal};
use rigbox_core::ids::{UserId, WorkspaceId};
use rigbox_core::plans::{self, Plans};
use rigbox_shares::AddressBlock;

/// Class of a route for rate limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RateClass {
    /// Keys, the account, and everything without a valid key.
    Authentication,
    /// Workspaces and what is in them.
    Workspaces,
    /// Apps.
    Apps,
}

impl RateClass {
    /// Returns the requests per minute; `None` means no limit.
    fn rate(self, rates: &plans::RateLimits) -> Option<NonZeroU32> {
        match self {
            Self::Authentication => rates.authentication,
            Self::Workspaces => rates.workspaces,
            Self::Apps => rates.apps,
        }
    }
}

/// Returns the maximum number of requests at once.
fn burst(per_minute: NonZeroU32) -> NonZeroU32 {
    NonZeroU32::new(per_minute.get() / 10).unwrap_or(NonZeroU32::MIN)
}

/// Allowance left after a permitted request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowance {
    /// Requests per minute.
    pub per_minute: u32,
    /// Requests that may follow at once.
    pub remaining: u32,
    /// Seconds until the full burst is available.
    pub reset_s: u64,
}

/// Refusal of a request over the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LimitExceeded {
    /// The allowance.
    pub allowance: Allowance,
    /// Seconds until the next request may come, at least 1.
    pub retry_after_s: u32,
}

type Keyed<K, C> = governor::RateLimiter<K, DashMapStateStore<K>, C, StateInformationMiddleware>;

/// One limit for many callers.
struct Limiter<K: Hash + Eq + Clone, C: Clock + Clone> {
    per_minute: NonZeroU32,
    keyed: Keyed<K, C>,
    clock: C,
}

impl<K: Hash + Eq + Clone, C: Clock + Clone> Limiter<K, C> {
    fn new(per_minute: NonZeroU32, clock: &C) -> Self {
        let quota = Quota::per_minute(per_minute).allow_burst(burst(per_minute));
        let keyed = governor::RateLimiter::new(quota, DashMapStateStore::default(), clock.clone());
        Self { per_minute, keyed, clock: clock.clone() }
    }

    fn check(&self, key: &K) -> Result<Allowance, LimitExceeded> {
        let per_minute = self.per_minute.get();
        let allowance = |remaining: u32| {
            let used = u64::from(burst(self.per_minute).get().saturating_sub(remaining));
            Allowance { per_minute, remaining, reset_s: (used * 60).div_ceil(per_minute.into()) }
        };
        match self.keyed.check_key(key) {
            Ok(state) => Ok(allowance(state.remaining_burst_capacity())),
            Err(not_until) => {
                let wait = not_until.wait_time_from(self.clock.now());
                let retry_after_s = u32::try_from(wait.as_millis().div_ceil(1000)).unwrap_or(u32::MAX).max(1);
                Err(LimitExceeded { allowance: allowance(0), retry_after_s })
            }
        }
    }

    /// Removes idle callers. Returns whether any are left.
    fn remove_idle(&self) -> bool {
        self.keyed.retain_recent();
        self.keyed.shrink_to_fit();
        !self.keyed.is_empty()
    }
}

/// Limiters by class and requests per minute. They are few, because only operators set such numbers.
struct Limiters<K: Hash + Eq + Clone, C: Clock + Clone> {
    clock: C,
    limiters: RwLock<HashMap<(RateClass, NonZeroU32), Limiter<K, C>>>,
}

impl<K: Hash + Eq + Clone, C: Clock + Clone> Limiters<K, C> {
    fn new(clock: C) -> Self {
        Self { clock, limiters: RwLock::default() }
    }

    fn check(&self, class: RateClass, per_minute: NonZeroU32, key: &K) -> Result<Allowance, LimitExceeded> {
        let slot = (class, per_minute);
        if let Some(limiter) = self.limiters.read().unwrap_or_else(PoisonError::into_inner).get(&slot) {
            return limiter.check(key);
        }
        let mut limiters = self.limiters.write().unwrap_or_else(PoisonError::into_inner);
        limiters.entry(slot).or_insert_with(|| Limiter::new(per_minute, &self.clock)).check(key)
    }

    fn remove_idle(&self) {
        let mut limiters = self.limiters.write().unwrap_or_else(PoisonError::into_inner);
        limiters.retain(|_, limiter| limiter.remove_idle());
    }
}

/// Caller whose requests are counted together.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Caller {
    User(UserId),
    /// By its own key: code in a VM must not use up its owner's limit.
    Workspace(WorkspaceId),
}

/// Rate limiter for all requests.
pub struct RateLimiter {
    plans: Plans,
    callers: Limiters<Caller, DefaultClock>,
    addresses: Limiters<AddressBlock, DefaultClock>,
}

/// Interval between removals of idle callers.
const CLEANUP_INTERVAL: Duration = Duration::from_secs(60);

impl RateLimiter {
    /// Creates the limiter.
    pub fn new(plans: Plans) -> Self {
        let clock = DefaultClock::default();
        Self { plans, callers: Limiters::new(clock.clone()), addresses: Limiters::new(clock) }
    }

    /// Counts a request of a user, or of a workspace with its own key. `None` means no limit.
    pub fn principal(
        &self,
        principal: &Principal,
        class: RateClass,
    ) -> Result<Option<Allowance>, LimitExceeded> {
        let (caller, rates) = match &principal.credential {
            // Independent of the owner's plan: code in a VM is untrusted.
            Credential::Workspace(id) => (Caller::Workspace(id.clone()), self.plans.anonymous_rates()),
            Credential::Key(_) | Credential::Session(_) | Credential::SshKey(_) => {
                let terms = self.plans.entitlements(principal.plan, principal.limits);
                (Caller::User(principal.user.clone()), terms.rates())
            }
        };
        class.rate(&rates).map(|per_minute| self.callers.check(class, per_minute, &caller)).transpose()
    }

    /// Counts a request of an anonymous caller. `None` means no limit.
    pub fn address(&self, address: IpAddr, class: RateClass) -> Result<Option<Allowance>, LimitExceeded> {
        let limit = class.rate(&self.plans.anonymous_rates());
        limit.map(|per_minute| self.addresses.check(class, per_minute, &address.into())).transpose()
    }

    /// Removes idle callers periodically, forever.
    pub async fn run_cleanup(&self) {
        loop {
            tokio::time::sleep(CLEANUP_INTERVAL).await;
            self.callers.remove_idle();
            self.addresses.remove_idle();
        }
    }
}

#[cfg(test)]
mod tests {
    use governor::clock::FakeRelativeClock;
    use rigbox_core::authz::Scope;
    use rigbox_core::ids::KeyId;
    use rigbox_core::plans::{LimitOverrides, Plan};

    use super::*;

    /// Numbers of plans, and some that operators set.
    const NUMBERS: [u32; 6] = [120, 180, 240, 1_000, 36, 5];

    fn limiter(per_minute: u32) -> (Limiter<u8, FakeRelativeClock>, FakeRelativeClock) {
        let clock = FakeRelativeClock::default();
        (Limiter::new(NonZeroU32::new(per_minute).unwrap(), &clock), clock)
    }

    #[test]
    fn evenly_spaced_requests_at_the_rate_pass() {
        for number in NUMBERS {
            let (limiter, clock) = limiter(number);
            for request in 0..2 * number {
                assert!(limiter.check(&1).is_ok(), "request {request} of {number} a minute");
                clock.advance(Duration::from_mins(1) / number);
            }
        }
    }

    #[test]
    fn burst_is_a_tenth_of_the_rate() {
        for number in NUMBERS {
            let (limiter, clock) = limiter(number);
            let burst = (number / 10).max(1);
            let remaining: Vec<u32> = (0..burst).map(|_| limiter.check(&1).unwrap().remaining).collect();
            assert_eq!(remaining, (0..burst).rev().collect::<Vec<_>>());
            let refused = limiter.check(&1).unwrap_err();
            assert_eq!(refused.retry_after_s, 60_u32.div_ceil(number));
            assert_eq!(refused.allowance.per_minute, number);
            // Other callers are not affected.
            assert!(limiter.check(&2).is_ok());
            // One request is available after its share of a minute, and not a second one.
            clock.advance(Duration::from_mins(1) / number);
            assert!(limiter.check(&1).is_ok());
            assert!(limiter.check(&1).is_err());
            // After enough time the full burst is available again, and never more.
            clock.advance(Duration::from_mins(10));
            assert_eq!((0..burst + 5).filter(|_| limiter.check(&1).is_ok()).count(), burst as usize);
        }
    }

    #[test]
    fn rate_of_a_user_is_the_override_or_the_plans() {
        let number = |number| NonZeroU32::new(number);
        let set = |number| LimitOverrides { workspaces_per_min: number, ..LimitOverrides::default() };
        let rates = RateLimiter::new(Plans { free: set(number(50)), ..Plans::default() });
        let mut next = 0;
        let mut passed = |plan, limits| {
            next += 1;
            let principal = Principal {
                user: UserId::from_random([next; 5]),
                plan,
                limits,
                credential: Credential::Key(KeyId::from_random([next; 5])),
                scope: Scope::Account,
                from: None,
            };
            let allowance = rates.principal(&principal, RateClass::Workspaces).unwrap();
            allowance.map(|allowance| (allowance.per_minute, allowance.remaining))
        };
        assert_eq!(passed(Plan::Pro, LimitOverrides::default()), Some((180, 17)));
        assert_eq!(passed(Plan::Free, LimitOverrides::default()), Some((50, 4)));
        assert_eq!(passed(Plan::Free, set(number(1_000))), Some((1_000, 99)));
        assert_eq!(passed(Plan::Owner, LimitOverrides::default()), None);
        assert_eq!(passed(Plan::Owner, set(number(10))), Some((10, 0)));
        // Two users with the same number have separate limits.
        assert_eq!(passed(Plan::Free, LimitOverrides::default()), Some((50, 4)));
    }

    #[test]
    fn idle_callers_are_removed() {
        let clock = FakeRelativeClock::default();
        let limiters: Limiters<u8, _> = Limiters::new(clock.clone());
        limiters.check(RateClass::Workspaces, NonZeroU32::MIN, &1).unwrap();
        limiters.remove_idle();
        assert_eq!(limiters.limiters.read().unwrap().len(), 1);
        clock.advance(Duration::from_mins(3));
        limiters.remove_idle();
        assert!(limiters.limiters.read().unwrap().is_empty());
    }

    #[test]
    fn workspace_key_does_not_use_up_its_owners_limit() {
        let rates = RateLimiter::new(Plans::default());
        let owner = Principal {
            user: UserId::from_random([1; 5]),
            plan: Plan::Owner,
            limits: LimitOverrides::default(),
            credential: Credential::Key(KeyId::from_random([1; 5])),
            scope: Scope::Account,
            from: None,
        };
        let id = WorkspaceId::from_random([2; 5]);
        let within = Principal {
            credential: Credential::Workspace(id.clone()),
            scope: Scope::OwnWorkspace(id),
            ..owner.clone()
        };
        let refused = |principal: &Principal| {
            (0..100).any(|_| rates.principal(principal, RateClass::Workspaces).is_err())
        };
        assert!(refused(&within), "without a limit");
        assert!(!refused(&owner), "the owner's own requests");
    }
}
