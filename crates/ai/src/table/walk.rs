//! Walk through a request by the rules of a table.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;

use super::rules::{Alternatives, Media, Rule, Rules, Scalar, Taken, Type};
use crate::json::{Document, Value, shown};

/// Levels of types within types.
const MAX_DEPTH: usize = 64;

/// Result of the walk through a request.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Findings {
    /// Top-level fields that are not forwarded, as they came.
    pub stripped: Vec<String>,
    /// Top-level fields with the JSON that they are set to.
    pub forced: BTreeMap<String, String>,
    /// Number of pictures.
    pub images: u64,
    /// Some input may be as long as the model reads.
    pub fills_context: bool,
    /// The provider would fetch a URL.
    pub fetches_urls: bool,
    /// The model may answer once more on its own.
    pub has_rounds: bool,
    /// Options that change the price.
    pub options: BTreeSet<String>,
}

/// Part of a request that is refused. The message is for the client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{path}` {why}.")]
pub struct Refusal {
    /// Path of the field, such as `messages[2].content[0].source`.
    pub path: String,
    /// Predicate of a sentence about it.
    pub why: String,
}

impl Findings {
    /// Returns how often the model may answer, and read its input.
    pub(crate) fn rounds(&self) -> u32 {
        1 + u32::from(self.has_rounds)
    }
}

impl Refusal {
    /// Refuses a value; the objects and lists around it add where it is.
    fn here(why: impl Into<String>) -> Self {
        Self { path: String::new(), why: why.into() }
    }

    fn within(self, place: impl Display) -> Self {
        Self { path: format!("{place}{}", self.path), ..self }
    }
}

/// Members of an object.
type Members<'a> = [(Cow<'a, str>, Value<'a>)];

/// Walks through a whole request.
pub(super) fn walk(rules: &Rules, request: &Document<'_>) -> Result<Findings, Refusal> {
    let mut walk = Walk { rules, findings: Findings::default() };
    let Some(fields) = rules.request() else { return Ok(walk.findings) };
    let mut seen = BTreeSet::new();
    for field in &request.fields {
        let key = rules.key(&field.name);
        let rule = fields.get(key.as_ref());
        if !seen.insert(key) {
            return Err(Refusal::here("stands twice, in two spellings").within(shown(&field.name)));
        }
        match rule {
            None | Some(Rule::Strip) => walk.findings.stripped.push(field.name.to_string()),
            // In the spelling in which it came, so that it is set there.
            Some(Rule::Force(value)) => {
                walk.findings.forced.insert(field.name.to_string(), value.clone());
            }
            Some(rule) => {
                walk.take_by(rule, &field.value, 0).map_err(|refusal| refusal.within(shown(&field.name)))?;
            }
        }
    }
    for (name, rule) in fields {
        match rule {
            Rule::Force(value) if !seen.contains(name.as_str()) => {
                walk.findings.forced.insert(name.clone(), value.clone());
            }
            Rule::Take(Taken { is_required: true, .. }) if !seen.contains(name.as_str()) => {
                return Err(Refusal::here("is missing").within(name));
            }
            _ => {}
        }
    }
    Ok(walk.findings)
}

/// One walk. Findings of an alternative that does not hold are forgotten.
struct Walk<'t> {
    rules: &'t Rules,
    findings: Findings,
}

