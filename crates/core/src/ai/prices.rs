//! Prices of a model, the bound of a call and its cost. All numbers are integers, and amounts are rounded up once, at the end.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::money::Money;

/// Tokens that a price is for.
const PER_TOKENS: u128 = 1_000_000;
/// Scale of factors: this many is 1.
pub const FACTOR_ONE: u64 = 1_000_000;
/// Option of a call that writes into a cache that lives for an hour or longer.
pub const LONG_CACHE: &str = "cache_1h";

/// Prices in millionths of a US dollar per million tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rates {
    /// Input that no cache has to do with.
    pub input: u64,
    /// Input read from a cache.
    pub cache_read: u64,
    /// Input written into a cache for some minutes.
    pub cache_write_5m: u64,
    /// Input written into a cache for an hour or longer.
    pub cache_write_1h: u64,
    /// Output, reasoning included.
    pub output: u64,
}

/// Prices of calls whose input is longer than a number of tokens. They hold for the whole call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tier {
    /// Number of tokens above which these prices hold.
    pub above_tokens: u64,
    /// The prices.
    pub rates: Rates,
}

/// Prices of a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prices {
    /// Prices of short calls.
    pub rates: Rates,
    /// Prices of longer ones, in ascending order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tiers: Vec<Tier>,
}

/// Factors of an option, in millionths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Factor {
    /// Factor of all input, caches included.
    pub input: u64,
    /// Factor of output.
    pub output: u64,
}

/// Factors by option.
pub type Options = BTreeMap<String, Factor>;

/// Prices by service tier of the provider, such as `flex`. A tier is an option with prices of its own, in place of the ordinary ones,
/// because no factor is right for input, caches and output.
pub type ServiceTiers = BTreeMap<String, Prices>;

/// Error for an option that has no price for the model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the option `{0}` has no price for this model")]
pub struct UnknownOption(pub String);

/// Prices of one call, with the factors of its options in them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallPrices {
    prices: Prices,
    writes_long_cache: bool,
}

/// Tokens of a call by kind. No token is in two of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Input that no cache has to do with.
    pub input: u64,
    /// Input read from a cache.
    pub cache_read: u64,
    /// Input written into a cache for some minutes.
    pub cache_write_5m: u64,
    /// Input written into a cache for an hour or longer.
    pub cache_write_1h: u64,
    /// Output, reasoning included.
    pub output: u64,
    /// Part of `output`, for the record.
    pub reasoning: u64,
}

impl Usage {
    /// Returns all input.
    pub fn total_input(&self) -> u64 {
        let parts = [self.cache_read, self.cache_write_5m, self.cache_write_1h];
        parts.into_iter().fold(self.input, u64::saturating_add)
    }
}

impl Rates {
    fn times(self, factor: Factor) -> Self {
        let input = |rate| scaled(rate, factor.input);
        Self {
            input: input(self.input),
            cache_read: input(self.cache_read),
            cache_write_5m: input(self.cache_write_5m),
            cache_write_1h: input(self.cache_write_1h),
            output: scaled(self.output, factor.output),
        }
    }

    fn dearest_input(self, writes_long_cache: bool) -> u64 {
        let long = if writes_long_cache { self.cache_write_1h } else { 0 };
        self.input.max(self.cache_read).max(self.cache_write_5m).max(long)
    }
}

fn scaled(rate: u64, factor: u64) -> u64 {
    let product = u128::from(rate) * u128::from(factor);
    u64::try_from(product.div_ceil(u128::from(FACTOR_ONE))).unwrap_or(u64::MAX)
}

impl Prices {
    /// Returns the prices of a call with these options.
    ///
    /// # Errors
    /// [`UnknownOption`], if one of them has no price.
    pub fn of_call<'a>(
        &self,
        service_tiers: &ServiceTiers,
        factors: &Options,
        options: impl IntoIterator<Item = &'a str>,
    ) -> Result<CallPrices, UnknownOption> {
        let (tiers, others): (Vec<_>, Vec<_>) =
            options.into_iter().partition(|option| service_tiers.contains_key(*option));
        // A request names one.
        let own = tiers.first().and_then(|tier| service_tiers.get(*tier)).unwrap_or(self);
        let mut call = CallPrices::recorded(own.clone());
        for option in others {
            if option == LONG_CACHE {
                call.writes_long_cache = true;
                continue;
            }
            let factor =
                factors.get(option).ok_or_else(|| UnknownOption(option.chars().take(64).collect()))?;
            call.prices.rates = call.prices.rates.times(*factor);
            for tier in &mut call.prices.tiers {
                tier.rates = tier.rates.times(*factor);
            }
        }
        Ok(call)
    }
}

impl CallPrices {
    /// Returns the prices that were recorded for a call, which is enough to tell its cost.
    pub fn recorded(prices: Prices) -> Self {
        Self { prices, writes_long_cache: false }
    }

