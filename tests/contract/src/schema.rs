//! Compiled schemas: JSON Schema 2020-12, with references into their document.

use std::collections::BTreeMap;
use std::sync::Arc;

use jsonschema::{Draft, Validator};
use serde_json::{Map, Value, json};

use crate::closed::closed;
use crate::error::InvalidDocument;

/// Compiled schema.
#[derive(Debug, Clone)]
pub(crate) struct Schema(Arc<Validator>);

/// Schemas of a document, each compiled once.
#[derive(Debug)]
pub(crate) struct Schemas {
    /// Named schemas, as in the document.
    named: Map<String, Value>,
    /// Closed named schemas, for references.
    components: Value,
    compiled: BTreeMap<String, Schema>,
}

impl Schema {
    /// Checks a value; the error lists the mismatches.
    pub(crate) fn check(&self, value: &Value) -> Result<(), String> {
        let problems: Vec<String> = self
            .0
            .iter_errors(value)
            .take(5)
            .map(|error| format!("at `{}`: {error}", error.instance_path()))
            .collect();
        if problems.is_empty() { Ok(()) } else { Err(problems.join("; ")) }
    }

    /// Checks JSON in `text`.
    pub(crate) fn check_text(&self, text: &[u8]) -> Result<(), String> {
        let value = serde_json::from_slice(text).map_err(|error| format!("not JSON: {error}"))?;
        self.check(&value)
    }
}

impl Schemas {
    pub(crate) fn new(document: &Value) -> Self {
        let named = document.pointer("/components/schemas").and_then(Value::as_object).cloned();
        let named = named.unwrap_or_default();
        let schemas: Map<_, _> =
            named.iter().map(|(name, schema)| (name.clone(), closed(schema, &named))).collect();
        Self { named, components: json!({"schemas": schemas}), compiled: BTreeMap::new() }
    }

    /// Compiles a named schema.
    pub(crate) fn named(&mut self, name: &str) -> Result<Schema, InvalidDocument> {
        if !self.named.contains_key(name) {
            return Err(InvalidDocument::Missing(format!("components/schemas/{name}")));
        }
        self.compile(&reference(name), name)
    }

    /// Compiles a schema, which is at `place` in the document.
    pub(crate) fn compile(&mut self, schema: &Value, place: &str) -> Result<Schema, InvalidDocument> {
        let text = schema.to_string();
        if let Some(compiled) = self.compiled.get(&text) {
            return Ok(compiled.clone());
        }
        let mut root = closed(schema, &self.named);
        if let Some(root) = root.as_object_mut() {
            root.insert("components".to_owned(), self.components.clone());
        }
        let validator = jsonschema::options()
            .with_draft(Draft::Draft202012)
            .should_validate_formats(true)
            .build(&root)
            .map_err(|error| InvalidDocument::Schema {
                place: place.to_owned(),
                problem: error.to_string(),
            })?;
        let schema = Schema(Arc::new(validator));
        self.compiled.insert(text, schema.clone());
        Ok(schema)
    }

    /// Returns a named schema, if it is compiled.
    pub(crate) fn find(&self, name: &str) -> Option<&Schema> {
        self.compiled.get(&reference(name).to_string())
    }
}

fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}
