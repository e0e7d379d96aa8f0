//! Tests of the contract: documented responses pass, and each kind of deviation is an error.

use serde_json::json;

use super::*;

fn contract() -> Contract {
    let refusal = json!({"description": "", "content": {"application/json": {"schema": {"$ref": "#/components/schemas/ApiErrorBody"}}}});
    let thing = |schema: &str| json!({"description": "", "content": {"application/json": {"schema": {"$ref": format!("#/components/schemas/{schema}")}}}});
    let events = json!({"description": "", "content": {"application/x-ndjson": {"schema": {"$ref": "#/components/schemas/Event"}}}});
    let document = json!({
        "openapi": "3.1.0",
        "paths": {
            "/api/v1/things": {"get": {"responses": {"200": {"description": "", "content": {"application/json": {
                "schema": {"type": "array", "items": {"$ref": "#/components/schemas/Thing"}}}}}}}},
            "/api/v1/things/{id}": {
                "get": {"responses": {"200": thing("Thing"), "404": refusal}},
                "delete": {"responses": {"204": {"description": "gone"}}},
            },
            "/api/v1/things/{id}/log": {"get": {"responses": {"200": events}}},
            "/api/v1/things/best": {"get": {"responses": {"200": thing("Best")}}},
        },
        "components": {"schemas": {
            "ApiErrorBody": {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}},
            "Thing": {"type": "object", "required": ["id", "size"], "properties": {
                "id": {"type": "string"},
                "size": {"type": "integer", "minimum": 0},
                "made": {"type": "string", "format": "date-time"},
                "parts": {"type": "array", "items": {"$ref": "#/components/schemas/Thing"}},
                "labels": {"type": "object", "additionalProperties": {"type": "string"}},
                "notes": {},
            }},
            "Best": {"allOf": [
                {"$ref": "#/components/schemas/Thing"},
                {"type": "object", "required": ["prize"], "properties": {"prize": {"type": "string"}}},
            ]},
            "Event": {"oneOf": [
                {"type": "object", "required": ["line"], "properties": {"line": {"type": "string"}}},
                {"type": "object", "required": ["end"], "properties": {"end": {"type": "integer"}}},
            ]},
        }},
    });
    Contract::new(&document.to_string()).unwrap()
}

fn check(method: &str, path: &str, status: u16, kind: &str, body: &str) -> Result<(), Violation> {
    contract().check(&Exchange {
        method: &method.parse().unwrap(),
        path,
        status: StatusCode::from_u16(status).unwrap(),
        content_type: Some(kind).filter(|kind| !kind.is_empty()),
        body: Some(body.as_bytes()),
    })
}

fn thing(body: &str) -> Result<(), Violation> {
    check("GET", "/api/v1/things/1", 200, JSON, body)
}

