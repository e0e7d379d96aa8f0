//! JSON of a request: each value of the top level as it was sent, and as a tree to walk. Two parsers never read it in two ways: duplicate
//! keys (escapes decoded) and trailing data are errors, and the number of values is bounded.

use std::borrow::Cow;
use std::cell::Cell;
use std::collections::HashSet;
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// Number of values in one request.
const MAX_VALUES: usize = 500_000;

/// Value of a request.
#[derive(Debug, Clone, PartialEq)]
pub enum Value<'a> {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// Number. What providers take as one fits a double.
    Number(f64),
    /// Text, escapes decoded.
    String(Cow<'a, str>),
    /// List.
    Array(Vec<Value<'a>>),
    /// Members in their order, each key once.
    Object(Vec<(Cow<'a, str>, Value<'a>)>),
}

impl<'a> Value<'a> {
    /// Returns the member `key` of an object.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Self> {
        match self {
            Self::Object(members) => members.iter().find(|(name, _)| name == key).map(|(_, value)| value),
            _ => None,
        }
    }

    /// Returns the text.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }

    /// Returns a whole number that is not negative.
    #[must_use]
    pub fn as_count(&self) -> Option<u64> {
        match self {
            // Below 2^53, where a double has every whole number.
            Self::Number(number) if *number >= 0.0 && *number < 9e15 && number.fract() == 0.0 =>
            {
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked above")]
                Some(*number as u64)
            }
            _ => None,
        }
    }
}

/// Member of a request's top level.
#[derive(Debug)]
pub struct Field<'a> {
    /// Key, escapes decoded.
    pub name: Cow<'a, str>,
    /// Value as it was sent.
    pub raw: &'a str,
    /// The same, to walk.
    pub value: Value<'a>,
}

/// Request that is an object.
#[derive(Debug)]
pub struct Document<'a> {
    /// Members in their order.
    pub fields: Vec<Field<'a>>,
}

/// Text that cannot be forwarded. The message is for the client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidJson(String);

impl<'a> Document<'a> {
    /// Parses a request's body.
    ///
    /// # Errors
    /// It is not one JSON object in UTF-8 without duplicate keys, is nested more than 127 levels deep, or has too many values.
    pub fn parse(body: &'a [u8]) -> Result<Self, InvalidJson> {
        let text = std::str::from_utf8(body).map_err(|_| InvalidJson("The body is not UTF-8.".into()))?;
        let left = Cell::new(MAX_VALUES);
        let invalid = |error: serde_json::Error| InvalidJson(format!("The body is not valid JSON: {error}."));
        let mut deserializer = serde_json::Deserializer::from_str(text);
        let members = Members.deserialize(&mut deserializer).map_err(invalid)?;
        deserializer.end().map_err(invalid)?;
        let mut fields = Vec::with_capacity(members.len());
        for (name, raw) in members {
            let mut deserializer = serde_json::Deserializer::from_str(raw.get());
            let value = Tree { left: &left }
                .deserialize(&mut deserializer)
                .map_err(|error| InvalidJson(format!("`{}` is not valid: {error}.", shown(&name))))?;
            fields.push(Field { name, raw: raw.get(), value });
        }
        Ok(Self { fields })
    }

    /// Returns the value of the member `name`.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Value<'a>> {
        self.fields.iter().find(|field| field.name == name).map(|field| &field.value)
    }
}

/// Returns a key as it may stand in a message: a client names it, so it is cut.
#[must_use]
pub fn shown(key: &str) -> String {
    key.chars().take(60).filter(|character| !character.is_control()).collect()
}

/// Members of the top level, each with its text.
struct Members;

impl<'de> DeserializeSeed<'de> for Members {
    type Value = Vec<(Cow<'de, str>, &'de RawValue)>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Members {
    type Value = Vec<(Cow<'de, str>, &'de RawValue)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = Vec::new();
        while let Some(Key(key)) = map.next_key()? {
            members.push((key, map.next_value()?));
            if members.len() > MAX_VALUES {
                return Err(A::Error::custom("it has too many values"));
            }
        }
        check_keys(members.iter().map(|(key, _)| key.as_ref()))?;
        Ok(members)
    }
}

/// Key that is borrowed where it has no escapes.
#[derive(Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

