//! Sums that calls change: users' accounts, and the months of users and workspaces. Steps of a batch change them in memory, in turn; what
//! is written are the differences.

use std::collections::BTreeMap;

use rigbox_core::ai::account::Account;
use rigbox_core::ai::money::Money;

use super::amounts::signed;
use crate::Error;

/// Amount by which the log of revocations runs ahead of what is spent, so that few settlements write to it.
const LOG_STEP: i64 = 1_000_000;

/// Change of a sum, for one statement that adds it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) spent: i64,
    pub(super) reserved: i64,
}

/// Accounts by user.
#[derive(Debug, Default)]
pub(super) struct Accounts(BTreeMap<String, UserAccount>);

/// Account as the steps so far leave it.
#[derive(Debug)]
pub(super) struct UserAccount {
    pub(super) account: Account,
    /// Amount in the log of revocations.
    pub(super) logged: i64,
    pub(super) row: Row,
    pub(super) change: Option<Change>,
}

/// Row of a sum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Row {
    /// There is none.
    Missing,
    /// A step has made it.
    New,
    /// It is in the database.
    Stored,
}

/// Key of a month's sum.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct MonthKey {
    pub(super) kind: &'static str,
    pub(super) subject: String,
    pub(super) month: String,
}

/// Sums of months.
#[derive(Debug, Default)]
pub(super) struct Months(BTreeMap<MonthKey, MonthSum>);

/// Sum of a month as the steps so far leave it.
#[derive(Debug)]
pub(super) struct MonthSum {
    used: Money,
    pub(super) row: Row,
    pub(super) change: Option<Change>,
    /// Bound that what is used may not exceed, if a step has reserved of it.
    pub(super) limit: Option<Money>,
}

impl Change {
    fn add(change: &mut Option<Self>, spent: i64, reserved: i64) {
        let change = change.get_or_insert_default();
        change.spent = change.spent.saturating_add(spent);
        change.reserved = change.reserved.saturating_add(reserved);
    }
}

impl Accounts {
    pub(super) fn contains(&self, user: &str) -> bool {
        self.0.contains_key(user)
    }

    /// Adds an account that was read; `None` for a user without one.
    pub(super) fn insert(&mut self, user: &str, account: Option<(Account, i64)>) {
        let row = if account.is_some() { Row::Stored } else { Row::Missing };
        let (account, logged) = account.unwrap_or_default();
        self.0.insert(user.to_owned(), UserAccount { account, logged, row, change: None });
    }

    /// Returns a user's account, which is empty before the first call.
    pub(super) fn get(&self, user: &str) -> Account {
        self.0.get(user).map(|known| known.account.clone()).unwrap_or_default()
    }

    /// Reserves an amount of an account, as it was renewed for that.
    pub(super) fn reserve(&mut self, user: &str, renewed: Account, amount: Money) {
        let Some(known) = self.0.get_mut(user) else { return };
        known.account = renewed;
        known.account.reserved = known.account.reserved.plus(amount);
        if known.row == Row::Missing {
            known.row = Row::New;
        }
        Change::add(&mut known.change, 0, signed(amount));
    }

    /// Replaces a reservation by its cost. Returns what the log of revocations has to know, if it is behind.
    pub(super) fn settle(&mut self, user: &str, cost: Money, reserved: Money) -> Result<Option<i64>, Error> {
        let known = self.0.get_mut(user).filter(|known| known.row != Row::Missing);
        let known = known.ok_or_else(|| Error::Damaged("a call without an account".to_owned()))?;
        known.account.spent = known.account.spent.plus(cost);
        known.account.reserved = known.account.reserved.minus(reserved);
        Change::add(&mut known.change, signed(cost), -signed(reserved));
        let spent = signed(known.account.spent);
        if spent <= known.logged {
            return Ok(None);
        }
        known.logged = spent.saturating_add(LOG_STEP);
        Ok(Some(known.logged))
    }

    /// Lists the accounts that have changed.
    pub(super) fn changed(&self) -> impl Iterator<Item = (&str, &UserAccount, Change)> {
        self.0.iter().filter_map(|(user, account)| Some((user.as_str(), account, account.change?)))
    }
}

impl MonthKey {
    pub(super) fn user(user: &str, month: &str) -> Self {
        Self { kind: "user", subject: user.to_owned(), month: month.to_owned() }
    }

    pub(super) fn workspace(workspace: &str, month: &str) -> Self {
        Self { kind: "workspace", subject: workspace.to_owned(), month: month.to_owned() }
    }
}

impl Months {
    /// Adds what was used in a month, as it was read; `None` where there is no row.
    pub(super) fn insert(&mut self, key: MonthKey, used: Option<Money>) {
        let row = if used.is_some() { Row::Stored } else { Row::Missing };
        self.0.insert(key, MonthSum { used: used.unwrap_or_default(), row, change: None, limit: None });
    }

    /// Returns what is used of a month.
    pub(super) fn used(&self, key: &MonthKey) -> Money {
        self.0.get(key).map(|month| month.used).unwrap_or_default()
    }

    /// Reserves an amount of a month. There is a row afterwards, for a budget that is set later.
    pub(super) fn reserve(&mut self, key: MonthKey, amount: Money, limit: Option<Money>) {
        let Some(month) = self.0.get_mut(&key) else { return };
        month.used = month.used.plus(amount);
        if month.row == Row::Missing {
            month.row = Row::New;
        }
        // A call that costs nothing may be made however much is used.
        if amount > Money::ZERO {
            month.limit = limit;
        }
        Change::add(&mut month.change, 0, signed(amount));
    }

    /// Replaces a reservation by its cost. A month that was not read has a row, because its calls were reserved.
    pub(super) fn settle(&mut self, key: MonthKey, cost: Money, reserved: Money) {
        let unread = MonthSum { used: Money::ZERO, row: Row::Stored, change: None, limit: None };
        let month = self.0.entry(key).or_insert(unread);
        if month.row == Row::Missing {
            return;
        }
        month.used = month.used.plus(cost).minus(reserved);
        Change::add(&mut month.change, signed(cost), -signed(reserved));
    }

    /// Lists the months that have changed.
    pub(super) fn changed(&self) -> impl Iterator<Item = (&MonthKey, &MonthSum, Change)> {
        self.0.iter().filter_map(|(key, month)| Some((key, month, month.change?)))
    }
}
