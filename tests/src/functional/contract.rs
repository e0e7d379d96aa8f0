//! Generated requests: schemathesis derives them from the served OpenAPI document, and checks every response against it.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, ensure};
use rigbox_testkit::blocking::eventually;
use serde_json::{Value, json};

use crate::TestResult;
use crate::harness::api::Api;
use crate::harness::console::Console;
use crate::harness::installation::Installation;
use crate::harness::is_soak;

tests![no_request_causes_a_server_error_or_undocumented_response,];

/// Path of the program, which `cargo xtask test` installs.
const PROGRAM: &str = "RIGBOX_SCHEMATHESIS";
/// User with plan `free`: two workspaces at most, and high rates (see the installation's configuration).
const EMAIL: &str = "contract@example.org";
const CHECKS: &str =
    "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance";
/// Paths of operations that revoke keys.
const KEY_OPERATIONS: &str = "/api-keys/.id.";
/// Those, and event streams, which have no end.
const EXCLUDED_OPERATIONS: &str = "/api-keys/.id.|/logs/stream|/files/watch";
/// Generated requests per operation, in addition to those per property.
const EXAMPLES: &str = "10";
const MANY_EXAMPLES: &str = "300";

fn no_request_causes_a_server_error_or_undocumented_response(installation: &Installation) -> TestResult {
    let program = std::env::var_os(PROGRAM).map(PathBuf::from);
    let program = program.with_context(|| format!("{PROGRAM} is not set: run `cargo xtask test`"))?;
    installation.admin(&["user", "add", EMAIL, "--plan", "free"])?;
    let mut browser = Console::new(installation)?;
    browser.follow(&installation.admin(&["login-link", EMAIL])?)?;
    let api = installation.api.with_key(&browser.create_key("contract")?)?;
    let second = api.post("/api-keys", &json!({"name": "second"}))?.expect(201)?;
    let second = second.get("key").and_then(Value::as_str).context("no key")?;
    // Ids in responses are reused, so some request will revoke its own key.
    let made_up =
        run_schemathesis(installation, &program, &api.key, ["--exclude-path-regex", EXCLUDED_OPERATIONS])
            .and_then(|()| {
                run_schemathesis(installation, &program, second, ["--include-path-regex", KEY_OPERATIONS])
            });
    let cleaned = clean_up(&api);
    installation.admin(&["user", "disable", EMAIL])?;
    made_up.and(cleaned)
}

/// Runs schemathesis for the operations of `which`.
fn run_schemathesis(installation: &Installation, program: &Path, key: &str, which: [&str; 2]) -> TestResult {
    let soak = is_soak();
    let (examples, phases) =
        if soak { (MANY_EXAMPLES, "coverage,fuzzing,stateful") } else { (EXAMPLES, "coverage,fuzzing") };
    let output = std::process::Command::new(program)
        .arg("run")
        .arg(format!("{}/api-docs/openapi.json", installation.api.url))
        .args(["--header", &format!("Authorization: Bearer {key}")])
        .args(["--checks", CHECKS, "--max-examples", examples, "--phases", phases])
        .args(which)
        // A request that waits for a change waits for up to 120 s.
        .args(["--request-timeout", "150", "--max-redirects", "0", "--suppress-health-check", "all"])
        .args(["--seed", "1", "--generation-database", "none", "--continue-on-failure"])
        .args(["--no-color", "--warnings", "off"])
        .current_dir(&installation.scratch)
        .stdin(Stdio::null())
        .output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// Removes the user's workspaces, because leftovers are searched for at the end.
fn clean_up(api: &Api) -> TestResult {
    let listed = api.get("/workspaces")?.expect(200)?;
    let vms = listed.get("vms").and_then(Value::as_array).context("no list")?;
    for id in vms.iter().filter_map(|vm| vm.get("id")?.as_str()) {
        let path = format!("/workspaces/{id}");
        eventually("it can be deleted", Duration::from_secs(60), || {
            let response = api.delete(&path)?;
            if response.status == 409 {
                // In a transitional state, which can be canceled.
                api.post(&format!("{path}/cancel"), &json!({}))?;
            }
            Ok((response.status == 200 || response.status == 404).then_some(()))
        })?;
        api.wait_gone(id)?;
    }
    Ok(())
}
