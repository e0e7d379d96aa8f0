//! Requests that nobody thought of: schemathesis makes them up from the served document, and holds every answer against it.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use crate::TestResult;
use crate::harness::api::Api;
use crate::harness::console::Console;
use crate::harness::installation::{Installation, eventually};

tests![no_request_causes_a_server_error_or_undocumented_response,];

/// The program; `cargo xtask test` installs it and says where.
const PROGRAM: &str = "RIGBOX_SCHEMATHESIS";
/// A user of plan `free`: two workspaces at most, and rates that do not get into the way (see the installation's configuration).
const EMAIL: &str = "contract@example.org";
const CHECKS: &str =
    "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance";
/// Paths of operations on keys that exist.
const ENDS_KEYS: &str = "/api-keys/.id.";
/// The same, and streams of events, which have no end.
const NOT_TOGETHER: &str = "/api-keys/.id.|/logs/stream";
/// Requests created up for each operation, beside those for each property of it.
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
    // Ids that were seen in answers are used again: some request will end the key that it shows.
    let made_up = requests(installation, &program, &api.key, ["--exclude-path-regex", NOT_TOGETHER])
        .and_then(|()| requests(installation, &program, second, ["--include-path-regex", ENDS_KEYS]));
    let cleaned = clean_up(&api);
    installation.admin(&["user", "disable", EMAIL])?;
    made_up.and(cleaned)
}

/// Has requests created up for the operations of `which`.
fn requests(installation: &Installation, program: &Path, key: &str, which: [&str; 2]) -> TestResult {
    let soak = std::env::var_os("RIGBOX_SOAK").is_some();
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

/// Removes the user's workspaces: what is left is looked for at the end.
fn clean_up(api: &Api) -> TestResult {
    let listed = api.get("/workspaces")?.expect(200)?;
    let vms = listed.get("vms").and_then(Value::as_array).context("no list")?;
    for id in vms.iter().filter_map(|vm| vm.get("id")?.as_str()) {
        let path = format!("/workspaces/{id}");
        eventually("it can be deleted", Duration::from_secs(60), || {
            let answer = api.delete(&path)?;
            if answer.status == 409 {
                // On its way to somewhere, which it may give up.
                api.post(&format!("{path}/cancel"), &json!({}))?;
            }
            Ok((answer.status == 200 || answer.status == 404).then_some(()))
        })?;
        api.wait_gone(id)?;
    }
    Ok(())
}
