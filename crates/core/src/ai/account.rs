//! Credits of a user: what was granted, spent and reserved. A plan grants credits for a month; what is left of them ends with it.

use super::money::Money;

/// Credits of a user. What is spent and reserved is never more than what was granted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Account {
    /// All that was granted, without what has ended.
    pub granted: Money,
    /// All that was spent.
    pub spent: Money,
    /// Reservations of calls that are open.
    pub reserved: Money,
    /// Part of what was granted that the plan grants for `month`.
    pub allowance: Money,
    /// Month of the allowance, such as `2026-11`; empty before the first one.
    pub month: String,
}

/// Bound of a month's calls, with what was used of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// The bound; `None`: there is none.
    pub limit: Option<Money>,
    /// Part that was spent or is reserved.
    pub used: Money,
}

impl Account {
    /// Returns what can be reserved.
    pub fn left(&self) -> Money {
        self.granted.minus(self.spent).minus(self.reserved)
    }

    /// Brings the allowance to `month` and to what the plan grants now. `used` is what the user's calls have used in the allowance's own
    /// month: the allowance is what they used first. An earlier month, of a clock that was set back, brings no second one.
    pub fn renew(&mut self, month: &str, allowance: Money, used: Money) {
        let is_later = month > self.month.as_str();
        let ends = if is_later { self.allowance.minus(used) } else { self.allowance };
        // Never more than what is left, however the plan or the grants have changed.
        let ends = ends.min(self.left().plus(allowance));
        self.granted = self.granted.plus(allowance).minus(ends);
        self.allowance = allowance;
        if is_later {
            month.clone_into(&mut self.month);
        }
    }
}

impl Budget {
    /// Returns what can be reserved.
    pub fn left(&self) -> Money {
        self.limit.map_or(Money::MAX, |limit| limit.minus(self.used))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn money(micro: u64) -> Money {
        Money::from_micro(micro)
    }

    fn account(granted: u64, spent: u64, allowance: u64, month: &str) -> Account {
        Account {
            granted: money(granted),
            spent: money(spent),
            allowance: money(allowance),
            month: month.to_owned(),
            ..Account::default()
        }
    }

    #[test]
    fn unused_allowance_ends_with_its_month_and_grants_stay() {
        // 10 of the plan and 5 that were granted for good; 4 used.
        let mut account = account(15, 4, 10, "2026-10");
        account.renew("2026-11", money(10), money(4));
        assert_eq!(account.left(), money(15));
        // The allowance is used first: of 12 that were used, 2 were granted for good.
        account.spent = account.spent.plus(money(12));
        account.renew("2026-12", money(10), money(12));
        assert_eq!(account.left(), money(13));
    }

    #[test]
    fn changed_plan_changes_the_allowance_of_its_month() {
        let mut account = account(0, 0, 0, "");
        account.renew("2026-11", money(10), Money::ZERO);
        account.renew("2026-11", money(10), Money::ZERO);
        assert_eq!(account.left(), money(10));
        account.spent = money(7);
        account.renew("2026-11", money(25), money(7));
        assert_eq!(account.left(), money(18));
        account.renew("2026-11", Money::ZERO, money(7));
        assert_eq!(account.left(), Money::ZERO);
        assert_eq!(account.granted, money(7));
    }

    #[test]
    fn clock_that_was_set_back_grants_no_second_allowance() {
        let mut account = account(10, 4, 10, "2026-11");
        account.renew("2026-12", money(10), money(4));
        assert_eq!(account.left(), money(10));
        account.spent = account.spent.plus(money(10));
        account.renew("2026-11", money(10), money(4));
        account.renew("2026-12", money(10), money(10));
        assert_eq!(account.left(), Money::ZERO);
    }

    proptest! {
        #[test]
        fn renewal_never_takes_what_is_spent_or_reserved(
            (granted, part) in (0..1_000_u64).prop_flat_map(|granted| (Just(granted), 0..=granted)),
            allowances in (0..1_000_u64, 0..1_000_u64),
            used in 0..2_000_u64,
            same in any::<bool>(),
        ) {
            let mut account = account(granted, part / 2, allowances.0, if same { "b" } else { "a" });
            account.reserved = money(part - part / 2);
            account.renew("b", money(allowances.1), money(used));
            prop_assert!(account.spent.plus(account.reserved) <= account.granted);
        }
    }
}
