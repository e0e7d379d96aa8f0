//! Conversion of LiteLLM's data into our table. A model with a price that the ledger does not model is left out, and named with the reason.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

/// Models of a provider, by id.
pub(super) type Models = BTreeMap<String, Value>;
/// Models by provider.
pub(super) type Table = BTreeMap<String, Models>;

/// Providers: LiteLLM's name, ours, and the most tokens that a picture, a page or a second of sound becomes.
const PROVIDERS: [(&str, &str, u64); 3] =
    [("anthropic", "anthropic", 6_000), ("openai", "openai", 10_000), ("gemini", "google", 6_000)];
/// Models that count a picture with a multiple of its tokens.
const COSTLY_IMAGES: (&str, u64) = ("gpt-4o-mini", 50_000);

/// Price classes of ours, with LiteLLM's names. The first one that is there holds.
const CLASSES: [(&str, &[&str]); 5] = [
    ("input", &["input_cost_per_token"]),
    ("cache_read", &["cache_read_input_token_cost"]),
    ("cache_write_5m", &["cache_creation_input_token_cost"]),
    (
        "cache_write_1h",
        &["cache_creation_input_token_cost_above_1hr", "cache_creation_input_token_cost_above_12hr"],
    ),
    ("output", &["output_cost_per_token"]),
];
/// Service tiers, by the suffix of their prices.
const SERVICE_TIERS: [&str; 3] = ["priority", "flex", "ultrafast"];
/// Prices of output that is no text.
const OTHER_OUTPUT: [&str; 4] = [
    "output_cost_per_image",
    "output_cost_per_image_token",
    "output_cost_per_audio_token",
    "output_cost_per_video_token",
];
/// Prices of input that no option stands for.
const OTHER_INPUT: [&str; 2] = ["input_cost_per_image_token", "input_cost_per_video_token"];
/// Parts of ids: fine-tuned models are objects at the provider, and the others cannot do without a hosted tool or without sound.
const OTHER_IDS: [&str; 6] = ["ft:", "search", "deep-research", "container", "-tts", "lyria"];

/// Millionths of a dollar per million tokens in a dollar per token.
const PER_TOKEN: f64 = 1e12;
const FACTOR_ONE: u64 = 1_000_000;

/// Converts all models.
pub(super) fn table(source: &Value) -> Result<Table> {
    let mut table = Table::new();
    for (name, entry) in source.as_object().context("the data is no object")? {
        let provider = entry.get("litellm_provider").and_then(Value::as_str);
        let Some((theirs, ours, image)) =
            PROVIDERS.into_iter().find(|(theirs, ..)| Some(*theirs) == provider)
        else {
            continue;
        };
        let id = name.strip_prefix(&format!("{theirs}/")).unwrap_or(name);
        match model(id, entry, image) {
            Ok(model) => drop(table.entry(ours.to_owned()).or_default().insert(id.to_owned(), model)),
            Err(reason) => eprintln!("left out {name}: {reason}"),
        }
    }
    Ok(table)
}

fn model(id: &str, entry: &Value, image: u64) -> Result<Value, String> {
    let mode = entry.get("mode").and_then(Value::as_str).unwrap_or_default();
    let embeds = match mode {
        "chat" | "responses" => false,
        "embedding" => true,
        other => return Err(format!("mode {other}")),
    };
    check_kind(id, entry)?;
    let base = rates(entry, "").ok_or("no price per token")?;
    if base.values().all(|rate| *rate == 0) || (!embeds && base.get("output") == Some(&0)) {
        return Err("no price per token".to_owned());
    }
    let tokens = |field: &str| entry.get(field).and_then(Value::as_u64);
    let mut model = Map::new();
    model.insert("context_tokens".to_owned(), json!(tokens("max_input_tokens").ok_or("no context window")?));
    if embeds {
        model.insert("embeds".to_owned(), json!(true));
    } else {
        model.insert(
            "max_output_tokens".to_owned(),
            json!(tokens("max_output_tokens").ok_or("no bound of output")?),
        );
    }
    if entry.get("supports_reasoning").and_then(Value::as_bool) == Some(true) {
        model.insert("reasons".to_owned(), json!(true));
    }
    let image = if id.starts_with(COSTLY_IMAGES.0) { COSTLY_IMAGES.1 } else { image };
    model.insert("max_tokens_per_image".to_owned(), json!(image));
    model.insert("prices".to_owned(), prices(&base, tiers(entry, "", &base)));
    let service_tiers = service_tiers(entry, &base);
    if !service_tiers.is_empty() {
        model.insert("service_tiers".to_owned(), Value::Object(service_tiers));
    }
    let options = options(entry, &base);
    if !options.is_empty() {
        model.insert("options".to_owned(), Value::Object(options));
    }
    Ok(Value::Object(model))
}

/// Checks that the model's prices are those that the ledger has classes for.
fn check_kind(id: &str, entry: &Value) -> Result<(), String> {
    if let Some(part) = OTHER_IDS.iter().find(|part| id.contains(**part)) {
        return Err(format!("its kind ({part})"));
    }
    let modalities = entry.get("supported_output_modalities").and_then(Value::as_array);
    // Pictures without a price are those of a hosted tool, which is refused.
    if modalities.is_some_and(|all| all.iter().any(|one| one != "text" && one != "image")) {
        return Err("output that is no text".to_owned());
    }
    for field in OTHER_OUTPUT.iter().chain(&OTHER_INPUT) {
        if price(entry, field).is_some_and(|price| price > 0) {
            return Err(format!("a price without a class ({field})"));
        }
    }
    let reasoning = price(entry, "output_cost_per_reasoning_token");
    if reasoning.is_some() && reasoning != price(entry, "output_cost_per_token") {
        return Err("a price of its own for reasoning".to_owned());
    }
    Ok(())
}

