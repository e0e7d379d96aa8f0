//! Request schemas of the published document are as strict as the server: what they forbid is answered with 400, and what they allow is
//! not. Left out is what no schema can say: times in the future, public networks, and the state of things.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::TestControl;

/// A running workspace with an app, and the document.
struct Fixture {
    rig: TestControl,
    workspace: String,
    app: String,
    document: Value,
}

impl Fixture {
    async fn new() -> Self {
        let rig = TestControl::new().await;
        let (_, document) = rig.fetch(rig.client.get(rig.url("/api-docs/openapi.json"))).await;
        let workspace = rig.running("web").await;
        let body = json!({"name": "my-site", "workspace_id": workspace, "port": 8080});
        let (status, created) = rig.call(Method::POST, "/apps", Some(body)).await;
        assert_eq!(status, 201, "{created}");
        let app = created["app"]["id"].as_str().unwrap().to_owned();
        Self { rig, workspace, app, document }
    }

    fn operation(&self, method: &Method, path: &str) -> &Value {
        let method = method.as_str().to_lowercase();
        let operation = &self.document["paths"][format!("/api/v1{path}")][&method];
        assert!(operation.is_object(), "{method} {path} is not documented");
        operation
    }

    /// Returns whether a schema of the document allows the value.
    fn allows(&self, schema: &Value, value: &Value) -> bool {
        let mut schema = schema.clone();
        schema["components"] = self.document["components"].clone();
        jsonschema::validator_for(&schema).unwrap().is_valid(value)
    }

    fn url(&self, path: &str) -> String {
        let id = if path.starts_with("/apps") { &self.app } else { &self.workspace };
        path.replace("{id}", id)
    }

    async fn check_body(&self, method: Method, path: &str, body: Value, allowed: bool) {
        let what = format!("{method} {path} {body:.300}");
        let schema = &self.operation(&method, path)["requestBody"]["content"]["application/json"]["schema"];
        assert_eq!(self.allows(schema, &body), allowed, "the schema of {what}");
        let (status, response) = self.rig.call(method, &self.url(path), Some(body)).await;
        assert_eq!(status != 400, allowed, "the response to {what}: {status} {response}");
    }

    async fn check_parameter(&self, method: Method, path: &str, name: &str, value: Value, allowed: bool) {
        let parameters = self.operation(&method, path)["parameters"].as_array().unwrap();
        let parameter = parameters.iter().find(|parameter| parameter["name"] == name).unwrap();
        let what = format!("{method} {path} {name}={value}");
        assert_eq!(self.allows(&parameter["schema"], &value), allowed, "the schema of {what}");
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let request = if parameter["in"] == "header" {
            let request = self.rig.request(method, &self.url(path)).header(name, text);
            request.json(&json!({"name": "with-header"}))
        } else {
            let mut query = vec![(name, text.as_str())];
            if path.ends_with("/files") && name != "path" {
                query.push(("path", "a"));
            }
            let url = reqwest::Url::parse_with_params("http://localhost", query).unwrap();
            self.rig.request(method, &format!("{}?{}", self.url(path), url.query().unwrap()))
        };
        let (status, response) = self.rig.fetch(request).await;
        assert_eq!(status != 400, allowed, "the response to {what}: {status} {response}");
    }
}

