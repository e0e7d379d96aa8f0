//! Closes schemas: one that names properties allows no others, so that an undocumented field is an error.

use serde_json::{Map, Value};

/// Keywords with one schema, a list of schemas, or schemas by name.
const ONE: [&str; 8] =
    ["items", "contains", "not", "if", "then", "else", "additionalProperties", "propertyNames"];
const LIST: [&str; 4] = ["oneOf", "anyOf", "allOf", "prefixItems"];
const NAMED: [&str; 4] = ["properties", "patternProperties", "dependentSchemas", "$defs"];

/// Prefix of references to named schemas.
const SCHEMAS: &str = "#/components/schemas/";

/// Returns the schema with itself and all schemas in it closed. `named` are the document's.
pub(crate) fn closed(schema: &Value, named: &Map<String, Value>) -> Value {
    let mut schema = with_closed_children(schema, named);
    if let Some(object) = schema.as_object_mut() {
        let is_explicit =
            ["additionalProperties", "unevaluatedProperties"].iter().any(|key| object.contains_key(*key));
        if !is_explicit && (object.contains_key("properties") || object.contains_key("allOf")) {
            object.insert("unevaluatedProperties".to_owned(), Value::Bool(false));
        }
    }
    schema
}

/// Returns the schema with the schemas in it closed.
fn with_closed_children(schema: &Value, named: &Map<String, Value>) -> Value {
    let Some(object) = schema.as_object() else { return schema.clone() };
    let close = |(key, value): (&String, &Value)| {
        let value = match (key.as_str(), value) {
            // Parts of one object: each allows the fields of the others, and the whole is closed.
            ("allOf", Value::Array(parts)) => {
                parts.iter().map(|part| with_closed_children(resolved(part, named), named)).collect()
            }
            (key, value) if ONE.contains(&key) => closed(value, named),
            (key, Value::Array(list)) if LIST.contains(&key) => {
                list.iter().map(|schema| closed(schema, named)).collect()
            }
            (key, Value::Object(map)) if NAMED.contains(&key) => Value::Object(
                map.iter().map(|(name, schema)| (name.clone(), closed(schema, named))).collect(),
            ),
            (_, value) => value.clone(),
        };
        (key.clone(), value)
    };
    Value::Object(object.iter().map(close).collect())
}

/// Returns the target of a reference, or the schema itself.
fn resolved<'a>(schema: &'a Value, named: &'a Map<String, Value>) -> &'a Value {
    let name = schema.get("$ref").and_then(Value::as_str).and_then(|text| text.strip_prefix(SCHEMAS));
    name.and_then(|name| named.get(name)).unwrap_or(schema)
}
