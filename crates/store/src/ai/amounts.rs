//! Amounts, counts and months, as columns have them.

use rigbox_core::ai::money::Money;
use rigbox_core::time::Timestamp;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;
use time::OffsetDateTime;

use crate::Error;

/// Returns an amount for a column.
pub(super) fn signed(amount: Money) -> i64 {
    count(amount.micro())
}

/// Returns a count for a column.
pub(super) fn count(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Returns the amount that a column has.
pub(super) fn amount(stored: i64) -> Money {
    Money::from_micro(unsigned(stored))
}

/// Returns the count that a column has.
pub(super) fn unsigned(stored: i64) -> u64 {
    u64::try_from(stored).unwrap_or(0)
}

/// Reads an amount, which is nothing where the row is missing.
pub(super) fn money(row: &SqliteRow, column: &str) -> Result<Money, Error> {
    Ok(row.try_get::<Option<i64>, _>(column)?.map(amount).unwrap_or_default())
}

/// Reads a count, which is nothing where the row is missing.
pub(super) fn number(row: &SqliteRow, column: &str) -> Result<u64, Error> {
    Ok(unsigned(row.try_get::<Option<i64>, _>(column)?.unwrap_or(0)))
}

/// Returns the month of a time in UTC, such as `2026-11`.
pub(super) fn month(at: Timestamp) -> String {
    let at = OffsetDateTime::from_unix_timestamp(at.unix_ms().div_euclid(1_000));
    let at = at.unwrap_or(OffsetDateTime::UNIX_EPOCH);
    format!("{:04}-{:02}", at.year(), u8::from(at.month()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn months_change_at_midnight_in_utc() {
        for (ms, expected) in [(0, "1970-01"), (1_796_083_199_999, "2026-11"), (1_796_083_200_000, "2026-12")]
        {
            assert_eq!(month(Timestamp::from_unix_ms(ms)), expected);
        }
    }
}
