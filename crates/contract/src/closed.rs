//! Makes schemas closed: a schema that names properties allows no others, so that a field which nobody documented is an error.

use serde_json::{Map, Value};

/// Keywords that hold one schema, a list of them, or schemas by name.
const ONE: [&str; 8] =
    ["items", "contains", "not", "if", "then", "else", "additionalProperties", "propertyNames"];
const LIST: [&str; 4] = ["oneOf", "anyOf", "allOf", "prefixItems"];
const NAMED: [&str; 4] = ["properties", "patternProperties", "dependentSchemas", "$defs"];

/// Where named schemas stand in a document.
const SCHEMAS: &str = "#/components/schemas/";

/// The schema and all schemas in it, closed. `named` are the document's.
pub(crate) fn closed(schema: &Value, named: &Map<String, Value>) -> Value {
    let mut schema = below(schema, named);
    if let Some(object) = schema.as_object_mut() {
        let says_itself =
            ["additionalProperties", "unevaluatedProperties"].iter().any(|key| object.contains_key(*key));
        if !says_itself && (object.contains_key("properties") || object.contains_key("allOf")) {
            object.insert("unevaluatedProperties".to_owned(), Value::Bool(false));
        }
    }
    schema
}

/// The schema as it is, with the schemas in it closed.
fn below(schema: &Value, named: &Map<String, Value>) -> Value {
    let Some(object) = schema.as_object() else { return schema.clone() };
    let of = |(key, value): (&String, &Value)| {
        let value = match (key.as_str(), value) {
            // The parts of one object: each of them lets the fields of the others pass, and the whole is closed.
            ("allOf", Value::Array(parts)) => {
                parts.iter().map(|part| below(resolved(part, named), named)).collect()
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
    Value::Object(object.iter().map(of).collect())
}

/// What a reference stands for; anything else is itself.
fn resolved<'a>(schema: &'a Value, named: &'a Map<String, Value>) -> &'a Value {
    let name = schema.get("$ref").and_then(Value::as_str).and_then(|text| text.strip_prefix(SCHEMAS));
    name.and_then(|name| named.get(name)).unwrap_or(schema)
}
