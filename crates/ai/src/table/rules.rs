//! Rules of a table, as its text says them, with the names of lists of types resolved.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

use crate::json::Value;

/// Types of a table by name.
#[derive(Debug)]
pub(super) struct Rules {
    types: HashMap<String, Type>,
    /// Keys may be written in snake case too.
    snake_case: bool,
}

/// Object with these fields.
#[derive(Debug)]
pub(super) enum Type {
    /// Refused, if the fields that say what it is fit.
    Refused {
        why: String,
        fields: BTreeMap<String, Taken>,
    },
    Object {
        fields: BTreeMap<String, Rule>,
        media: Option<Media>,
        has_rounds: bool,
    },
}

/// Input whose tokens its bytes do not bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Media {
    Image,
    Context,
}

/// Rule of one field.
#[derive(Debug)]
pub(super) enum Rule {
    Refuse(String),
    Strip,
    Force(String),
    Take(Taken),
}

/// Field that is taken.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) is_required: bool,
    pub(super) alternatives: Alternatives,
}

/// Values that a field may have.
#[derive(Debug, Default)]
pub(super) struct Alternatives {
    /// Anything.
    pub(super) any: bool,
    pub(super) scalars: Vec<Scalar>,
    /// Names of types.
    pub(super) types: Vec<String>,
    /// A list of these.
    pub(super) list: Option<Box<Alternatives>>,
    /// An object whose values are these.
    pub(super) map: Option<Box<Alternatives>>,
}

/// Value without parts.
#[derive(Debug)]
pub(super) enum Scalar {
    String,
    Number,
    Bool,
    Exactly(bool),
    Null,
    Link,
    Text { text: String, option: Option<String> },
}

/// Names of lists of types, with what they stand for.
type Lists = HashMap<String, Vec<String>>;

impl Rules {
    /// Parses a table.
    pub(super) fn parse(text: &str, snake_case: bool) -> Result<Self, String> {
        let raw: HashMap<String, BTreeMap<String, toml::Value>> =
            toml::from_str(text).map_err(|error| error.to_string())?;
        let of_type = |name: &str, problem: String| format!("[{name}]: {problem}");
        let mut lists = Lists::new();
        for (name, fields) in &raw {
            if let Some(names) = fields.get("@one_of") {
                let names =
                    names.as_array().ok_or_else(|| of_type(name, "`@one_of` has to be a list".into()))?;
                let names = names.iter().map(text_of).collect::<Result<_, _>>();
                lists.insert(name.clone(), names.map_err(|problem| of_type(name, problem))?);
            }
        }
        let mut types = HashMap::new();
        for (name, fields) in raw.iter().filter(|(name, _)| !lists.contains_key(*name)) {
            let parsed = Type::parse(fields, &lists).map_err(|problem| of_type(name, problem))?;
            types.insert(name.clone(), parsed);
        }
        let rules = Self { types, snake_case };
        rules.check_names()?;
        Ok(rules)
    }

    fn check_names(&self) -> Result<(), String> {
        if self.request().is_none() {
            return Err("there is no [Request]".into());
        }
        for kind in self.types.values() {
            let Type::Object { fields, .. } = kind else { continue };
            for rule in fields.values() {
                let Rule::Take(taken) = rule else { continue };
                for name in taken.alternatives.all_types() {
                    if !self.types.contains_key(name) {
                        return Err(format!("there is no [{name}]"));
                    }
                }
            }
        }
        Ok(())
    }

    pub(super) fn get(&self, name: &str) -> Option<&Type> {
        self.types.get(name)
    }

    /// Returns the fields of the body.
    pub(super) fn request(&self) -> Option<&BTreeMap<String, Rule>> {
        match self.types.get("Request") {
            Some(Type::Object { fields, .. }) => Some(fields),
            _ => None,
        }
    }

    /// Tells if two keys of an object may be one field.
    pub(super) fn has_spellings(&self) -> bool {
        self.snake_case
    }

