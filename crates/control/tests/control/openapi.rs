//! Published OpenAPI document: what code generators need, and what foreign validators say about it.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use crate::support::TestControl;

async fn document() -> Value {
    let rig = TestControl::new().await;
    rig.fetch(rig.client.get(rig.url("/api-docs/openapi.json"))).await.1
}

/// Returns the operations, each with its method and path.
fn operations(document: &Value) -> Vec<(String, &Value)> {
    let paths = document["paths"].as_object().unwrap();
    let of = |(path, methods): (&String, &'_ Value)| {
        let path = path.clone();
        let methods: Vec<_> = methods.as_object().unwrap().keys().cloned().collect();
        methods.into_iter().map(move |method| (method, path.clone()))
    };
    let all: Vec<_> = paths.iter().flat_map(of).collect();
    all.into_iter()
        .map(|(method, path)| (format!("{method} {path}"), &document["paths"][&path][&method]))
        .collect()
}

#[tokio::test]
async fn every_operation_has_a_unique_id_of_verb_and_noun() {
    let document = document().await;
    let mut ids = BTreeSet::new();
    for (name, operation) in operations(&document) {
        let id = operation["operationId"].as_str().unwrap_or_default();
        let readable = id.contains('_') && id.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
        assert!(readable, "{name}: `{id}` is not an id. Add for example operation_id = \"list_workspaces\".");
        assert!(ids.insert(id), "{name}: another operation has the id `{id}`");
    }
    for id in ["list_workspaces", "create_workspace", "start_workspace", "exec_command", "delete_workspace"] {
        assert!(ids.contains(id), "clients call {id}");
    }
}

#[tokio::test]
async fn every_operation_response_and_tag_is_described() {
    let document = document().await;
    let tags: BTreeSet<_> =
        document["tags"].as_array().unwrap().iter().map(|tag| &tag["name"]).map(Value::as_str).collect();
    for (name, operation) in operations(&document) {
        assert!(operation["summary"].is_string(), "{name} has no summary");
        assert!(operation["security"].is_array(), "{name} does not say whether it needs a credential");
        let tag = operation["tags"][0].as_str();
        assert!(tags.contains(&tag), "{name}: tag {tag:?} is not described");
        for (status, response) in operation["responses"].as_object().unwrap() {
            let text = response["description"].as_str().unwrap_or_default();
            assert!(!text.is_empty(), "{name}: {status} has no description");
        }
    }
    let used: BTreeSet<_> =
        operations(&document).iter().map(|(_, operation)| operation["tags"][0].as_str()).collect();
    assert_eq!(tags, used);
}

#[tokio::test]
async fn field_without_an_effect_says_so() {
    let document = document().await;
    let schemas = &document["components"]["schemas"];
    for (schema, fields) in [
        ("CreateWorkspaceRequest", &["catalog_ids", "service_spec_ids", "setup_script_ids"][..]),
        ("QuickDeployRequest", &["catalog_ids", "service_spec_ids", "setup_script_ids"]),
        ("App", &["system_tags", "depends_on"]),
        ("WorkspaceTemplate", &["default_log_sources"]),
        ("TemplateExpectedApp", &["system_tags"]),
    ] {
        for field in fields {
            let property = &schemas[schema]["properties"][field];
            let text = property["description"].as_str().unwrap_or_default();
            assert!(text.starts_with("Not available yet"), "{schema}.{field}: {property}");
            assert_eq!(property["maxItems"], 0, "{schema}.{field}");
        }
    }
}

/// Folder of the validators, which `cargo xtask test` installs.
const TOOLS: &str = "RIGBOX_OPENAPI_TOOLS";

/// Writes the document, and runs a validator on it. A test without the tools is skipped, and says so.
async fn validate(program: &str, arguments: &[&str]) {
    let Some(tools) = std::env::var_os(TOOLS).map(PathBuf::from) else {
        writeln!(std::io::stdout().lock(), "skipped: {TOOLS} is not set").unwrap();
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("openapi.json");
    std::fs::write(&path, document().await.to_string()).unwrap();
    let program = if program.contains('/') { tools.join(program) } else { PathBuf::from(program) };
    let mut command = Command::new(program);
    command.args(arguments).arg(&path).current_dir(&tools);
    // Neither usage statistics nor a look for updates.
    command.env("REDOCLY_TELEMETRY", "off").env("REDOCLY_SUPPRESS_UPDATE_NOTICE", "true");
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).chars().take(8_000).collect::<String>();
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
}

#[tokio::test]
async fn openapi_spec_validator_accepts_the_document() {
    validate("venv/bin/python", &["-m", "openapi_spec_validator"]).await;
}

#[tokio::test]
async fn redocly_accepts_the_document() {
    let config = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/openapi/redocly.yaml");
    validate("node", &["node_modules/@redocly/cli/bin/cli.js", "lint", "--config", config]).await;
}