#[test]
fn documented_response_passes() {
    thing(r#"{"id": "a", "size": 1}"#).unwrap();
    thing(r#"{"id": "a", "size": 1, "labels": {"any": "thing"}, "notes": {"more": [1]}, "made": "2026-01-01T00:00:00Z"}"#).unwrap();
    check("GET", "/v1/things/1", 200, "application/json; charset=utf-8", r#"{"id": "a", "size": 1}"#)
        .unwrap();
    check("GET", "/api/v1/things", 200, JSON, r#"[{"id": "a", "size": 1}]"#).unwrap();
    check("GET", "/api/v1/things/best", 200, JSON, r#"{"id": "a", "size": 1, "prize": "b"}"#).unwrap();
    check("DELETE", "/api/v1/things/1", 204, "", "").unwrap();
    check("HEAD", "/api/v1/things/1", 200, JSON, "").unwrap();
}

#[test]
fn undocumented_status_is_an_error() {
    let refusal = r#"{"error": "no"}"#;
    check("GET", "/api/v1/things/1", 404, JSON, refusal).unwrap();
    assert!(matches!(check("GET", "/api/v1/things/1", 409, JSON, refusal), Err(Violation::Status { .. })));
    assert!(matches!(check("GET", "/api/v1/things/1", 500, JSON, refusal), Err(Violation::Status { .. })));
}

#[test]
fn missing_field_is_an_error() {
    assert!(matches!(thing(r#"{"id": "a"}"#), Err(Violation::Body { .. })));
}

#[test]
fn undocumented_field_is_an_error() {
    for body in [
        r#"{"id": "a", "size": 1, "colour": "red"}"#,
        r#"{"id": "a", "size": 1, "parts": [{"id": "b", "size": 1, "colour": "red"}]}"#,
    ] {
        let violation = thing(body).unwrap_err().to_string();
        assert!(violation.contains("colour"), "{violation}");
    }
    let best = check(
        "GET",
        "/api/v1/things/best",
        200,
        JSON,
        r#"{"id": "a", "size": 1, "prize": "b", "colour": "red"}"#,
    );
    assert!(best.unwrap_err().to_string().contains("colour"));
    assert!(
        check("GET", "/api/v1/things", 200, JSON, r#"[{"id": "a", "size": 1, "colour": "red"}]"#).is_err()
    );
}

#[test]
fn wrong_type_is_an_error() {
    for body in [
        r#"{"id": 1, "size": 1}"#,
        r#"{"id": "a", "size": -1}"#,
        r#"{"id": "a", "size": null}"#,
        r#"{"id": "a", "size": 1, "labels": {"any": 1}}"#,
        r#"{"id": "a", "size": 1, "made": "yesterday"}"#,
        r#"[]"#,
        "not JSON",
        "",
    ] {
        assert!(matches!(thing(body), Err(Violation::Body { .. })), "{body}");
    }
}

#[test]
fn undocumented_content_type_is_an_error() {
    let body = r#"{"id": "a", "size": 1}"#;
    for kind in ["", "text/plain; charset=utf-8"] {
        assert!(
            matches!(check("GET", "/api/v1/things/1", 200, kind, body), Err(Violation::ContentType { .. })),
            "{kind}"
        );
    }
    assert!(matches!(
        check("DELETE", "/api/v1/things/1", 204, JSON, "{}"),
        Err(Violation::ContentType { .. })
    ));
    assert!(matches!(check("DELETE", "/api/v1/things/1", 204, "", "x"), Err(Violation::Body { .. })));
}

#[test]
fn every_line_of_a_stream_is_checked() {
    let log = |body: &str| check("GET", "/api/v1/things/1/log", 200, NDJSON, body);
    log("{\"line\": \"a\"}\n{\"end\": 0}\n").unwrap();
    log("").unwrap();
    for body in ["{\"line\": \"a\"}\n{\"stop\": 0}\n", "{\"line\": \"a\", \"end\": 0}\n", "line\n"] {
        assert!(matches!(log(body), Err(Violation::Body { .. })), "{body}");
    }
    let contract = contract();
    contract.check_value("Event", &json!({"end": 1})).unwrap();
    assert!(contract.check_value("Event", &json!({"end": "1"})).is_err());
    assert!(contract.check_value("Nonesuch", &json!({})).is_err());
}

#[test]
fn undocumented_request_may_only_be_refused() {
    let refusal = r#"{"error": "no"}"#;
    check("GET", "/api/v1/nothing", 404, JSON, refusal).unwrap();
    check("GET", "/api/v1/nothing", 421, JSON, refusal).unwrap();
    check("PATCH", "/api/v1/things", 405, JSON, refusal).unwrap();
    assert!(matches!(check("GET", "/api/v1/nothing", 200, JSON, "{}"), Err(Violation::Operation { .. })));
    assert!(matches!(check("GET", "/api/v1/nothing", 405, JSON, refusal), Err(Violation::Operation { .. })));
    assert!(matches!(check("PATCH", "/api/v1/things", 404, JSON, refusal), Err(Violation::Operation { .. })));
    assert!(matches!(check("GET", "/api/v1/nothing", 404, JSON, "{}"), Err(Violation::Body { .. })));
    assert!(matches!(check("GET", "/api/v1/things//log", 200, NDJSON, ""), Err(Violation::Operation { .. })));
}

#[test]
fn invalid_document_is_an_error() {
    assert!(matches!(Contract::new("{"), Err(InvalidDocument::NotJson(_))));
    assert!(matches!(Contract::new("{}"), Err(InvalidDocument::Missing(_))));
}