fn check_keys<'a, E: serde::de::Error>(keys: impl Iterator<Item = &'a str>) -> Result<(), E> {
    let mut seen = HashSet::new();
    for key in keys {
        if !seen.insert(key) {
            return Err(E::custom(format_args!("the key `{}` stands twice in one object", shown(key))));
        }
    }
    Ok(())
}

/// Tree of a value. `left` counts down to the bound.
struct Tree<'c> {
    left: &'c Cell<usize>,
}

impl Tree<'_> {
    fn count<E: serde::de::Error>(&self) -> Result<(), E> {
        let left = self.left.get().checked_sub(1).ok_or_else(|| E::custom("it has too many values"))?;
        self.left.set(left);
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Tree<'_> {
    type Value = Value<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value<'de>, D::Error> {
        self.count()?;
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Tree<'_> {
    type Value = Value<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }
    fn visit_unit<E>(self) -> Result<Value<'de>, E> {
        Ok(Value::Null)
    }
    fn visit_bool<E>(self, value: bool) -> Result<Value<'de>, E> {
        Ok(Value::Bool(value))
    }
    #[expect(
        clippy::cast_precision_loss,
        reason = "counts of more than 2^53 are refused where they are read"
    )]
    fn visit_u64<E>(self, value: u64) -> Result<Value<'de>, E> {
        Ok(Value::Number(value as f64))
    }
    #[expect(clippy::cast_precision_loss, reason = "as above")]
    fn visit_i64<E>(self, value: i64) -> Result<Value<'de>, E> {
        Ok(Value::Number(value as f64))
    }
    fn visit_f64<E>(self, value: f64) -> Result<Value<'de>, E> {
        Ok(Value::Number(value))
    }
    fn visit_borrowed_str<E>(self, value: &'de str) -> Result<Value<'de>, E> {
        Ok(Value::String(Cow::Borrowed(value)))
    }
    fn visit_str<E>(self, value: &str) -> Result<Value<'de>, E> {
        Ok(Value::String(Cow::Owned(value.to_owned())))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value<'de>, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = seq.next_element_seed(Tree { left: self.left })? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value<'de>, A::Error> {
        let mut members = Vec::new();
        while let Some(Key(key)) = map.next_key()? {
            members.push((key, map.next_value_seed(Tree { left: self.left })?));
        }
        check_keys(members.iter().map(|(key, _)| key.as_ref()))?;
        Ok(Value::Object(members))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(body: &str) -> String {
        Document::parse(body.as_bytes()).map(|_| ()).unwrap_err().to_string()
    }

    #[test]
    fn values_keep_their_text() {
        let document = Document::parse(br#" {"a": 1.50, "b" : {"x":[true,null,"\u0061"]} } "#).unwrap();
        assert_eq!(
            document.fields.iter().map(|field| field.raw).collect::<Vec<_>>(),
            ["1.50", r#"{"x":[true,null,"\u0061"]}"#]
        );
        let inner = document.get("b").unwrap().get("x").unwrap();
        assert_eq!(inner, &Value::Array(vec![Value::Bool(true), Value::Null, Value::String("a".into())]));
        assert_eq!(document.get("a").unwrap().as_count(), None);
        assert_eq!(Value::Number(12.0).as_count(), Some(12));
    }

    #[test]
    fn what_two_parsers_could_read_in_two_ways_is_refused() {
        for body in [
            r#"{"max_tokens":1,"max_tokens":2}"#,
            r#"{"max_tokens":1,"max_\u0074okens":2}"#,
            r#"{"a":[{"b":{"c":1,"c":1}}]}"#,
            r#"{"a":{"\u0062":1,"b":1}}"#,
        ] {
            assert!(error(body).contains("twice"), "{body}: {}", error(body));
        }
        for body in
            ["", "[]", "{} x", "{}{}", "{\"a\":1,}", "{'a':1}", "{\"a\":NaN}", "{\"a\":01}", "\u{feff}{}"]
        {
            assert!(error(body).contains("not valid"), "{body}");
        }
        assert!(Document::parse(b"{\"a\":\"\xff\"}").is_err());
    }

    #[test]
    fn depth_and_number_of_values_are_bounded() {
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(5_000), "]".repeat(5_000));
        assert!(error(&deep).contains("recursion"));
        let many = format!("{{\"a\":[0{}]}}", ",0".repeat(MAX_VALUES));
        assert!(error(&many).contains("too many"));
    }
}
