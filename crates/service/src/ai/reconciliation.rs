//! Comparison of a day's records with a provider's own report of usage. Reports are CSV or JSON, with the columns of the providers' exports.

use std::collections::{BTreeMap, BTreeSet};

use rigbox_core::ai::money::Money;
use rigbox_core::ai::provider::Provider;
use rigbox_core::time::{DAY_MS, Timestamp};
use rigbox_store::{AiModelSum, Store};
use serde_json::Value;
use time::macros::format_description;
use time::{Date, OffsetDateTime};

/// Names of the columns of a report. Anthropic splits input by cache, OpenAI's input has the cached part in it.
const MODEL: &[&str] = &["model", "model_version", "snapshot_id"];
const INPUT: &[&str] = &[
    "input_tokens",
    "n_context_tokens_total",
    "usage_input_tokens_no_cache",
    "usage_input_tokens_cache_read",
    "usage_input_tokens_cache_write_5m",
    "usage_input_tokens_cache_write_1h",
    "uncached_input_tokens",
    "cache_read_input_tokens",
    "ephemeral_5m_input_tokens",
    "ephemeral_1h_input_tokens",
];
const OUTPUT: &[&str] = &["output_tokens", "n_generated_tokens_total", "usage_output_tokens"];
const COST: &[&str] = &["cost", "cost_usd", "amount", "cost_in_usd"];

/// Usage of a model.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ModelUsage {
    /// Input, caches included.
    pub input_tokens: u64,
    /// Output.
    pub output_tokens: u64,
    /// Cost, if the report tells it.
    pub cost: Option<Money>,
}

/// Comparison of a model's usage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Comparison {
    /// Model.
    pub model: String,
    /// Sums of our records, and the number of those that are estimated.
    pub recorded: ModelUsage,
    /// Calls whose usage is estimated.
    pub estimated: u64,
    /// Sums of the report.
    pub reported: ModelUsage,
}

/// Error of a report.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReportError {
    /// The text is neither CSV nor JSON.
    #[error("the report is neither CSV with a header nor a JSON array of objects")]
    Syntax,
    /// A column is missing.
    #[error("the report has no column for the {0}; it is called one of: {1}")]
    Column(&'static str, String),
    /// The text is no valid CSV.
    #[error("the report is not valid CSV: {0}")]
    Csv(String),
    /// A number is not one.
    #[error("line {0}: `{1}` is no number")]
    Number(u64, String),
}

impl Comparison {
    /// Returns whether records and report agree. A report without costs agrees in tokens alone.
    pub fn agrees(&self) -> bool {
        let tokens = |usage: &ModelUsage| (usage.input_tokens, usage.output_tokens);
        let cost = self.reported.cost.is_none_or(|cost| Some(cost) == self.recorded.cost);
        tokens(&self.recorded) == tokens(&self.reported) && cost
    }
}

/// Reads a day such as `2026-11-27`, as days since 1970-01-01.
pub fn parse_day(text: &str) -> Option<i64> {
    let date = Date::parse(text, format_description!("[year]-[month]-[day]")).ok()?;
    Some((date.midnight().assume_utc() - OffsetDateTime::UNIX_EPOCH).whole_days())
}

/// Compares the records of a day (days since 1970-01-01, in UTC) with a report.
///
/// # Errors
/// [`rigbox_store::Error`]
pub async fn compare(
    store: &Store,
    provider: Provider,
    day: i64,
    report: &BTreeMap<String, ModelUsage>,
) -> Result<Vec<Comparison>, rigbox_store::Error> {
    let at = |day: i64| Timestamp::from_unix_ms(day.saturating_mul(DAY_MS));
    let recorded = store.ai_model_sums(provider.as_str(), at(day), at(day + 1)).await?;
    Ok(side_by_side(&recorded, report))
}