    /// Returns a key in the table's spelling.
    pub(super) fn key<'k>(&self, key: &'k str) -> Cow<'k, str> {
        if self.snake_case && is_snake_case(key) { Cow::Owned(camel_case(key)) } else { Cow::Borrowed(key) }
    }
}

/// Tells if a key is one of a snake-case spelling. Others, such as `max_Output__tokens`, are no spelling of anything.
fn is_snake_case(key: &str) -> bool {
    let is_word = |word: &str| {
        !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    };
    key.split('_').all(is_word)
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

fn text_of(value: &toml::Value) -> Result<String, String> {
    value.as_str().map(str::to_owned).ok_or_else(|| "a rule has to be a text".into())
}

impl Type {
    fn parse(raw: &BTreeMap<String, toml::Value>, lists: &Lists) -> Result<Self, String> {
        let (mut fields, mut media, mut refused, mut has_rounds) = (BTreeMap::new(), None, None, false);
        for (key, value) in raw {
            match key.as_str() {
                "@refuse" => refused = Some(text_of(value)?),
                "@rounds" => has_rounds = true,
                "@media" => {
                    media = Some(match text_of(value)?.as_str() {
                        "image" => Media::Image,
                        "context" => Media::Context,
                        other => return Err(format!("`@media` cannot be `{other}`")),
                    });
                }
                _ => {
                    let rule = Rule::parse(&text_of(value)?, lists);
                    fields.insert(key.clone(), rule.map_err(|problem| format!("{key}: {problem}"))?);
                }
            }
        }
        let Some(why) = refused else { return Ok(Self::Object { fields, media, has_rounds }) };
        let fields = fields.into_iter().filter_map(|(key, rule)| match rule {
            Rule::Take(taken) => Some((key, taken)),
            _ => None,
        });
        Ok(Self::Refused { why, fields: fields.collect() })
    }
}

impl Rule {
    fn parse(text: &str, lists: &Lists) -> Result<Self, String> {
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
        let (is_required, all) = match text.strip_prefix('!') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let mut alternatives = Alternatives::default();
        all.split(" | ").try_for_each(|text| alternatives.add(text, lists))?;
        Ok(Self::Take(Taken { is_required, alternatives }))
    }
}

impl Alternatives {
    fn add(&mut self, text: &str, lists: &Lists) -> Result<(), String> {
        if let Some(inner) = text.strip_suffix("[]") {
            return self.list.get_or_insert_default().add(inner, lists);
        }
        if let Some(inner) = text.strip_suffix("{}") {
            return self.map.get_or_insert_default().add(inner, lists);
        }
        if text == "any" {
            self.any = true;
        } else if text.starts_with(|first: char| first.is_ascii_uppercase()) {
            match lists.get(text) {
                Some(names) => self.types.extend(names.iter().cloned()),
                None => self.types.push(text.to_owned()),
            }
        } else {
            self.scalars.push(Scalar::parse(text)?);
        }
        Ok(())
    }

    /// Returns the names of all types that a value, or one within its lists and maps, may be.
    pub(super) fn all_types(&self) -> Vec<&str> {
        let inner = self.list.iter().chain(&self.map).flat_map(|inner| inner.all_types());
        self.types.iter().map(String::as_str).chain(inner).collect()
    }

    /// Tells if a value, or one within its lists and maps, may be anything.
    pub(super) fn is_free(&self) -> bool {
        self.any || self.list.iter().chain(&self.map).any(|inner| inner.is_free())
    }

    /// Tells if a text, a number, a truth value or null is one of these.
    pub(super) fn fits_scalar(&self, value: &Value<'_>) -> bool {
        self.any || self.scalars.iter().any(|scalar| scalar.fits(value))
    }
}

impl Scalar {
    fn parse(text: &str) -> Result<Self, String> {
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
            "link" => Self::Link,
            other => return Err(format!("`{other}` is no alternative")),
        })
    }

    pub(super) fn fits(&self, value: &Value<'_>) -> bool {
        match (self, value) {
            (Self::String | Self::Link, Value::String(_))
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