    /// Returns the prices of a call that costs nothing.
    pub fn free() -> Self {
        let rates = Rates { input: 0, cache_read: 0, cache_write_5m: 0, cache_write_1h: 0, output: 0 };
        Self::recorded(Prices { rates, tiers: Vec::new() })
    }

    /// Returns the prices to record.
    pub fn to_record(&self) -> &Prices {
        &self.prices
    }

    /// Returns the most that a call with at most these tokens costs, at the dearest class and tier.
    pub fn bound(&self, input_tokens: u64, output_tokens: u64, candidates: u32) -> Money {
        let (input, output) = self.dearest(input_tokens);
        let all_output = u128::from(output_tokens).saturating_mul(u128::from(candidates));
        let output = all_output.saturating_mul(u128::from(output));
        amount(product(input_tokens, input).saturating_add(output))
    }

    /// Returns the largest limit of each candidate's output with which the bound is at most `budget`; `None`, if there is none.
    pub fn affordable_output(&self, input_tokens: u64, candidates: u32, budget: Money) -> Option<u64> {
        let (input, output) = self.dearest(input_tokens);
        let budget = u128::from(budget.micro()) * PER_TOKENS;
        let left = budget.checked_sub(product(input_tokens, input))?;
        let each = u128::from(candidates.max(1)).saturating_mul(u128::from(output));
        Some(left.checked_div(each).map_or(u64::MAX, |tokens| u64::try_from(tokens).unwrap_or(u64::MAX)))
    }

    /// Returns what a call has cost. Its tier follows from the whole input.
    pub fn cost(&self, usage: &Usage) -> Money {
        let total = usage.total_input();
        let tier = self.prices.tiers.iter().rev().find(|tier| total > tier.above_tokens);
        let rates = tier.map_or(self.prices.rates, |tier| tier.rates);
        let parts = [
            (usage.input, rates.input),
            (usage.cache_read, rates.cache_read),
            (usage.cache_write_5m, rates.cache_write_5m),
            (usage.cache_write_1h, rates.cache_write_1h),
            (usage.output, rates.output),
        ];
        amount(parts.into_iter().fold(0, |sum, (tokens, rate)| sum.saturating_add(product(tokens, rate))))
    }

    /// Returns the dearest prices of input and output that a call with at most this much input reaches.
    fn dearest(&self, input_tokens: u64) -> (u64, u64) {
        let reached = self.prices.tiers.iter().filter(|tier| input_tokens > tier.above_tokens);
        let all = std::iter::once(self.prices.rates).chain(reached.map(|tier| tier.rates));
        all.fold((0, 0), |(input, output), rates| {
            (input.max(rates.dearest_input(self.writes_long_cache)), output.max(rates.output))
        })
    }
}

fn product(tokens: u64, rate: u64) -> u128 {
    u128::from(tokens) * u128::from(rate)
}