fn side_by_side(recorded: &[AiModelSum], report: &BTreeMap<String, ModelUsage>) -> Vec<Comparison> {
    let ours: BTreeMap<&str, &AiModelSum> = recorded.iter().map(|sum| (sum.model.as_str(), sum)).collect();
    let models: BTreeSet<&str> = ours.keys().copied().chain(report.keys().map(String::as_str)).collect();
    let comparison = |model: &str| {
        let sum = ours.get(model);
        let recorded = sum.map(|sum| ModelUsage {
            input_tokens: sum.sums.input_tokens,
            output_tokens: sum.sums.output_tokens,
            cost: Some(sum.sums.cost),
        });
        Comparison {
            model: model.to_owned(),
            recorded: recorded.unwrap_or_default(),
            estimated: sum.map_or(0, |sum| sum.estimated),
            reported: report.get(model).copied().unwrap_or_default(),
        }
    };
    models.into_iter().map(comparison).collect()
}

/// Reads a report: usage by model.
///
/// # Errors
/// [`ReportError`]
pub fn parse(text: &str) -> Result<BTreeMap<String, ModelUsage>, ReportError> {
    let rows = if text.trim_start().starts_with(['[', '{']) { json_rows(text)? } else { csv_rows(text)? };
    let columns: BTreeSet<&str> = rows.iter().flat_map(|row| row.fields.keys().map(String::as_str)).collect();
    for (what, names) in [("model", MODEL), ("input tokens", INPUT), ("output tokens", OUTPUT)] {
        if !names.iter().any(|name| columns.contains(name)) {
            return Err(ReportError::Column(what, names.join(", ")));
        }
    }
    let mut usage: BTreeMap<String, ModelUsage> = BTreeMap::new();
    for Row { line, fields: row } in &rows {
        let Some(model) = MODEL.iter().find_map(|name| row.get(*name)) else { continue };
        let sum = usage.entry(model.clone()).or_default();
        let tokens = |names: &[&str]| {
            let numbers = names.iter().filter_map(|name| row.get(*name)).filter(|text| !text.is_empty());
            let number =
                |text: &String| text.parse::<u64>().map_err(|_| ReportError::Number(*line, text.clone()));
            numbers.map(number).try_fold(0_u64, |sum, number| Ok(sum.saturating_add(number?)))
        };
        sum.input_tokens = sum.input_tokens.saturating_add(tokens(INPUT)?);
        sum.output_tokens = sum.output_tokens.saturating_add(tokens(OUTPUT)?);
        if let Some(text) = COST.iter().find_map(|name| row.get(*name)).filter(|text| !text.is_empty()) {
            let cost = dollars(text).ok_or_else(|| ReportError::Number(*line, text.clone()))?;
            sum.cost = Some(sum.cost.unwrap_or_default().plus(cost));
        }
    }
    Ok(usage)
}

/// Reads an amount of a report, which may have more decimals than ours.
fn dollars(text: &str) -> Option<Money> {
    let text = text.trim_start_matches('$');
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let fraction: String = fraction.chars().take(6).collect();
    format!("{whole}.{fraction}").parse().ok()
}

/// Row of a report.
struct Row {
    /// Line, or number of the object.
    line: u64,
    fields: BTreeMap<String, String>,
}

fn json_rows(text: &str) -> Result<Vec<Row>, ReportError> {
    let value: Value = serde_json::from_str(text).map_err(|_| ReportError::Syntax)?;
    let mut rows = Vec::new();
    collect_rows(&value, &mut rows);
    if rows.is_empty() { Err(ReportError::Syntax) } else { Ok(rows) }
}

/// Collects the objects that name a model, however deep they are: the providers' interfaces nest them in buckets of time.
fn collect_rows(value: &Value, rows: &mut Vec<Row>) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| collect_rows(item, rows)),
        Value::Object(fields) if MODEL.iter().any(|name| fields.contains_key(*name)) => {
            let mut row = Row {
                line: u64::try_from(rows.len()).unwrap_or(u64::MAX).saturating_add(1),
                fields: BTreeMap::new(),
            };
            flatten(value, &mut row.fields);
            rows.push(row);
        }
        Value::Object(fields) => fields.values().for_each(|field| collect_rows(field, rows)),
        _ => {}
    }
}

/// Copies the fields of an object and of those in it.
fn flatten(value: &Value, row: &mut BTreeMap<String, String>) {
    for (name, field) in value.as_object().into_iter().flatten() {
        match field {
            Value::Object(_) => flatten(field, row),
            Value::String(text) => drop(row.insert(name.clone(), text.clone())),
            Value::Number(number) => drop(row.insert(name.clone(), number.to_string())),
            _ => {}
        }
    }
}

