//! Tables of a dialect's fields: what is done with each. They are data (`tables/*.toml`), so a provider's new field takes no release.
//!
//! A table is TOML, and each of its tables is a type: an object with these fields. `Request` is the body. A field says
//! - `refuse WHY`: refused unless its value is null or empty;
//! - `strip` or `force VALUE`, in `Request` only: taken out, or set;
//! - else alternatives, with ` | ` between them and `!` before them where the field has to be there: `string`, `number`, `bool`, `true`,
//!   `false`, `null`, `any` (anything: schemas, arguments), `link` (a URL: one that is no `data:` has the provider fetch), a `'text'`, a
//!   type; `[]` behind one of them is a list of it, `{}` an object whose values are it. `'text*'` begins so, and `'text'=option` has a price
//!   factor.
//!
//! `@refuse` makes a type one that is refused, `@one_of` a name for a list of types, `@media` one whose size its bytes do not bound
//! (`image`: some tokens each; `context`: as many as the model reads), and `@rounds` one with which the model answers more than once.
//!
//! An object is taken if it fits an alternative. It is refused if it could be of a refused type, because the provider might read it as that.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use crate::json::{Document, Value, shown};

/// Levels of types within types.
const MAX_DEPTH: usize = 64;

/// Table of one kind of request.
#[derive(Debug, Clone)]
pub struct Table {
    types: Arc<HashMap<String, Type>>,
    /// Keys may be written in snake case too.
    snake_case: bool,
}

#[derive(Debug)]
enum Type {
    Refused { why: String, literals: Vec<(String, Vec<Alternative>)> },
    OneOf(Vec<String>),
    Object { fields: BTreeMap<String, Rule>, media: Option<Media>, has_rounds: bool },
}

/// Input whose tokens its bytes do not bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Media {
    Image,
    Context,
}

#[derive(Debug, Clone)]
enum Rule {
    Refuse(String),
    Strip,
    Force(String),
    Take { required: bool, alternatives: Vec<Alternative> },
}

#[derive(Debug, Clone)]
enum Alternative {
    String,
    Number,
    Bool,
    Exactly(bool),
    Null,
    Any,
    Link,
    Text { text: String, option: Option<String> },
    Type(String),
    List(Box<Alternative>),
    Map(Box<Alternative>),
}

/// Table that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct InvalidTable(String);

/// Result of the walk through a request.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Findings {
    /// Top-level fields that are not forwarded.
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
    /// Options with a price factor.
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

impl Table {
    /// Parses a table. With `snake_case`, each key of a request may be written in camel or in snake case.
    ///
    /// # Errors
    /// The text does not follow the format.
    pub fn parse(text: &str, snake_case: bool) -> Result<Self, InvalidTable> {
        let raw: HashMap<String, BTreeMap<String, toml::Value>> =
            toml::from_str(text).map_err(|error| InvalidTable(error.to_string()))?;
        let mut types = HashMap::new();
        for (name, fields) in raw {
            let of_type = |problem: String| InvalidTable(format!("[{name}]: {problem}"));
            types.insert(name.clone(), Type::parse(fields).map_err(of_type)?);
        }
        let table = Self { types: Arc::new(types), snake_case };
        table.check_names()?;
        Ok(table)
    }

    fn check_names(&self) -> Result<(), InvalidTable> {
        if !matches!(self.types.get("Request"), Some(Type::Object { .. })) {
            return Err(InvalidTable("there is no [Request]".into()));
        }
        let check = |name: &String| {
            let known = self.types.contains_key(name);
            if known { Ok(()) } else { Err(InvalidTable(format!("there is no [{name}]"))) }
        };
        for kind in self.types.values() {
            match kind {
                Type::OneOf(names) => names.iter().try_for_each(check)?,
                Type::Object { fields, .. } => {
                    for rule in fields.values() {
                        if let Rule::Take { alternatives, .. } = rule {
                            alternatives.iter().filter_map(Alternative::type_name).try_for_each(check)?;
                        }
                    }
                }
                Type::Refused { .. } => {}
            }
        }
        Ok(())
    }

