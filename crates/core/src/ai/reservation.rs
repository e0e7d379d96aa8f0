//! Reservation of a call: how much of what is left it may take, and with which limit of its output. Clients ask for far more output than
//! they use, or name no limit, so one call takes at most a quarter of what is left, unless it needs more to be worth making.

use super::money::Money;
use super::prices::CallPrices;

/// Floor of a limit that is not for thinking.
pub const FLOOR_TOKENS: u64 = 8_192;
/// Floor of a limit where the model reasons for as long as it likes.
pub const REASONING_FLOOR_TOKENS: u64 = 25_000;
/// Output that a call needs beside the tokens set aside for thinking.
pub const ANSWER_TOKENS: u64 = 4_096;

/// Size of a call, as its client asks for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ask {
    /// Bound of the input.
    pub input_tokens: u64,
    /// Limit of each candidate's output; `None`: the client named none.
    pub output_tokens: Option<u64>,
    /// Number of candidates.
    pub candidates: u32,
    /// Tokens set aside for thinking; `None`: the client named none.
    pub thinking_tokens: Option<u64>,
}

/// Limits of a model's output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutputLimits {
    /// Bound where the client names no limit.
    pub max: u64,
    /// Fewest tokens with which a call is worth making, where it names no tokens for thinking.
    pub floor: u64,
}

/// Reservation that a call gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grant {
    /// Amount.
    pub reserved: Money,
    /// Limit of each candidate's output.
    pub output_tokens: u64,
    /// The limit is ours and not the client's.
    pub lowered: bool,
}

/// Refusal of a call that what is left does not cover.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Insufficient {
    /// Amount that the call needs at least.
    pub needed: Money,
}

/// Decides what a call reserves of what is `left`.
///
/// # Errors
/// [`Insufficient`], if its floor does not fit.
pub fn grant(
    ask: &Ask,
    limits: OutputLimits,
    prices: &CallPrices,
    left: Money,
) -> Result<Grant, Insufficient> {
    let candidates = ask.candidates.max(1);
    let wanted = ask.output_tokens.unwrap_or(limits.max);
    let affordable = prices.affordable_output(ask.input_tokens, candidates, left.quarter()).unwrap_or(0);
    // Where the whole limit does not fit, it is ours: then it is never above what the model can do.
    let ours = if affordable < wanted { affordable.min(limits.max) } else { affordable };
    let output_tokens = ours.max(floor(ask, limits)).min(wanted);
    let reserved = prices.bound(ask.input_tokens, output_tokens, candidates);
    if reserved > left {
        return Err(Insufficient { needed: reserved });
    }
    Ok(Grant { reserved, output_tokens, lowered: output_tokens < wanted })
}

/// Returns the fewest output tokens with which a call is worth making.
fn floor(ask: &Ask, limits: OutputLimits) -> u64 {
    match ask.thinking_tokens {
        Some(thinking) => limits.floor.min(FLOOR_TOKENS).max(thinking.saturating_add(ANSWER_TOKENS)),
        None => limits.floor,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ai::prices::{Prices, Rates};

    const LIMITS: OutputLimits = OutputLimits { max: 128_000, floor: FLOOR_TOKENS };

    /// One millionth of a dollar for each token, of input and of output.
    fn prices() -> CallPrices {
        let rate = 1_000_000;
        let rates =
            Rates { input: rate, cache_read: rate, cache_write_5m: rate, cache_write_1h: rate, output: rate };
        CallPrices::recorded(Prices { rates, tiers: Vec::new() })
    }

    fn ask(output_tokens: Option<u64>) -> Ask {
        Ask { input_tokens: 1_000, output_tokens, candidates: 1, thinking_tokens: None }
    }

    fn outcome(ask: Ask, left: u64) -> Result<(u64, u64, bool), u64> {
        let granted = grant(&ask, LIMITS, &prices(), Money::from_micro(left));
        let plain = |grant: Grant| (grant.reserved.micro(), grant.output_tokens, grant.lowered);
        granted.map(plain).map_err(|refused| refused.needed.micro())
    }

    #[test]
    fn bound_within_a_quarter_is_reserved_whole() {
        assert_eq!(outcome(ask(Some(20_000)), 84_000), Ok((21_000, 20_000, false)));
        assert_eq!(outcome(ask(None), 516_000), Ok((129_000, 128_000, false)));
    }

    #[test]
    fn limit_is_lowered_to_a_quarter_of_what_is_left() {
        assert_eq!(outcome(ask(Some(20_000)), 80_000), Ok((20_000, 19_000, true)));
        assert_eq!(outcome(ask(None), 100_000), Ok((25_000, 24_000, true)));
    }

    #[test]
    fn floor_is_granted_while_it_fits_at_all() {
        assert_eq!(outcome(ask(Some(20_000)), 9_192), Ok((9_192, 8_192, true)));
        assert_eq!(outcome(ask(Some(20_000)), 9_191), Err(9_192));
    }

    #[test]
    fn limit_below_the_floor_is_simply_the_clients() {
        assert_eq!(outcome(ask(Some(100)), 1_100), Ok((1_100, 100, false)));
        assert_eq!(outcome(ask(Some(100)), 1_099), Err(1_100));
    }

    #[test]
    fn thinking_is_never_cut() {
        let thinking = |tokens| Ask { thinking_tokens: Some(tokens), ..ask(Some(64_000)) };
        assert_eq!(outcome(thinking(30_000), 40_000), Ok((35_096, 34_096, true)));
        assert_eq!(outcome(thinking(30_000), 35_000), Err(35_096));
        assert_eq!(outcome(thinking(0), 10_000), Ok((9_192, 8_192, true)));
    }

    #[test]
    fn asking_beyond_the_model_reserves_no_more_than_the_model_can_do_unless_it_fits() {
        assert_eq!(outcome(ask(Some(200_000)), 10_000_000), Ok((201_000, 200_000, false)));
        assert_eq!(outcome(ask(Some(9_000_000)), 10_000_000), Ok((129_000, 128_000, true)));
    }

    #[test]
    fn call_without_output_needs_its_input_only() {
        assert_eq!(outcome(ask(Some(0)), 1_000), Ok((1_000, 0, false)));
        assert_eq!(outcome(ask(Some(0)), 999), Err(1_000));
    }

    proptest! {
        #[test]
        fn reservation_fits_and_takes_a_quarter_or_the_floor(
            input_tokens in 0..2_000_000_u64,
            output_tokens in prop::option::of(0..1_000_000_u64),
            candidates in 0..5_u32,
            thinking_tokens in prop::option::of(0..100_000_u64),
            left in 0..10_000_000_u64,
        ) {
            let ask = Ask { input_tokens, output_tokens, candidates, thinking_tokens };
            let left = Money::from_micro(left);
            let floor = floor(&ask, LIMITS).min(output_tokens.unwrap_or(LIMITS.max));
            let least = prices().bound(input_tokens, floor, candidates.max(1));
            match grant(&ask, LIMITS, &prices(), left) {
                Ok(granted) => {
                    let bound = prices().bound(input_tokens, granted.output_tokens, candidates.max(1));
                    prop_assert_eq!(granted.reserved, bound);
                    prop_assert!(granted.reserved <= left);
                    prop_assert!(granted.reserved <= left.quarter() || granted.output_tokens == floor);
                    prop_assert!(granted.output_tokens >= floor);
                    prop_assert_eq!(granted.lowered, granted.output_tokens < output_tokens.unwrap_or(LIMITS.max));
                }
                Err(refused) => prop_assert!(least > left && refused.needed == least),
            }
        }
    }
}
