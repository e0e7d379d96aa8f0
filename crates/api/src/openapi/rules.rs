//! Rules between the fields of a request, which utoipa's types cannot express: they are added to the serialized document.

use serde_json::{Value, json};

/// Adds the rules to their schemas.
pub(super) fn add(document: &mut Value) {
    for (schema, rules) in all() {
        let schema = document.pointer_mut(&format!("/components/schemas/{schema}"));
        if let (Some(Value::Object(schema)), Value::Object(rules)) = (schema, rules) {
            schema.extend(rules);
        }
    }
}

fn all() -> [(&'static str, Value); 4] {
    [
        // A service has a port, a program of the command line has none.
        (
            "CreateAppRequest",
            json!({
                "if": {"properties": {"app_kind": {"const": "cli"}}, "required": ["app_kind"]},
                "then": {"properties": {"port": {"type": "null"}}},
                "else": {"properties": {"port": {"type": "integer"}}, "required": ["port"]},
            }),
        ),
        ("CreateApiKeyRequest", json!({"dependentRequired": {"role": ["workspaces"]}})),
        // The program is not an empty text.
        ("Command/oneOf/0", json!({"not": {"prefixItems": [{"const": ""}]}})),
        // A list has entries, and other modes have none.
        (
            "EgressUpdate",
            json!({
                "if": {"properties": {"mode": {"const": "list"}}, "required": ["mode"]},
                "then": {"anyOf": [
                    {"properties": {"domains": {"minItems": 1}}, "required": ["domains"]},
                    {"properties": {"cidrs": {"minItems": 1}}, "required": ["cidrs"]},
                ]},
                "else": {"properties": {"domains": {"maxItems": 0}, "cidrs": {"maxItems": 0}, "allow_ech": {"const": false}}},
            }),
        ),
    ]
}
