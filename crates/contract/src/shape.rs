//! Schemas that values are held against: JSON Schema 2020-12, with references into the document that they come from.

use std::collections::BTreeMap;
use std::sync::Arc;

use jsonschema::{Draft, Validator};
use serde_json::{Map, Value, json};

use crate::BadDocument;
use crate::closed::closed;

/// One schema.
#[derive(Debug, Clone)]
pub(crate) struct Shape(Arc<Validator>);

/// The schemas of a document, each made ready once.
#[derive(Debug)]
pub(crate) struct Shapes {
    /// As the document has them.
    named: Map<String, Value>,
    /// Closed, below the names that references have.
    components: Value,
    ready: BTreeMap<String, Shape>,
}

impl Shape {
    /// How `value` differs.
    pub(crate) fn check(&self, value: &Value) -> Result<(), String> {
        let problems: Vec<String> = self
            .0
            .iter_errors(value)
            .take(5)
            .map(|error| format!("at `{}`: {error}", error.instance_path()))
            .collect();
        if problems.is_empty() { Ok(()) } else { Err(problems.join("; ")) }
    }

    /// How the JSON in `text` differs.
    pub(crate) fn check_text(&self, text: &[u8]) -> Result<(), String> {
        let value = serde_json::from_slice(text).map_err(|error| format!("not JSON: {error}"))?;
        self.check(&value)
    }
}

impl Shapes {
    pub(crate) fn new(document: &Value) -> Self {
        let named = document.pointer("/components/schemas").and_then(Value::as_object).cloned();
        let named = named.unwrap_or_default();
        let schemas: Map<_, _> =
            named.iter().map(|(name, schema)| (name.clone(), closed(schema, &named))).collect();
        Self { named, components: json!({"schemas": schemas}), ready: BTreeMap::new() }
    }

    /// The named schema.
    pub(crate) fn named(&mut self, name: &str) -> Result<Shape, BadDocument> {
        if !self.named.contains_key(name) {
            return Err(BadDocument::Missing(format!("components/schemas/{name}")));
        }
        self.of(&reference(name), name)
    }

    /// A schema that stands at `place`.
    pub(crate) fn of(&mut self, schema: &Value, place: &str) -> Result<Shape, BadDocument> {
        let text = schema.to_string();
        if let Some(ready) = self.ready.get(&text) {
            return Ok(ready.clone());
        }
        let mut root = closed(schema, &self.named);
        if let Some(root) = root.as_object_mut() {
            root.insert("components".to_owned(), self.components.clone());
        }
        let validator = jsonschema::options()
            .with_draft(Draft::Draft202012)
            .should_validate_formats(true)
            .build(&root)
            .map_err(|error| BadDocument::Schema { place: place.to_owned(), problem: error.to_string() })?;
        let shape = Shape(Arc::new(validator));
        self.ready.insert(text, shape.clone());
        Ok(shape)
    }

    /// The named schema, if some answer has it.
    pub(crate) fn find(&self, name: &str) -> Option<&Shape> {
        self.ready.get(&reference(name).to_string())
    }
}

fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}