fn amount(product: u128) -> Money {
    Money::from_micro(u64::try_from(product.div_ceil(PER_TOKENS)).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rates() -> impl Strategy<Value = Rates> {
        prop::array::uniform5(0..200_000_000_u64).prop_map(
            |[input, cache_read, cache_write_5m, cache_write_1h, output]| Rates {
                input,
                cache_read,
                cache_write_5m,
                cache_write_1h,
                output,
            },
        )
    }

    fn prices() -> impl Strategy<Value = Prices> {
        let tiers = prop::collection::btree_map(1..500_000_u64, rates(), 0..3);
        let tier = |(above_tokens, rates)| Tier { above_tokens, rates };
        (rates(), tiers)
            .prop_map(move |(rates, tiers)| Prices { rates, tiers: tiers.into_iter().map(tier).collect() })
    }

    fn call() -> impl Strategy<Value = CallPrices> {
        let factor = (1..5_000_000_u64, 1..5_000_000_u64);
        (prices(), factor, any::<bool>(), any::<bool>()).prop_map(|(prices, (input, output), long, fast)| {
            let factors = Options::from([("fast".to_owned(), Factor { input, output })]);
            let options = [(long, LONG_CACHE), (fast, "fast")];
            let options = options.into_iter().filter_map(|(is_set, option)| is_set.then_some(option));
            prices.of_call(&ServiceTiers::new(), &factors, options).unwrap()
        })
    }

    proptest! {
        #[test]
        fn cost_of_what_is_within_the_limits_is_within_the_bound(
            call in call(),
            input in prop::array::uniform4(0..400_000_u64),
            outputs in prop::collection::vec(0..200_000_u64, 1..5),
            spare in 0..100_000_u64,
        ) {
            let [input, cache_read, cache_write_5m, long] = input;
            let cache_write_1h = if call.writes_long_cache { long } else { 0 };
            let output = outputs.iter().sum();
            let usage = Usage { input, cache_read, cache_write_5m, cache_write_1h, output, reasoning: 0 };
            let each = outputs.iter().max().copied().unwrap_or(0);
            let candidates = u32::try_from(outputs.len()).unwrap();
            let bound = call.bound(usage.total_input() + spare, each, candidates);
            prop_assert!(call.cost(&usage) <= bound);
        }

        #[test]
        fn affordable_output_is_the_largest_that_fits(
            call in call(),
            input in 0..1_000_000_u64,
            candidates in 1..8_u32,
            budget in 0..100_000_000_u64,
        ) {
            let budget = Money::from_micro(budget);
            match call.affordable_output(input, candidates, budget) {
                Some(u64::MAX) => prop_assert!(call.bound(input, 1_000_000_000, candidates) <= budget),
                Some(limit) => {
                    prop_assert!(call.bound(input, limit, candidates) <= budget);
                    prop_assert!(call.bound(input, limit + 1, candidates) > budget);
                }
                None => prop_assert!(call.bound(input, 0, candidates) > budget),
            }
        }
    }

    const RATES: Rates = Rates {
        input: 3_000_000,
        cache_read: 300_000,
        cache_write_5m: 3_750_000,
        cache_write_1h: 6_000_000,
        output: 15_000_000,
    };

    #[test]
    fn cost_is_rounded_up_once() {
        let call = CallPrices::recorded(Prices { rates: RATES, tiers: Vec::new() });
        let one = Usage { cache_read: 1, ..Usage::default() };
        assert_eq!(call.cost(&one).micro(), 1);
        let usage = Usage { input: 1_000, cache_read: 10_000, cache_write_5m: 7, output: 500, ..one };
        assert_eq!(call.cost(&usage).micro(), 3_000 + 3_000 + 27 + 7_500);
    }

    #[test]
    fn tier_follows_from_the_whole_input_and_holds_for_the_whole_call() {
        let double = RATES.times(Factor { input: 2 * FACTOR_ONE, output: 2 * FACTOR_ONE });
        let tiers = vec![Tier { above_tokens: 200_000, rates: double }];
        let call = CallPrices::recorded(Prices { rates: RATES, tiers });
        let usage = |cache_read| Usage { input: 1, cache_read, output: 10, ..Usage::default() };
        assert_eq!(
            call.cost(&usage(199_999)).micro(),
            (3_000_000 + 199_999 * 300_000_u64 + 150_000_000).div_ceil(1_000_000)
        );
        assert_eq!(
            call.cost(&usage(200_000)).micro(),
            (6_000_000 + 200_000 * 600_000_u64 + 300_000_000).div_ceil(1_000_000)
        );
    }

    #[test]
    fn bound_counts_a_long_cache_only_where_the_call_writes_one() {
        let prices = Prices { rates: RATES, tiers: Vec::new() };
        let bound = |options: &[&str]| {
            let call =
                prices.of_call(&ServiceTiers::new(), &Options::new(), options.iter().copied()).unwrap();
            call.bound(1_000_000, 0, 1).micro()
        };
        assert_eq!((bound(&[]), bound(&[LONG_CACHE])), (3_750_000, 6_000_000));
    }

    #[test]
    fn service_tier_has_prices_of_its_own_to_which_factors_apply() {
        let ordinary = Prices { rates: RATES, tiers: Vec::new() };
        let cheaper = Rates { input: 1_500_000, output: 7_500_000, ..RATES };
        let long = Tier { above_tokens: 200_000, rates: RATES };
        let flex = Prices { rates: cheaper, tiers: vec![long] };
        let tiers = ServiceTiers::from([("flex".to_owned(), flex.clone())]);
        let factors =
            Options::from([("fast".to_owned(), Factor { input: 2 * FACTOR_ONE, output: FACTOR_ONE })]);
        let call = |options: &[&str]| ordinary.of_call(&tiers, &factors, options.iter().copied()).unwrap();
        assert_eq!((call(&[]).to_record(), call(&["flex"]).to_record()), (&ordinary, &flex));
        // The cache is no cheaper in this tier.
        let usage = Usage { input: 100, cache_read: 1_000, output: 10, ..Usage::default() };
        assert_eq!(call(&["flex"]).cost(&usage).micro(), 150 + 300 + 75);
        // Whatever the order of the names is.
        for options in [["fast", "flex"], ["flex", "fast"]] {
            assert_eq!(call(&options).cost(&usage).micro(), 300 + 600 + 75);
        }
    }

    #[test]
    fn option_without_a_price_is_refused_by_name() {
        let prices = Prices { rates: RATES, tiers: Vec::new() };
        let error = prices.of_call(&ServiceTiers::new(), &Options::new(), ["fast"]).unwrap_err();
        assert_eq!(error, UnknownOption("fast".to_owned()));
    }

    #[test]
    fn absurd_numbers_exceed_every_budget() {
        let call = CallPrices::recorded(Prices { rates: RATES, tiers: Vec::new() });
        assert_eq!(call.bound(u64::MAX, u64::MAX, u32::MAX), Money::MAX);
        assert_eq!(call.affordable_output(u64::MAX, u32::MAX, Money::from_dollars(1)), None);
    }
}