impl Walk<'_> {
    /// Takes the value of a field that has a rule.
    fn take_by(&mut self, rule: &Rule, value: &Value<'_>, depth: usize) -> Result<(), Refusal> {
        match rule {
            Rule::Refuse(why) if is_something(value) => Err(Refusal::here(why)),
            Rule::Take(taken) if taken.is_required || *value != Value::Null => {
                self.take(value, &taken.alternatives, depth)
            }
            _ => Ok(()),
        }
    }

    fn take(&mut self, value: &Value<'_>, alternatives: &Alternatives, depth: usize) -> Result<(), Refusal> {
        if depth > MAX_DEPTH {
            return Err(Refusal::here("is nested too deeply"));
        }
        if alternatives.any {
            return Ok(());
        }
        match value {
            Value::Array(values) => {
                let Some(inner) = &alternatives.list else { return Err(Refusal::here("cannot be a list")) };
                for (index, value) in values.iter().enumerate() {
                    self.take(value, inner, depth + 1)
                        .map_err(|refusal| refusal.within(format_args!("[{index}]")))?;
                }
                Ok(())
            }
            Value::Object(members) => self.take_object(members, alternatives, depth),
            scalar => self.take_scalar(scalar, &alternatives.scalars),
        }
    }

    fn take_scalar(&mut self, value: &Value<'_>, scalars: &[Scalar]) -> Result<(), Refusal> {
        let Some(taken) = scalars.iter().find(|scalar| scalar.fits(value)) else {
            return Err(Refusal::here("has a value that is not known here"));
        };
        match (taken, value) {
            (Scalar::Text { option: Some(option), .. }, _) => {
                self.findings.options.insert(option.clone());
            }
            (Scalar::Link, Value::String(url)) if !is_data_url(url) => {
                self.findings.fetches_urls = true;
                self.findings.fills_context = true;
            }
            _ => {}
        }
        Ok(())
    }

    fn take_object(
        &mut self,
        members: &Members<'_>,
        alternatives: &Alternatives,
        depth: usize,
    ) -> Result<(), Refusal> {
        if let Some(inner) = &alternatives.map {
            for (key, value) in members {
                self.take(value, inner, depth + 1)
                    .map_err(|refusal| refusal.within(format_args!(".{}", shown(key))))?;
            }
            return Ok(());
        }
        let types: Vec<_> = alternatives.types.iter().filter_map(|name| self.rules.get(name)).collect();
        for kind in &types {
            if let Type::Refused { why, fields } = kind
                && self.could_be(members, fields)
            {
                return Err(Refusal::here(why));
            }
        }
        let mut first_refusal: Option<Refusal> = None;
        for kind in types {
            let Type::Object { fields, media, has_rounds } = kind else { continue };
            if !self.is_kind(members, fields) {
                continue;
            }
            let before = self.findings.clone();
            match self.take_fields(members, fields, depth) {
                Ok(()) => {
                    match media {
                        Some(Media::Image) => self.findings.images += 1,
                        Some(Media::Context) => self.findings.fills_context = true,
                        None => {}
                    }
                    self.findings.has_rounds |= has_rounds;
                    return Ok(());
                }
                Err(refusal) => {
                    self.findings = before;
                    first_refusal.get_or_insert(refusal);
                }
            }
        }
        Err(first_refusal.unwrap_or_else(|| self.unknown_kind(members, alternatives)))
    }

    /// Refuses an object that is of no kind. Where there is one kind only, what it lacks of it is the reason.
    fn unknown_kind(&self, members: &Members<'_>, alternatives: &Alternatives) -> Refusal {
        let only = match alternatives.types.as_slice() {
            [name] => self.rules.get(name),
            _ => None,
        };
        let lacking = match only {
            Some(Type::Object { fields, .. }) => fields.iter().find(|(name, rule)| {
                matches!(rule, Rule::Take(Taken { is_required: true, .. }))
                    && self.member(members, name).is_none()
            }),
            _ => None,
        };
        match lacking {
            Some((name, _)) => Refusal::here(format!("needs `{name}`")),
            None => Refusal::here("is of a kind that is not known here"),
        }
    }

    fn member<'v, 'a>(&self, members: &'v Members<'a>, name: &str) -> Option<&'v Value<'a>> {
        members.iter().find(|(key, _)| self.rules.key(key) == name).map(|(_, value)| value)
    }

    /// Tells if an object could be meant as a refused type: each text that the type fixes is there, or may be absent and is.
    fn could_be(&self, members: &Members<'_>, fields: &BTreeMap<String, Taken>) -> bool {
        fields.iter().all(|(name, taken)| match self.member(members, name) {
            None | Some(Value::Null) if !taken.is_required => true,
            value => taken.alternatives.fits_scalar(value.unwrap_or(&Value::Null)),
        })
    }

    /// Tells if an object is of this kind: the texts that fix the kind are right, and what has to be there is.
    fn is_kind(&self, members: &Members<'_>, fields: &BTreeMap<String, Rule>) -> bool {
        fields.iter().all(|(name, rule)| {
            let Rule::Take(Taken { is_required, alternatives }) = rule else { return true };
            let Some(value) = self.member(members, name) else { return !is_required };
            let fixes_kind = (name == "type" || name == "role")
                && alternatives.scalars.iter().any(|scalar| matches!(scalar, Scalar::Text { .. }));
            !fixes_kind || alternatives.fits_scalar(value)
        })
    }

    fn take_fields(
        &mut self,
        members: &Members<'_>,
        fields: &BTreeMap<String, Rule>,
        depth: usize,
    ) -> Result<(), Refusal> {
        let mut seen = BTreeSet::new();
        for (key, value) in members {
            let name = self.rules.key(key);
            let rule = fields.get(name.as_ref());
            let is_twice = self.rules.has_spellings() && !seen.insert(name);
            let taken = match rule {
                _ if is_twice => Err(Refusal::here("stands twice, in two spellings")),
                // SDKs send back what they have received, with what was not there as null.
                None if is_something(value) => Err(Refusal::here("is not known here")),
                None => Ok(()),
                Some(rule) => self.take_by(rule, value, depth + 1),
            };
            taken.map_err(|refusal| refusal.within(format_args!(".{}", shown(key))))?;
        }
        Ok(())
    }
}

/// Tells if a value says anything: not null, and not an empty list or text. An empty object does: it is the usual form of a hosted tool.
fn is_something(value: &Value<'_>) -> bool {
    match value {
        Value::Null => false,
        Value::String(text) => !text.is_empty(),
        Value::Array(values) => !values.is_empty(),
        Value::Object(_) | Value::Bool(_) | Value::Number(_) => true,
    }
}

/// Tells if a URL has its content in itself.
fn is_data_url(url: &str) -> bool {
    url.get(..5).is_some_and(|scheme| scheme.eq_ignore_ascii_case("data:"))
}