    /// Walks through a whole request.
    ///
    /// # Errors
    /// Something in it is refused, of an unknown kind, or not what the field takes.
    pub fn walk(&self, request: &Document<'_>) -> Result<Findings, Refusal> {
        let mut findings = Findings::default();
        let Some(Type::Object { fields, .. }) = self.types.get("Request") else { return Ok(findings) };
        let mut seen = BTreeSet::new();
        for field in &request.fields {
            let key = self.key(&field.name);
            let path = shown(&field.name);
            if !seen.insert(key.clone()) {
                return Err(Refusal { path, why: "stands twice, in two spellings".into() });
            }
            match fields.get(&key) {
                None | Some(Rule::Strip) => findings.stripped.push(path),
                Some(Rule::Force(_)) => {}
                Some(Rule::Refuse(why)) if is_something(&field.value) => {
                    return Err(Refusal { path, why: why.clone() });
                }
                Some(Rule::Refuse(_)) => {}
                Some(Rule::Take { required: false, .. }) if field.value == Value::Null => {}
                Some(Rule::Take { alternatives, .. }) => {
                    Walk { table: self, findings: &mut findings }.take(
                        &field.value,
                        alternatives,
                        &path,
                        0,
                    )?;
                }
            }
        }
        for (name, rule) in fields {
            match rule {
                Rule::Force(value) => {
                    findings.forced.insert(name.clone(), value.clone());
                }
                Rule::Take { required: true, .. } if !seen.contains(name) => {
                    return Err(Refusal { path: name.clone(), why: "is missing".into() });
                }
                _ => {}
            }
        }
        Ok(findings)
    }

    /// Returns a key in the table's spelling.
    #[must_use]
    pub fn key(&self, key: &str) -> String {
        if self.snake_case { camel_case(key) } else { key.to_owned() }
    }

    /// Tells if some row names the field at the end of this path of fields, each of which may be a list, an object of values, or one value.
    #[must_use]
    pub fn knows(&self, path: &[&str]) -> Known {
        let mut types = vec!["Request"];
        for (index, field) in path.iter().enumerate() {
            let (mut next, mut is_known) = (Vec::new(), false);
            for name in self.flatten(&types) {
                let Some(Type::Object { fields, .. }) = self.types.get(name) else { return Known::Refused };
                match fields.get(*field) {
                    None => {}
                    Some(Rule::Take { alternatives, .. }) => {
                        is_known = true;
                        let free = alternatives.iter().any(Alternative::is_free);
                        if free && index + 1 < path.len() {
                            return Known::Free;
                        }
                        next.extend(
                            alternatives.iter().filter_map(Alternative::type_name).map(String::as_str),
                        );
                    }
                    Some(_) => return Known::Refused,
                }
            }
            if !is_known {
                return Known::No;
            }
            types = next;
        }
        Known::Yes
    }

    /// Resolves names of lists of types.
    fn flatten<'a>(&'a self, names: &[&'a str]) -> Vec<&'a str> {
        let mut flat = Vec::new();
        for name in names {
            match self.types.get(*name) {
                Some(Type::OneOf(names)) => flat.extend(names.iter().map(String::as_str)),
                _ => flat.push(*name),
            }
        }
        flat
    }
}

/// What a table says of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// It is taken.
    Yes,
    /// It, or what it stands in, is refused, taken out or set.
    Refused,
    /// It stands in something that may be anything.
    Free,
    /// No row names it.
    No,
}