type Rates = BTreeMap<&'static str, u64>;

/// Returns the prices whose names end with `suffix`; `None`, if there is none for input.
fn rates(entry: &Value, suffix: &str) -> Option<Rates> {
    let find = |names: &[&str]| names.iter().find_map(|name| price(entry, &format!("{name}{suffix}")));
    let input = find(&["input_cost_per_token"])?;
    // A provider without a price for writing into its cache takes that of input.
    let rate = |(class, names): (&'static str, &[&str])| {
        (class, find(names).unwrap_or(if class == "output" { 0 } else { input }))
    };
    let mut rates: Rates = CLASSES.into_iter().map(rate).collect();
    // Where only one lifetime has a price, the longer one is not cheaper.
    let short = rates.get("cache_write_5m").copied().unwrap_or(input);
    let long = rates.entry("cache_write_1h").or_insert(short);
    *long = (*long).max(short);
    Some(rates)
}

/// Returns the prices whose names end with `suffix`. A class without one of its own keeps its ratio to input in `base`.
fn rates_beside(entry: &Value, suffix: &str, base: &Rates) -> Option<Rates> {
    let own = rates(entry, suffix)?;
    let input = |rates: &Rates| rates.get("input").copied().unwrap_or(1).max(1);
    let rate = |class: &&'static str| {
        let name = CLASSES.iter().find(|(name, _)| name == class).map_or(&[][..], |(_, names)| names);
        let is_own = name.iter().any(|name| price(entry, &format!("{name}{suffix}")).is_some());
        let scaled = base.get(class).copied().unwrap_or(0) * input(&own) / input(base);
        (*class, if is_own { own.get(class).copied().unwrap_or(0) } else { scaled })
    };
    Some(own.keys().map(rate).collect())
}

/// Returns the tiers of longer calls, in ascending order.
fn tiers(entry: &Value, suffix: &str, base: &Rates) -> BTreeMap<u64, Rates> {
    let fields = entry.as_object().into_iter().flatten().map(|(field, _)| field.as_str());
    let above = fields.filter_map(|field| {
        let number = field.strip_prefix("input_cost_per_token_above_")?.strip_suffix(suffix)?;
        number.strip_suffix("k_tokens")?.parse::<u64>().ok()
    });
    let tier = |thousands: u64| {
        let own = rates_beside(entry, &format!("_above_{thousands}k_tokens{suffix}"), base)?;
        Some((thousands * 1_000, own))
    };
    above.filter_map(tier).collect()
}

/// Returns the prices of the service tiers that have any. One without prices of longer calls raises them as the ordinary prices do.
fn service_tiers(entry: &Value, base: &Rates) -> Map<String, Value> {
    let ordinary = tiers(entry, "", base);
    let prices_of = |name: &str| {
        let suffix = format!("_{name}");
        let rates = rates_beside(entry, &suffix, base)?;
        let raised = |longer: &Rates| -> Rates {
            let of = |rates: &Rates, class: &str| rates.get(class).copied().unwrap_or(0);
            let rate = |(class, rate): (&&'static str, &u64)| {
                (*class, (rate * of(longer, class)).div_ceil(of(base, class).max(1)))
            };
            rates.iter().map(rate).collect()
        };
        let mut longer: BTreeMap<u64, Rates> =
            ordinary.iter().map(|(above, rates)| (*above, raised(rates))).collect();
        longer.extend(tiers(entry, &suffix, &rates));
        Some((name.to_owned(), prices(&rates, longer)))
    };
    SERVICE_TIERS.into_iter().filter_map(prices_of).collect()
}

fn prices(rates: &Rates, tiers: BTreeMap<u64, Rates>) -> Value {
    let tier = |(above, rates): (u64, Rates)| json!({ "above_tokens": above, "rates": rates });
    let tiers: Vec<Value> = tiers.into_iter().map(tier).collect();
    if tiers.is_empty() { json!({ "rates": rates }) } else { json!({ "rates": rates, "tiers": tiers }) }
}

/// Returns the factors of the options that have a price.
fn options(entry: &Value, base: &Rates) -> Map<String, Value> {
    let mut options = Map::new();
    let both = |factor: u64| json!({ "input": factor, "output": factor });
    for (option, factor) in
        entry.get("provider_specific_entry").and_then(Value::as_object).into_iter().flatten()
    {
        if let Some(factor) = factor.as_f64() {
            options.insert(option.clone(), both((factor * FACTOR_ONE as f64).round() as u64));
        }
    }
    let takes_audio = entry.get("supports_audio_input").and_then(Value::as_bool) == Some(true);
    let input = base.get("input").copied().unwrap_or(0).max(1);
    match price(entry, "input_cost_per_audio_token") {
        Some(audio) => {
            let factor = (audio * FACTOR_ONE).div_ceil(input).max(FACTOR_ONE);
            options.insert("audio".to_owned(), json!({ "input": factor, "output": FACTOR_ONE }));
        }
        None if takes_audio => drop(options.insert("audio".to_owned(), both(FACTOR_ONE))),
        None => {}
    }
    options
}

fn price(entry: &Value, field: &str) -> Option<u64> {
    let price = entry.get(field)?.as_f64()?;
    Some((price * PER_TOKEN).round() as u64)
}
