//! Amounts of money in millionths of a US dollar.

use std::fmt;
use std::str::FromStr;

/// Digits of a fraction of a dollar.
const FRACTION_DIGITS: usize = 6;
/// Millionths in a dollar.
const MICRO: u64 = 1_000_000;

/// Amount in millionths of a US dollar. It fits into a signed column of a database.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Money(u64);

/// Error for a text that is not an amount.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an amount in US dollars. Use a number with at most 6 decimals, such as 12.50.")]
pub struct InvalidAmount(String);

impl Money {
    /// Nothing.
    pub const ZERO: Self = Self(0);
    /// Largest amount, which stands for any larger one.
    pub const MAX: Self = Self(i64::MAX.unsigned_abs());

    /// Creates an amount from millionths of a dollar.
    pub fn from_micro(micro: u64) -> Self {
        Self(micro).min(Self::MAX)
    }

    /// Creates an amount from whole dollars.
    pub fn from_dollars(dollars: u32) -> Self {
        Self(u64::from(dollars) * MICRO)
    }

    /// Returns the millionths of a dollar.
    pub fn micro(self) -> u64 {
        self.0
    }

    /// Returns the sum.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self::from_micro(self.0.saturating_add(other.0))
    }

    /// Returns the difference; nothing, if `other` is larger.
    #[must_use]
    pub fn minus(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// Returns a quarter, rounded down.
    #[must_use]
    pub fn quarter(self) -> Self {
        Self(self.0 / 4)
    }
}

impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (dollars, fraction) = (self.0 / MICRO, self.0 % MICRO);
        let digits = format!("{fraction:0FRACTION_DIGITS$}");
        // Cents are always shown, and smaller parts where there are any.
        let end = digits.trim_end_matches('0').len().max(2);
        write!(f, "${dollars}.{}", digits.get(..end).unwrap_or(&digits))
    }
}

impl FromStr for Money {
    type Err = InvalidAmount;

    fn from_str(text: &str) -> Result<Self, InvalidAmount> {
        parse(text).ok_or_else(|| InvalidAmount(text.chars().take(64).collect()))
    }
}

fn parse(text: &str) -> Option<Money> {
    let (dollars, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number(dollars) || !is_number(fraction) || fraction.len() > FRACTION_DIGITS {
        return None;
    }
    let dollars: u64 = dollars.parse().ok()?;
    let fraction: u64 = format!("{fraction:0<FRACTION_DIGITS$}").parse().ok()?;
    let micro = dollars.checked_mul(MICRO)?.checked_add(fraction)?;
    (micro <= Money::MAX.0).then_some(Money(micro))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_parse_and_print() {
        for (text, micro, shown) in [
            ("0", 0, "$0.00"),
            ("12", 12_000_000, "$12.00"),
            ("12.5", 12_500_000, "$12.50"),
            ("0.000001", 1, "$0.000001"),
            ("3.1234", 3_123_400, "$3.1234"),
        ] {
            let amount: Money = text.parse().unwrap();
            assert_eq!((amount.micro(), amount.to_string().as_str()), (micro, shown));
        }
        for bad in ["", ".", "1.", ".5", "-1", "1e3", "0.0000001", "9999999999999999999", "$1", "1,5"] {
            assert!(bad.parse::<Money>().is_err(), "{bad}");
        }
    }

    #[test]
    fn sums_stay_within_a_signed_column() {
        assert_eq!(Money::MAX.plus(Money::from_micro(1)), Money::MAX);
        assert_eq!(Money::from_micro(u64::MAX), Money::MAX);
        assert_eq!(Money::from_micro(1).minus(Money::from_micro(2)), Money::ZERO);
    }
}