/// Returns `max_output_tokens` as `maxOutputTokens`.
fn camel_case(key: &str) -> String {
    let mut text = String::with_capacity(key.len());
    let mut upper = false;
    for character in key.chars() {
        match character {
            '_' if !text.is_empty() => upper = true,
            character if upper => {
                text.extend(character.to_uppercase());
                upper = false;
            }
            character => text.push(character),
        }
    }
    text
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

impl Type {
    fn parse(raw: BTreeMap<String, toml::Value>) -> Result<Self, String> {
        let text = |value: &toml::Value| value.as_str().map(str::to_owned).ok_or("a rule has to be a text");
        let (mut fields, mut media, mut refused, mut one_of, mut has_rounds) =
            (BTreeMap::new(), None, None, None, false);
        for (key, value) in raw {
            match key.as_str() {
                "@refuse" => refused = Some(text(&value)?),
                "@rounds" => has_rounds = true,
                "@one_of" => {
                    let names = value.as_array().ok_or("`@one_of` has to be a list")?;
                    one_of = Some(names.iter().map(text).collect::<Result<_, _>>()?);
                }
                "@media" => {
                    media = Some(match text(&value)?.as_str() {
                        "image" => Media::Image,
                        "context" => Media::Context,
                        other => return Err(format!("`@media` cannot be `{other}`")),
                    });
                }
                _ => {
                    let rule = Rule::parse(&text(&value)?).map_err(|problem| format!("{key}: {problem}"))?;
                    fields.insert(key, rule);
                }
            }
        }
        if let Some(names) = one_of {
            return Ok(Self::OneOf(names));
        }
        let Some(why) = refused else { return Ok(Self::Object { fields, media, has_rounds }) };
        let literals = fields
            .into_iter()
            .filter_map(|(key, rule)| match rule {
                Rule::Take { alternatives, required } => {
                    let mut alternatives = alternatives;
                    if !required {
                        alternatives.push(Alternative::Null);
                    }
                    Some((key, alternatives))
                }
                _ => None,
            })
            .collect();
        Ok(Self::Refused { why, literals })
    }
}

impl Rule {
    fn parse(text: &str) -> Result<Self, String> {
        if let Some(why) = text.strip_prefix("refuse ") {
            return Ok(Self::Refuse(why.to_owned()));
        }
        if let Some(value) = text.strip_prefix("force ") {
            serde_json::from_str::<serde_json::Value>(value).map_err(|error| error.to_string())?;
            return Ok(Self::Force(value.to_owned()));
        }
        if text == "strip" {
            return Ok(Self::Strip);
        }
        let (required, alternatives) = match text.strip_prefix('!') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let alternatives = alternatives.split(" | ").map(Alternative::parse).collect::<Result<_, _>>()?;
        Ok(Self::Take { required, alternatives })
    }
}

impl Alternative {
    fn parse(text: &str) -> Result<Self, String> {
        if let Some(inner) = text.strip_suffix("[]") {
            return Ok(Self::List(Box::new(Self::parse(inner)?)));
        }
        if let Some(inner) = text.strip_suffix("{}") {
            return Ok(Self::Map(Box::new(Self::parse(inner)?)));
        }
        if let Some(rest) = text.strip_prefix('\'') {
            let (text, option) = rest.split_once('\'').ok_or(format!("`{rest}` does not end"))?;
            let option = match option {
                "" => None,
                option => Some(option.strip_prefix('=').ok_or("an option begins with `=`")?.to_owned()),
            };
            return Ok(Self::Text { text: text.to_owned(), option });
        }
        Ok(match text {
            "string" => Self::String,
            "number" => Self::Number,
            "bool" => Self::Bool,
            "true" => Self::Exactly(true),
            "false" => Self::Exactly(false),
            "null" => Self::Null,
            "any" => Self::Any,
            "link" => Self::Link,
            name if name.starts_with(|first: char| first.is_ascii_uppercase()) => Self::Type(name.to_owned()),
            other => return Err(format!("`{other}` is no alternative")),
        })
    }

    fn type_name(&self) -> Option<&String> {
        match self {
            Self::Type(name) => Some(name),
            Self::List(inner) | Self::Map(inner) => inner.type_name(),
            _ => None,
        }
    }

    fn is_free(&self) -> bool {
        match self {
            Self::Any => true,
            Self::List(inner) | Self::Map(inner) => inner.is_free(),
            _ => false,
        }
    }

    /// Tells if a text, a number, a truth value or null is this.
    fn fits_scalar(&self, value: &Value<'_>) -> bool {
        match (self, value) {
            (Self::Any, _)
            | (Self::String | Self::Link, Value::String(_))
            | (Self::Number, Value::Number(_))
            | (Self::Bool, Value::Bool(_))
            | (Self::Null, Value::Null) => true,
            (Self::Exactly(expected), Value::Bool(value)) => expected == value,
            (Self::Text { text, .. }, Value::String(value)) => match text.strip_suffix('*') {
                Some(prefix) => {
                    value.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
                }
                None => text == value,
            },
            _ => false,
        }
    }
}

/// One walk. What is found is added only by an alternative that is taken.
struct Walk<'t, 'f> {
    table: &'t Table,
    findings: &'f mut Findings,
}

impl Walk<'_, '_> {
    fn take(
        &mut self,
        value: &Value<'_>,
        alternatives: &[Alternative],
        path: &str,
        depth: usize,
    ) -> Result<(), Refusal> {
        let refusal = |why: &str| Refusal { path: path.to_owned(), why: why.to_owned() };
        if depth > MAX_DEPTH {
            return Err(refusal("is nested too deeply"));
        }
        match value {
            Value::Array(values) => {
                if alternatives.iter().any(|alternative| matches!(alternative, Alternative::Any)) {
                    return Ok(());
                }
                let inner: Vec<_> = alternatives
                    .iter()
                    .filter_map(|alternative| match alternative {
                        Alternative::List(inner) => Some((**inner).clone()),
                        _ => None,
                    })
                    .collect();
                if inner.is_empty() {
                    return Err(refusal("cannot be a list"));
                }
                for (index, value) in values.iter().enumerate() {
                    self.take(value, &inner, &format!("{path}[{index}]"), depth + 1)?;
                }
                Ok(())
            }
            Value::Object(members) => self.take_object(members, alternatives, path, depth),
            scalar => {
                let Some(taken) = alternatives.iter().find(|alternative| alternative.fits_scalar(scalar))
                else {
                    return Err(refusal("has a value that is not known here"));
                };
                match (taken, scalar) {
                    (Alternative::Text { option: Some(option), .. }, _) => {
                        self.findings.options.insert(option.clone());
                    }
                    (Alternative::Link, Value::String(url)) if !is_data_url(url) => {
                        self.findings.fetches_urls = true;
                        self.findings.fills_context = true;
                    }
                    _ => {}
                }
                Ok(())
            }
        }
    }

    fn take_object(
        &mut self,
        members: &[(std::borrow::Cow<'_, str>, Value<'_>)],
        alternatives: &[Alternative],
        path: &str,
        depth: usize,
    ) -> Result<(), Refusal> {
        let mut types = Vec::new();
        for alternative in alternatives {
            match alternative {
                Alternative::Any => return Ok(()),
                Alternative::Map(inner) => {
                    for (key, value) in members {
                        let path = format!("{path}.{}", shown(key));
                        self.take(value, std::slice::from_ref(inner), &path, depth + 1)?;
                    }
                    return Ok(());
                }
                Alternative::Type(name) => types.push(name.as_str()),
                _ => {}
            }
        }
        let types = self.table.flatten(&types);
        for name in &types {
            if let Some(Type::Refused { why, literals }) = self.table.types.get(*name)
                && self.fits_literals(members, literals)
            {
                return Err(Refusal { path: path.to_owned(), why: why.clone() });
            }
        }
        let mut first_refusal: Option<Refusal> = None;
        for name in types {
            let Some(Type::Object { fields, media, has_rounds }) = self.table.types.get(name) else {
                continue;
            };
            if !self.is_kind(members, fields) {
                continue;
            }
            // Of alternatives that do not hold, what was found is forgotten.
            let before = self.findings.clone();
            match self.take_fields(members, fields, path, depth) {
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
                    *self.findings = before;
                    first_refusal.get_or_insert(refusal);
                }
            }
        }
        Err(first_refusal.unwrap_or_else(|| Refusal {
            path: path.to_owned(),
            why: "is of a kind that is not known here".into(),
        }))
    }

    fn member<'v, 'a>(
        &self,
        members: &'v [(std::borrow::Cow<'a, str>, Value<'a>)],
        name: &str,
    ) -> Option<&'v Value<'a>> {
        members.iter().find(|(key, _)| self.table.key(key) == name).map(|(_, value)| value)
    }

    /// Tells if an object could be meant as a refused type: each text that the type fixes is there, or may be absent and is.
    fn fits_literals(
        &self,
        members: &[(std::borrow::Cow<'_, str>, Value<'_>)],
        literals: &[(String, Vec<Alternative>)],
    ) -> bool {
        literals.iter().all(|(name, alternatives)| {
            let value = self.member(members, name).unwrap_or(&Value::Null);
            alternatives.iter().any(|alternative| alternative.fits_scalar(value))
        })
    }

    /// Tells if an object is of this kind: the texts that fix the kind are right, and what has to be there is.
    fn is_kind(
        &self,
        members: &[(std::borrow::Cow<'_, str>, Value<'_>)],
        fields: &BTreeMap<String, Rule>,
    ) -> bool {
        fields.iter().all(|(name, rule)| {
            let Rule::Take { required, alternatives } = rule else { return true };
            let Some(value) = self.member(members, name) else { return !required };
            let fixes_kind = (name == "type" || name == "role")
                && alternatives.iter().any(|alternative| matches!(alternative, Alternative::Text { .. }));
            !fixes_kind || alternatives.iter().any(|alternative| alternative.fits_scalar(value))
        })
    }

    fn take_fields(
        &mut self,
        members: &[(std::borrow::Cow<'_, str>, Value<'_>)],
        fields: &BTreeMap<String, Rule>,
        path: &str,
        depth: usize,
    ) -> Result<(), Refusal> {
        let mut seen = BTreeSet::new();
        for (key, value) in members {
            let name = self.table.key(key);
            let path = format!("{path}.{}", shown(key));
            if self.table.snake_case && !seen.insert(name.clone()) {
                return Err(Refusal { path, why: "stands twice, in two spellings".into() });
            }
            match fields.get(&name) {
                // SDKs send back what they have received, with what was not there as null.
                None if !is_something(value) => {}
                None => return Err(Refusal { path, why: "is not known here".into() }),
                Some(Rule::Refuse(why)) if is_something(value) => {
                    return Err(Refusal { path, why: why.clone() });
                }
                Some(Rule::Take { required: false, .. }) if *value == Value::Null => {}
                Some(Rule::Take { alternatives, .. }) => self.take(value, alternatives, &path, depth + 1)?,
                Some(_) => {}
            }
        }
        Ok(())
    }
}

/// Tells if a URL has its content in itself.
fn is_data_url(url: &str) -> bool {
    url.get(..5).is_some_and(|scheme| scheme.eq_ignore_ascii_case("data:"))
}
