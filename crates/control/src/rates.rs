//! How often one caller may call: smooth limits (GCRA, ITU-T I.371) per user and class of routes, and per address for those who have
//! shown no valid key. Per process: several replicas would each count for themselves.

use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::middleware::StateInformationMiddleware;
use governor::state::keyed::DashMapStateStore;
use governor::{Quota, RateLimiter};
use rigbox_core::ids::UserId;
use rigbox_core::permit::Principal;
use rigbox_core::plans::Plan;

/// What a route counts as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    /// Keys, the account, and everything that shows no valid key: 120 a minute.
    Authentication,
    /// Workspaces and what is in them: 180 a minute.
    Workspaces,
}

impl Class {
    /// Requests a minute.
    fn per_minute(self) -> NonZeroU32 {
        match self {
            Self::Authentication => const { NonZeroU32::new(120).unwrap() },
            Self::Workspaces => const { NonZeroU32::new(180).unwrap() },
        }
    }

    /// One tenth of them may come at once.
    fn burst(self) -> NonZeroU32 {
        NonZeroU32::new(self.per_minute().get() / 10).unwrap_or(NonZeroU32::MIN)
    }

    fn quota(self) -> Quota {
        Quota::per_minute(self.per_minute()).allow_burst(self.burst())
    }
}

/// What is left after a request that was let through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Allowance {
    pub(crate) per_minute: u32,
    pub(crate) remaining: u32,
    /// Until as many as ever may come at once, s.
    pub(crate) reset_s: u64,
}

/// Why a request is not let through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooMany {
    pub(crate) allowance: Allowance,
    /// Until the next one may come, s, at least 1.
    pub(crate) retry_after_s: u32,
}

type Keyed<K, C> = RateLimiter<K, DashMapStateStore<K>, C, StateInformationMiddleware>;

/// One class's limit for many callers.
struct Limiter<K: std::hash::Hash + Eq + Clone, C: Clock + Clone> {
    class: Class,
    keyed: Keyed<K, C>,
    clock: C,
}

impl<K: std::hash::Hash + Eq + Clone, C: Clock + Clone> Limiter<K, C> {
    fn new(class: Class, clock: &C) -> Self {
        let keyed = RateLimiter::new(class.quota(), DashMapStateStore::default(), clock.clone());
        Self { class, keyed, clock: clock.clone() }
    }

    fn check(&self, key: &K) -> Result<Allowance, TooMany> {
        let per_minute = self.class.per_minute().get();
        let allowance = |remaining: u32| {
            let used = u64::from(self.class.burst().get().saturating_sub(remaining));
            Allowance { per_minute, remaining, reset_s: (used * 60).div_ceil(per_minute.into()) }
        };
        match self.keyed.check_key(key) {
            Ok(state) => Ok(allowance(state.remaining_burst_capacity())),
            Err(not_until) => {
                let wait = not_until.wait_time_from(self.clock.now());
                let retry_after_s = u32::try_from(wait.as_millis().div_ceil(1000)).unwrap_or(u32::MAX).max(1);
                Err(TooMany { allowance: allowance(0), retry_after_s })
            }
        }
    }

    fn forget_idle(&self) {
        self.keyed.retain_recent();
        self.keyed.shrink_to_fit();
    }
}

/// A limiter per class.
struct Limiters<K: std::hash::Hash + Eq + Clone> {
    authentication: Limiter<K, DefaultClock>,
    workspaces: Limiter<K, DefaultClock>,
}

impl<K: std::hash::Hash + Eq + Clone> Limiters<K> {
    fn new() -> Self {
        let clock = DefaultClock::default();
        Self {
            authentication: Limiter::new(Class::Authentication, &clock),
            workspaces: Limiter::new(Class::Workspaces, &clock),
        }
    }

    fn of(&self, class: Class) -> &Limiter<K, DefaultClock> {
        match class {
            Class::Authentication => &self.authentication,
            Class::Workspaces => &self.workspaces,
        }
    }
}

/// All limits.
pub(crate) struct Rates {
    users: Limiters<UserId>,
    addresses: Limiters<IpAddr>,
}

/// How often callers that have been quiet are forgotten.
const FORGET_EVERY: Duration = Duration::from_secs(60);

impl Rates {
    pub(crate) fn new() -> Self {
        Self { users: Limiters::new(), addresses: Limiters::new() }
    }

    /// Counts a user's request. The administrator is limited in authentication only: `None` is no limit.
    pub(crate) fn user(&self, principal: &Principal, class: Class) -> Result<Option<Allowance>, TooMany> {
        if principal.plan == Plan::Owner && class != Class::Authentication {
            return Ok(None);
        }
        self.users.of(class).check(&principal.user).map(Some)
    }

    /// Counts a request of somebody unknown.
    pub(crate) fn address(&self, address: IpAddr, class: Class) -> Result<Allowance, TooMany> {
        self.addresses.of(class).check(&network(address))
    }

    /// Forgets who has been quiet, for ever.
    pub(crate) async fn keep_small(&self) {
        loop {
            tokio::time::sleep(FORGET_EVERY).await;
            for class in [Class::Authentication, Class::Workspaces] {
                self.users.of(class).forget_idle();
                self.addresses.of(class).forget_idle();
            }
        }
    }
}

/// What one customer of a provider has: an IPv4 address, or an IPv6 network of 64 bits.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX))),
    }
}

#[cfg(test)]
mod tests {
    use governor::clock::FakeRelativeClock;

    use super::*;

    #[test]
    fn a_minutes_worth_passes_when_evenly_spaced() {
        let clock = FakeRelativeClock::default();
        let limiter = Limiter::new(Class::Authentication, &clock);
        for request in 0..240 {
            assert!(limiter.check(&1).is_ok(), "request {request}");
            clock.advance(Duration::from_millis(500));
        }
    }

    #[test]
    fn a_burst_is_a_tenth_and_not_one_more() {
        for class in [Class::Authentication, Class::Workspaces] {
            let clock = FakeRelativeClock::default();
            let limiter = Limiter::new(class, &clock);
            let burst = class.per_minute().get() / 10;
            let remaining: Vec<u32> = (0..burst).map(|_| limiter.check(&1).unwrap().remaining).collect();
            assert_eq!(remaining, (0..burst).rev().collect::<Vec<_>>());
            assert_eq!(limiter.check(&1).unwrap_err().retry_after_s, 1);
            // Somebody else is not concerned.
            assert!(limiter.check(&2).is_ok());
            // One comes back after its share of a minute, and no second one.
            clock.advance(Duration::from_mins(1) / class.per_minute().get());
            assert!(limiter.check(&1).is_ok());
            assert!(limiter.check(&1).is_err());
            // The whole burst comes back after as long as it takes, and no more than that ever.
            clock.advance(Duration::from_mins(10));
            assert_eq!((0..burst + 5).filter(|_| limiter.check(&1).is_ok()).count(), burst as usize);
        }
    }

    #[test]
    fn one_customers_many_addresses_count_as_one() {
        let of = |text: &str| network(text.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
    }
}
