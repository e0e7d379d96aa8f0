//! Price table: a file with the models of each provider. The built-in one is made by `cargo xtask ai-prices`.

use std::collections::BTreeMap;

use rigbox_core::ai::prices::{Options, Prices, Rates, ServiceTiers};
use rigbox_core::ai::provider::Provider;
use rigbox_core::ai::reservation::{FLOOR_TOKENS, REASONING_FLOOR_TOKENS};
use serde::Deserialize;

/// The built-in table.
pub(super) const BUILT_IN: &str = include_str!("../../data/ai-prices.json");

/// Bound of a price, in millionths of a dollar per million tokens: a dollar for each token. A higher one is in another unit.
const MAX_RATE: u64 = 1_000_000_000_000;
/// Speed that no model exceeds.
const MAX_TOKENS_PER_SECOND: u64 = 1_000;
/// Tokens of a picture, a page or a second of sound, where the table does not tell.
const MAX_TOKENS_PER_IMAGE: u64 = 10_000;

/// Price table.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PriceTable {
    /// Day of the prices.
    pub(super) date: String,
    /// Origin of the prices.
    pub(super) source: String,
    /// Models by provider and id.
    pub(super) models: BTreeMap<Provider, BTreeMap<String, ModelEntry>>,
}

/// Model in a table.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelEntry {
    /// Name of the upstream; by default the one of the provider's name, or else the provider's first.
    pub upstream: Option<String>,
    /// Bound of a call's input.
    pub context_tokens: u64,
    /// Bound of a call's output.
    #[serde(default)]
    pub max_output_tokens: u64,
    /// The model may think before it answers.
    #[serde(default)]
    pub reasons: bool,
    /// The model turns a text into a vector, and has no output.
    #[serde(default)]
    pub embeds: bool,
    /// Fewest output tokens with which a call is worth making.
    pub floor_tokens: Option<u64>,
    /// Bound of the output's speed.
    #[serde(default = "max_tokens_per_second")]
    pub max_tokens_per_second: u64,
    /// Bound of the tokens of a picture, a page or a second of sound.
    #[serde(default = "max_tokens_per_image")]
    pub max_tokens_per_image: u64,
    /// Prices.
    pub prices: Prices,
    /// Prices of the provider's service tiers.
    #[serde(default)]
    pub service_tiers: ServiceTiers,
    /// Factors of other options.
    #[serde(default)]
    pub options: Options,
}

/// Error of a price table.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    /// The file cannot be read.
    #[error("{path}: {problem}")]
    File {
        /// Path of the file.
        path: String,
        /// Problem with the file.
        problem: String,
    },
    /// The file is no table.
    #[error("the price table is invalid: {0}")]
    Syntax(String),
    /// A model's numbers cannot be right.
    #[error("the price of {provider} {model} is invalid: {problem}")]
    Model {
        /// Provider.
        provider: Provider,
        /// Model.
        model: String,
        /// Problem with the model.
        problem: &'static str,
    },
}

fn max_tokens_per_second() -> u64 {
    MAX_TOKENS_PER_SECOND
}

fn max_tokens_per_image() -> u64 {
    MAX_TOKENS_PER_IMAGE
}

impl ModelEntry {
    /// Returns the fewest output tokens with which a call is worth making.
    pub fn floor(&self) -> u64 {
        let default = if self.reasons { REASONING_FLOOR_TOKENS } else { FLOOR_TOKENS };
        self.floor_tokens.unwrap_or(default).min(self.max_output_tokens)
    }

    fn check(&self) -> Result<(), &'static str> {
        check_prices(&self.prices)?;
        self.service_tiers.values().try_for_each(check_prices)?;
        if self.service_tiers.keys().any(|tier| self.options.contains_key(tier)) {
            return Err("a name is in `service_tiers` and in `options`");
        }
        if self.context_tokens == 0 || self.max_tokens_per_second == 0 {
            return Err("a bound is 0");
        }
        if self.embeds != (self.max_output_tokens == 0) {
            return Err("a model has either `max_output_tokens` or `embeds`");
        }
        Ok(())
    }
}

fn check_prices(prices: &Prices) -> Result<(), &'static str> {
    let all = std::iter::once(&prices.rates).chain(prices.tiers.iter().map(|tier| &tier.rates));
    for rates in all {
        let Rates { input, cache_read, cache_write_5m, cache_write_1h, output } = *rates;
        if [input, cache_read, cache_write_5m, cache_write_1h, output].iter().any(|rate| *rate > MAX_RATE) {
            return Err("prices are in millionths of a dollar per million tokens");
        }
    }
    if !prices.tiers.is_sorted_by(|a, b| a.above_tokens < b.above_tokens) {
        return Err("tiers are not in ascending order");
    }
    Ok(())
}