#[tokio::test]
async fn workspace_schemas_are_as_strict_as_the_server() {
    let fixture = Fixture::new().await;
    for (body, allowed) in [
        (json!({"name": "a-1", "template_id": "base", "image": "base", "catalog_ids": []}), true),
        (json!({"name": "a-2", "ram_mb": 1, "template_id": null}), true),
        (json!({"name": "A"}), false),
        (json!({"name": "x".repeat(41)}), false),
        (json!({"name": "a-3", "ram_mb": 0}), false),
        (json!({"name": "a-3", "template_id": "nonesuch"}), false),
        (json!({"name": "a-3", "image": "other"}), false),
        (json!({"name": "a-3", "catalog_ids": ["a"]}), false),
        (json!({"name": "a-3", "color": "red"}), false),
    ] {
        fixture.check_body(Method::POST, "/workspaces", body, allowed).await;
    }
    for (egress, allowed) in [
        (json!({"mode": "none"}), true),
        (json!({"mode": "list", "domains": ["*.example.org", "a_b.example.org"]}), true),
        (json!({"mode": "list", "domains": ["example.org:5432"], "allow_ech": true}), true),
        (json!({"mode": "list", "domains": ["example.org:25"]}), false),
        (json!({"mode": "list", "domains": ["example.org:65536"]}), false),
        (json!({"mode": "internet", "allow_ech": true}), false),
        (json!({"mode": "list", "cidrs": ["93.184.216.0/24", "1.1.1.1"]}), true),
        (json!({"mode": "list"}), false),
        (json!({"mode": "list", "domains": [], "cidrs": []}), false),
        (json!({"mode": "list", "domains": ["localhost"]}), false),
        (json!({"mode": "list", "cidrs": ["example.org"]}), false),
        (json!({"mode": "none", "domains": ["example.org"]}), false),
        (json!({"mode": "internet", "cidrs": ["1.1.1.1"]}), false),
        (json!({"mode": "some"}), false),
    ] {
        let body = json!({"egress": egress});
        fixture.check_body(Method::PATCH, "/workspaces/{id}/network", body, allowed).await;
    }
    for (variables, allowed) in [
        (json!({"A": "b", "_1": "", "LONG": "ä".repeat(20_000)}), true),
        (json!({"1A": "b"}), false),
        (json!({"A-B": "c"}), false),
        (json!({"UID": "0"}), false),
        (json!({"A": "***"}), false),
        (json!({"A": "\0"}), false),
        (json!({"A": "x".repeat(32_769)}), false),
        (json!({"x".repeat(129): "b"}), false),
    ] {
        let body = json!({"env_vars": variables});
        fixture.check_body(Method::POST, "/workspaces/{id}/env", body, allowed).await;
    }
}

#[tokio::test]
async fn exec_schema_is_as_strict_as_the_server() {
    let fixture = Fixture::new().await;
    for (body, allowed) in [
        (
            json!({"command": "true", "user": "root", "timeout_s": 0.5, "cwd": "/", "stdin_b64": "aGVsbG8="}),
            true,
        ),
        (json!({"command": ["true", ""], "env": {"any-name": "b"}, "user": null}), true),
        (json!({}), false),
        (json!({"command": []}), false),
        (json!({"command": ["", "a"]}), false),
        (json!({"command": " "}), false),
        (json!({"command": "true", "user": "daemon"}), false),
        (json!({"command": "true", "timeout_s": 0}), false),
        (json!({"command": "true", "timeout_s": 1_000_001}), false),
        (json!({"command": "true", "cwd": "tmp"}), false),
        (json!({"command": "true", "env": {"A=B": "c"}}), false),
        (json!({"command": "true", "env": {"": "c"}}), false),
        (json!({"command": "true", "stdin_b64": "aGVsbG9="}), false),
        (json!({"command": "true", "tty": true}), false),
    ] {
        fixture.check_body(Method::POST, "/workspaces/{id}/exec", body, allowed).await;
    }
}