fn csv_rows(text: &str) -> Result<Vec<Row>, ReportError> {
    let invalid = |error: csv::Error| ReportError::Csv(error.to_string());
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(text.as_bytes());
    let header = reader.headers().map_err(invalid)?.clone();
    if header.is_empty() {
        return Err(ReportError::Syntax);
    }
    let row = |record: csv::Result<csv::StringRecord>| {
        let record = record.map_err(invalid)?;
        let line = record.position().map_or(0, csv::Position::line);
        Ok(Row {
            line,
            fields: header.iter().map(str::to_owned).zip(record.iter().map(str::to_owned)).collect(),
        })
    };
    reader.records().map(row).collect()
}

#[cfg(test)]
mod tests {
    use rigbox_store::AiSums;

    use super::*;

    fn usage(input_tokens: u64, output_tokens: u64, cost: Option<u64>) -> ModelUsage {
        ModelUsage { input_tokens, output_tokens, cost: cost.map(Money::from_micro) }
    }

    #[test]
    fn days_are_read() {
        assert_eq!((parse_day("1970-01-01"), parse_day("2026-11-27")), (Some(0), Some(20_784)));
        assert!(["2026-11-31", "today", "27.11.2026"].iter().all(|text| parse_day(text).is_none()));
    }

    #[test]
    fn reports_of_the_providers_are_read() {
        let anthropic = "usage_date_utc,model_version,api_key,usage_input_tokens_no_cache,usage_input_tokens_cache_write_5m,\
             usage_input_tokens_cache_write_1h,usage_input_tokens_cache_read,usage_output_tokens,cost_usd\n\
             2026-11-27,claude-opus-4-6,\"prod, one\",10,20,,30,5,0.0123456789\n\
             2026-11-27,claude-opus-4-6,two,1,0,0,0,2,0.5\n";
        let expected = usage(61, 7, Some(512_345));
        assert_eq!(parse(anthropic).unwrap(), BTreeMap::from([("claude-opus-4-6".to_owned(), expected)]));
        // As spreadsheets write it.
        let exported = "\u{feff}model, input_tokens ,\"output_tokens\"\r\n\"a \"\"b\"\", c\",1,2\r\n\r\n";
        assert_eq!(parse(exported).unwrap(), BTreeMap::from([("a \"b\", c".to_owned(), usage(1, 2, None))]));
        let openai = r#"{"data":[{"start_time":1,"results":[{"model":"gpt-5.4","input_tokens":40,"input_cached_tokens":30,
            "output_tokens":7},{"model":"gpt-5.4-mini","input_tokens":1,"output_tokens":2}]}]}"#;
        let parsed = parse(openai).unwrap();
        assert_eq!((parsed["gpt-5.4"], parsed["gpt-5.4-mini"]), (usage(40, 7, None), usage(1, 2, None)));
    }

    #[test]
    fn report_that_cannot_be_read_is_refused_with_the_reason() {
        for (text, expected) in [
            ("", "neither CSV"),
            ("[1]", "neither CSV"),
            ("model,output_tokens\nm,1\n", "column for the input tokens"),
            ("model,input_tokens,output_tokens\nm,1,2\nm,x,2\n", "line 3: `x`"),
            ("model,input_tokens,output_tokens\n\"m\nn\",1,2\nm,x,2\n", "line 4: `x`"),
            ("model,input_tokens,output_tokens\nm,1,2\nm,1\n", "line: 3"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn models_of_either_side_are_compared() {
        let sums = AiSums { requests: 2, input_tokens: 40, output_tokens: 7, cost: Money::from_micro(9) };
        let ours = |model: &str| AiModelSum { model: model.to_owned(), sums, estimated: 0 };
        let report = BTreeMap::from([
            ("a".to_owned(), usage(40, 7, None)),
            ("b".to_owned(), usage(40, 7, Some(10))),
            ("d".to_owned(), usage(1, 0, None)),
        ]);
        let compared = side_by_side(&[ours("a"), ours("b"), ours("c")], &report);
        let agreeing: Vec<_> = compared.iter().map(|one| (one.model.as_str(), one.agrees())).collect();
        assert_eq!(agreeing, [("a", true), ("b", false), ("c", false), ("d", false)]);
    }
}