impl PriceTable {
    /// Parses a table and checks it.
    pub(super) fn parse(text: &str) -> Result<Self, TableError> {
        let table: Self =
            serde_json::from_str(text).map_err(|error| TableError::Syntax(error.to_string()))?;
        for (provider, models) in &table.models {
            for (model, entry) in models {
                let error =
                    |problem| TableError::Model { provider: *provider, model: model.clone(), problem };
                entry.check().map_err(error)?;
            }
        }
        Ok(table)
    }

    /// Adds the models of another table, which replace those of the same id.
    pub(super) fn extend(&mut self, other: Self) {
        for (provider, models) in other.models {
            self.models.entry(provider).or_default().extend(models);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn built_in_table_has_prices_of_known_models() {
        let table = PriceTable::parse(BUILT_IN).unwrap();
        // Published by the providers on the day of the table.
        for (provider, model, input, cache_read, output) in [
            (Provider::Anthropic, "claude-opus-4-6", 5_000_000, 500_000, 25_000_000),
            (Provider::Anthropic, "claude-sonnet-4-5", 3_000_000, 300_000, 15_000_000),
            (Provider::OpenAi, "gpt-5.4", 2_500_000, 250_000, 15_000_000),
            (Provider::Google, "gemini-2.5-flash", 300_000, 30_000, 2_500_000),
        ] {
            let rates = table.models[&provider][model].prices.rates;
            assert_eq!((rates.input, rates.cache_read, rates.output), (input, cache_read, output), "{model}");
        }
        let opus = &table.models[&Provider::Anthropic]["claude-opus-4-6"];
        assert_eq!(
            (opus.prices.rates.cache_write_5m, opus.prices.rates.cache_write_1h),
            (6_250_000, 10_000_000)
        );
        assert_eq!((opus.floor(), opus.options["us"].output), (REASONING_FLOOR_TOKENS, 1_100_000));
        let tiers = &table.models[&Provider::OpenAi]["gpt-5.4"].prices.tiers;
        assert_eq!((tiers.len(), tiers[0].above_tokens, tiers[0].rates.output), (1, 272_000, 22_500_000));
        let flex = &table.models[&Provider::Google]["gemini-2.5-flash"].service_tiers["flex"].rates;
        assert_eq!(
            (flex.input, flex.cache_read, flex.output),
            (150_000, 30_000, 1_250_000),
            "no cheaper cache"
        );
        let priority = &table.models[&Provider::OpenAi]["gpt-5.4"].service_tiers["priority"];
        assert_eq!((priority.rates.input, priority.tiers.len()), (5_000_000, 1));
        assert!(table.models[&Provider::OpenAi]["text-embedding-3-small"].embeds);
        let fewest = [(Provider::Anthropic, 15), (Provider::OpenAi, 60), (Provider::Google, 10)];
        assert!(fewest.iter().all(|(provider, fewest)| table.models[provider].len() >= *fewest));
    }

    #[test]
    fn floor_is_never_above_what_the_model_can_do() {
        let table = PriceTable::parse(BUILT_IN).unwrap();
        for (model, entry) in table.models.values().flatten().filter(|(_, entry)| !entry.embeds) {
            assert!(entry.floor() <= entry.max_output_tokens && entry.floor() > 0, "{model}");
        }
    }

    #[test]
    fn table_with_numbers_that_cannot_be_right_is_refused_by_name() {
        let rates = r#"{"input":1,"cache_read":1,"cache_write_5m":1,"cache_write_1h":1,"output":1}"#;
        let table = |model: &str| {
            let text = format!(r#"{{"date":"d","source":"s","models":{{"openai":{{"m":{model}}}}}}}"#);
            PriceTable::parse(&text).map_err(|error| error.to_string())
        };
        let good = format!(r#"{{"context_tokens":1,"max_output_tokens":1,"prices":{{"rates":{rates}}}}}"#);
        let with_tiers = |model: &str, rates: &str| {
            let tiers = format!(r#"{{"flex":{{"rates":{rates}}}}}"#);
            let options = r#"{"us":{"input":1,"output":1}}"#;
            format!(
                r#"{},"service_tiers":{tiers},"options":{options}}}"#,
                model.trim_end_matches('}').to_owned() + "}}"
            )
        };
        table(&good).unwrap();
        table(&with_tiers(&good, rates)).unwrap();
        for (bad, expected) in [
            (good.replace("\"output\":1", "\"output\":2000000000000"), "openai m"),
            (good.replace("\"context_tokens\":1", "\"context_tokens\":0"), "a bound is 0"),
            (good.replace("\"max_output_tokens\":1", "\"embeds\":false"), "max_output_tokens"),
            (with_tiers(&good, &rates.replace("\"input\":1", "\"input\":2000000000000")), "openai m"),
            (with_tiers(&good, rates).replace("\"us\"", "\"flex\""), "a name is in"),
            (good.replace("\"input\":1,", ""), "input"),
            (good.replace("\"context_tokens\"", "\"context\""), "unknown field"),
        ] {
            let error = table(&bad).unwrap_err();
            assert!(error.contains(expected), "{bad}: {error}");
        }
    }
}