#[tokio::test]
async fn app_schemas_are_as_strict_as_the_server() {
    let fixture = Fixture::new().await;
    let create = |more: Value| {
        let mut body = json!({"name": "app-1", "workspace_id": fixture.workspace});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    for (more, allowed) in [
        (json!({"port": 65_535, "protocol": "grpc", "metadata": {"a": [1]}}), true),
        (json!({"name": "tool", "app_kind": "cli", "port": null, "metadata": null}), true),
        (json!({}), false),
        (json!({"port": 0}), false),
        (json!({"port": 65_536}), false),
        (json!({"port": null}), false),
        (json!({"port": 80, "app_kind": "cli"}), false),
        (json!({"port": 80, "name": "www"}), false),
        (json!({"port": 80, "name": "ab--cd"}), false),
        (json!({"port": 80, "name": "ab"}), false),
        (json!({"port": 80, "protocol": "ftp"}), false),
        (json!({"port": 80, "metadata": []}), false),
        (json!({"port": 80, "description": "x".repeat(1_001)}), false),
    ] {
        fixture.check_body(Method::POST, "/apps", create(more), allowed).await;
    }
    for (body, allowed) in [
        (json!({"status": "inactive", "port": 1, "description": "ä".repeat(1_000)}), true),
        (json!({"status": "active", "custom_domain": "app.example.org", "visibility": "public"}), true),
        (json!({"custom_domain": "", "description": null}), true),
        (json!({"allowed_emails": ["ada@example.org"], "cors_origins": ["https://a.example:8443"]}), true),
        (json!({"status": "paused"}), false),
        (json!({"custom_domain": "localhost"}), false),
        (json!({"custom_domain": "192.0.2.1"}), false),
        (json!({"allowed_emails": ["ada"]}), false),
        (json!({"cors_origins": ["https://a.example/path"]}), false),
        (json!({"cors_origins": ["a.example"]}), false),
        (json!({"port": 0}), false),
    ] {
        fixture.check_body(Method::PATCH, "/apps/{id}", body, allowed).await;
    }
    for (params, allowed) in [
        (json!({"MODE": "fast", "OLD": null, "LONG": "ä".repeat(4_096)}), true),
        (json!({"1": "a"}), false),
        (json!({"A": "b\n"}), false),
        (json!({"A": "x".repeat(4_097)}), false),
    ] {
        let body = json!({"params": params});
        fixture.check_body(Method::PATCH, "/apps/{id}/params", body, allowed).await;
    }
    for body in
        [json!({"port": 0, "step": "detect"}), json!({"port": 80, "step": "run"}), json!({"port": 80})]
    {
        fixture.check_body(Method::POST, "/workspaces/{id}/expose-port", body, false).await;
    }
}

#[tokio::test]
async fn account_schemas_are_as_strict_as_the_server() {
    let fixture = Fixture::new().await;
    for (body, allowed) in [
        (json!({"name": "ä b"}), true),
        (json!({"name": "limited", "workspaces": [fixture.workspace], "role": "operate"}), true),
        (json!({"name": ""}), false),
        (json!({"name": "a\nb"}), false),
        (json!({"name": "x".repeat(65)}), false),
        (json!({"name": "a", "role": "read"}), false),
        (json!({"name": "a", "workspaces": []}), false),
        (json!({"name": "a", "workspaces": [fixture.workspace], "role": "owner"}), false),
    ] {
        fixture.check_body(Method::POST, "/api-keys", body, allowed).await;
    }
    for (body, allowed) in
        [(json!(null), true), (json!({"grace_s": 604_800}), true), (json!({"grace_s": 604_801}), false)]
    {
        fixture.check_body(Method::POST, "/api-keys/{id}/rotate", body, allowed).await;
    }
    for (mode, allowed) in
        [(json!("byok"), true), (json!("managed"), true), (json!("free"), false), (json!(""), false)]
    {
        fixture.check_body(Method::PUT, "/users/me/ai-mode", json!({"mode": mode}), allowed).await;
        fixture.check_body(Method::PUT, "/workspaces/{id}/mode", json!({"mode": mode}), allowed).await;
    }
    for (body, allowed) in
        [(json!({"mode": null}), true), (json!({}), true), (json!({"moed": "byok"}), false)]
    {
        fixture.check_body(Method::PUT, "/workspaces/{id}/mode", body, allowed).await;
    }
    fixture.check_body(Method::PUT, "/users/me/ai-mode", json!({"mode": null}), false).await;
    let (encoded, p256) =
        ("AAAAC3NzaC1lZDI1NTE5AAAAINzDTkJ/Qj8U6p6Vt76Q8GWs+YJVqzBcInAJ6CcLfDb9", "ecdsa-sha2-nistp256");
    for (name, line, allowed) in [
        ("laptop", format!("ssh-ed25519 {encoded} ada@laptop\n"), true),
        // Weak keys are well-formed, and answered with 422.
        ("dsa", format!("ssh-dss {encoded}"), true),
        ("a\nb", format!("ssh-ed25519 {encoded}"), false),
        ("a", format!("no-touch-required ssh-ed25519 {encoded}"), false),
        ("a", format!("no-pty ssh-ed25519 {encoded}"), false),
        ("a", format!("ssh-ed25519 {encoded} a\u{7}"), false),
        ("a", format!("{p256}-cert-v01@openssh.com {encoded}"), false),
        ("a", format!("ssh-ed25519 {encoded}\n{p256} {encoded}"), false),
        ("a", "ssh-ed25519".to_owned(), false),
        ("a", format!("ssh-ed25519 {encoded} {}", "x".repeat(17_000)), false),
    ] {
        let body = json!({"name": name, "public_key": line});
        fixture.check_body(Method::POST, "/ssh-keys", body, allowed).await;
    }
    let rotate = fixture.operation(&Method::POST, "/api-keys/{id}/rotate");
    assert_ne!(rotate["requestBody"]["required"], true, "a body is optional");
    for (email, allowed) in [("ada+b@example.org", true), ("ada", false), ("ada@", false)] {
        fixture.check_body(Method::POST, "/auth/link", json!({"email": email}), allowed).await;
    }
    for (machine, allowed) in [("ada's laptop", true), ("", false), ("a\u{7f}", false)] {
        fixture.check_body(Method::POST, "/auth/device", json!({"machine": machine}), allowed).await;
    }
}

#[tokio::test]
async fn parameters_are_as_strict_as_the_server() {
    let fixture = Fixture::new().await;
    for (path, name, value, allowed) in [
        ("/workspaces", "limit", json!(1_000), true),
        ("/workspaces", "limit", json!(0), false),
        ("/workspaces", "limit", json!(1_001), false),
        ("/workspaces", "status", json!("running"), true),
        ("/workspaces", "status", json!("off"), false),
        ("/workspaces", "cursor", json!("1700000000000.ws-abcdefgh"), true),
        ("/workspaces", "cursor", json!("abc"), false),
        ("/apps", "cursor", json!("1700000000000.app-abcdefgh"), true),
        ("/apps", "cursor", json!(""), false),
        ("/audit-log", "cursor", json!("17"), true),
        ("/audit-log", "cursor", json!("x"), false),
        ("/workspaces/{id}", "wait_until_not", json!("stopped"), true),
        ("/workspaces/{id}", "wait_until_not", json!("gone"), false),
        ("/workspaces/{id}", "timeout_s", json!(120), true),
        ("/workspaces/{id}", "timeout_s", json!(121), false),
        ("/workspaces/{id}/logs", "cursor", json!("17"), true),
        ("/workspaces/{id}/logs", "cursor", json!("-1"), false),
        ("/workspaces/{id}/logs", "lines", json!(0), false),
        ("/workspaces/{id}/files", "path", json!("a"), true),
        ("/workspaces/{id}/files", "path", json!(""), false),
        ("/workspaces/{id}/files", "path", json!("a\0"), false),
        ("/workspaces/{id}/files", "user", json!("root"), true),
        ("/workspaces/{id}/files", "user", json!("daemon"), false),
    ] {
        fixture.check_parameter(Method::GET, path, name, value, allowed).await;
    }
    for (mode, allowed) in [("644", true), ("0755", true), ("0", false), ("888", false), ("17777", false)] {
        fixture.check_parameter(Method::PUT, "/workspaces/{id}/files", "mode", json!(mode), allowed).await;
    }
    for (key, allowed) in [("a b", true), (&"x".repeat(255), true), (&"x".repeat(256), false)] {
        fixture.check_parameter(Method::POST, "/workspaces", "Idempotency-Key", json!(key), allowed).await;
    }
}
