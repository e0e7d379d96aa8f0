//! Published document against the contract of API v1 (`reference/api-v1.json`: paths, shapes and statuses;
//! clients rely on them). For the routes in both, everything that a client may rely on is there, with the same
//! type.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::support::TestControl;

/// One of the two documents.
struct Document(Value);

impl Document {
    fn resolve<'a>(&'a self, mut schema: &'a Value) -> &'a Value {
        while let Some(reference) = schema["$ref"].as_str() {
            schema = &self.0["components"]["schemas"][reference.rsplit('/').next().unwrap()];
        }
        schema
    }

    /// Returns the parts of a schema: `oneOf`, `anyOf` and `allOf` with their parts, but not `null`.
    fn parts<'a>(&'a self, schema: &'a Value) -> Vec<&'a Value> {
        let schema = self.resolve(schema);
        let below = ["oneOf", "anyOf", "allOf"].iter().filter_map(|key| schema[*key].as_array()).flatten();
        let mut parts: Vec<_> = below.flat_map(|part| self.parts(part)).collect();
        if !schema["type"].is_null() && schema["type"] != "null" {
            parts.push(schema);
        }
        parts
    }

    fn types(&self, schema: &Value) -> BTreeSet<String> {
        let names = |part: &Value| match &part["type"] {
            Value::Array(names) => names.clone(),
            name => vec![name.clone()],
        };
        let names = self.parts(schema).into_iter().flat_map(names);
        names.filter_map(|name| name.as_str().map(str::to_owned)).filter(|name| name != "null").collect()
    }

    fn properties<'a>(&'a self, schema: &'a Value) -> (BTreeMap<&'a str, &'a Value>, BTreeSet<&'a str>) {
        let (mut all, mut required) = (BTreeMap::new(), BTreeSet::new());
        for part in self.parts(schema) {
            all.extend(part["properties"].as_object().into_iter().flatten().map(|(n, v)| (n.as_str(), v)));
            required.extend(part["required"].as_array().into_iter().flatten().filter_map(Value::as_str));
        }
        (all, required)
    }
}

/// Both documents, and their differences.
struct Comparison {
    theirs: Document,
    ours: Document,
    differences: Vec<String>,
}

impl Comparison {
    fn differ(&mut self, at: &str, how: impl std::fmt::Display) {
        self.differences.push(format!("{at}: {how}"));
    }

    /// Compares what a client reads: everything promised is there; more is fine.
    fn compare_response(&mut self, theirs: &Value, ours: &Value, at: &str) {
        let (their_types, our_types) = (self.theirs.types(theirs), self.ours.types(ours));
        if their_types != our_types && !their_types.is_empty() {
            self.differ(at, format!("{our_types:?} instead of {their_types:?}"));
        }
        if their_types.contains("array") {
            let of = |document: &Document, schema: &Value| {
                document.parts(schema).first().map(|part| part["items"].clone())
            };
            if let (Some(theirs), Some(ours)) = (of(&self.theirs, theirs), of(&self.ours, ours)) {
                self.compare_response(&theirs, &ours, &format!("{at}[]"));
            }
            return;
        }
        let own = |(all, required): (BTreeMap<&str, &Value>, BTreeSet<&str>)| {
            let all: Vec<_> =
                all.into_iter().map(|(name, schema)| (name.to_owned(), schema.clone())).collect();
            (all, required.into_iter().map(str::to_owned).collect::<BTreeSet<_>>())
        };
        let (their_fields, promised) = own(self.theirs.properties(theirs));
        let (our_fields, always) = own(self.ours.properties(ours));
        for (name, theirs) in their_fields {
            let at = format!("{at}.{name}");
            if promised.contains(&name) && !always.contains(&name) {
                self.differ(&at, "promised, but optional");
            }
            if let Some((_, ours)) = our_fields.iter().find(|(our_name, _)| *our_name == name) {
                self.compare_response(&theirs, ours, &at);
            }
        }
    }

    fn operation(&mut self, theirs: &Value, ours: &Value, at: &str) {
        let json = |response: &Value| response["content"]["application/json"]["schema"].clone();
        for (status, response) in theirs["responses"].as_object().unwrap() {
            if status.starts_with('2') {
                if ours["responses"][status].is_null() {
                    self.differ(at, format!("no {status}"));
                }
                self.compare_response(
                    &json(response),
                    &json(&ours["responses"][status]),
                    &format!("{at} {status}"),
                );
            }
        }
        // Clients know these statuses and no others.
        let allowed = [
            "200", "201", "101", "400", "401", "402", "403", "404", "409", "413", "421", "422", "426", "429",
            "503",
        ];
        for status in ours["responses"].as_object().unwrap().keys() {
            if !allowed.contains(&status.as_str()) {
                self.differ(at, format!("unexpected status {status}"));
            }
        }
        // Everything required is in what a client sends.
        let (theirs, ours) = (json(&theirs["requestBody"]), json(&ours["requestBody"]));
        let (_, sent) = self.theirs.properties(&theirs);
        let (_, required) = self.ours.properties(&ours);
        let more: Vec<_> = required.difference(&sent).map(|name| format!("requires {name}")).collect();
        more.iter().for_each(|more| self.differ(at, more));
    }
}

#[tokio::test]
async fn document_keeps_what_clients_rely_on() {
    let rig = TestControl::new().await;
    let (_, ours) = rig.fetch(rig.client.get(rig.url("/api-docs/openapi.json"))).await;
    let theirs: Value = serde_json::from_str(include_str!("reference/api-v1.json")).unwrap();
    let mut comparison = Comparison {
        theirs: Document(theirs.clone()),
        ours: Document(ours.clone()),
        differences: Vec::new(),
    };
    let mut compared = 0;
    for (path, methods) in theirs["paths"].as_object().unwrap() {
        let Some(our_methods) = ours["paths"].get(path) else { continue };
        for (method, theirs) in methods.as_object().unwrap() {
            // Routes that do not exist yet are skipped.
            let Some(ours) = our_methods.get(method) else { continue };
            comparison.operation(theirs, ours, &format!("{method} {path}"));
            compared += 1;
        }
    }
    assert!(compared >= 9, "only {compared} operations are in both documents");
    assert!(comparison.differences.is_empty(), "{:#?}", comparison.differences);
}
