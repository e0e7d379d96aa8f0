//! Invalid and unauthorized requests are refused with a clear error and without side effects.

use anyhow::{Context, ensure};
use serde_json::json;

use crate::TestResult;
use crate::harness::installation::Installation;

tests![
    invalid_request_is_refused_with_the_reason,
    requests_without_a_valid_key_are_refused,
    invalid_transition_names_the_state_and_what_is_allowed,
    oversized_disk_is_refused_and_leaves_nothing,
];

fn invalid_request_is_refused_with_the_reason(installation: &Installation) -> TestResult {
    let api = &installation.api;
    let cases = [
        (json!({}), 400, "name"),
        (json!({"name": "ok", "nmae": 1}), 400, "nmae"),
        (json!({"name": "Not A Name"}), 400, "name"),
        (json!({"name": "x".repeat(41)}), 400, "name"),
        (json!({"name": "ok", "template_id": "nonesuch"}), 400, "nonesuch"),
        (json!({"name": "ok", "ram_mb": "much"}), 400, "ram_mb"),
        (json!({"name": "ok", "ram_mb": -1}), 400, "ram_mb"),
        (json!({"name": "ok", "ram_mb": 1_000_000_000}), 402, "ram"),
        (json!({"name": "ok", "vcpu_count": 4096}), 402, "vcpu"),
    ];
    for (body, status, word) in cases {
        let response = api.post("/workspaces", &body)?;
        ensure!(response.status == status, "{body}: {} {}", response.status, response.body);
        ensure!(response.message().to_lowercase().contains(word), "{body}: {}", response.message());
    }
    let listed = api.get("/workspaces")?.expect(200)?;
    ensure!(
        listed.get("vms").and_then(|vms| vms.as_array()).is_some_and(Vec::is_empty),
        "something was created: {listed}"
    );
    let missing = api.get("/workspaces/ws-aaaaaaaa")?;
    ensure!(missing.status == 404 && missing.message().contains("not found"), "{}", missing.body);
    Ok(())
}

fn requests_without_a_valid_key_are_refused(installation: &Installation) -> TestResult {
    let mut outsider = crate::harness::api::Api::new(&installation.api.url)?;
    for key in ["", "rb_wrong", &format!("{}x", installation.key), &"rb_".repeat(20)] {
        outsider.key = key.to_owned();
        for path in ["/workspaces", "/workspaces/ws-aaaaaaaa", "/users/me", "/doctor"] {
            let response = outsider.get(path)?;
            ensure!(response.status == 401, "{path} with {key:?}: {}", response.status);
        }
        ensure!(
            outsider.post("/workspaces", &json!({"name": "mine"}))?.status == 401,
            "created with {key:?}"
        );
    }
    outsider.key = String::new();
    for path in ["/templates", "/capacity"] {
        outsider.get(path)?.expect(200)?;
    }
    let in_url = outsider.get(&format!("/workspaces?api_key={}", installation.key))?;
    ensure!(in_url.status >= 400, "a key in the URL was taken: {}", in_url.status);
    Ok(())
}

fn invalid_transition_names_the_state_and_what_is_allowed(installation: &Installation) -> TestResult {
    let api = &installation.api;
    let id = api.create("moves")?;
    for verb in ["stop", "cancel", "retry"] {
        let response = api.post(&format!("/workspaces/{id}/{verb}"), &json!({}))?;
        ensure!(response.status == 409 && response.code() == "invalid_state", "{verb}: {}", response.body);
        let message = response.message();
        ensure!(message.contains("provisioned") && message.contains("start"), "{verb}: {message}");
    }
    let exec = api.post(&format!("/workspaces/{id}/exec"), &json!({"command": "true"}))?;
    ensure!(exec.status == 409, "exec without a VM: {}", exec.body);
    let twice = api.post("/workspaces", &json!({"name": "moves"}))?;
    ensure!(twice.status == 409, "two of one name: {}", twice.body);
    ensure!(api.status(&id)? == "provisioned", "a refused request changed the status");
    api.remove(&id)
}

fn oversized_disk_is_refused_and_leaves_nothing(installation: &Installation) -> TestResult {
    let api = &installation.api;
    let response = api.post("/workspaces", &json!({"name": "huge", "disk_size_mb": 100_000_000}))?;
    if response.status == 201 {
        let id = response.body.pointer("/vm/id").and_then(|id| id.as_str()).context("id")?.to_owned();
        api.wait(&id, "failed")?;
        let failure = api.get(&format!("/workspaces/{id}"))?.expect(200)?;
        ensure!(failure.pointer("/failure/code").is_some_and(|code| code == "disk_full"), "{failure}");
        api.remove(&id)?;
    } else {
        ensure!(response.status == 402, "{}", response.body);
        ensure!(response.message().to_lowercase().contains("disk"), "{}", response.message());
    }
    let disks = std::fs::read_dir(installation.run_dir().join("node/own/volume/disks"))?.count();
    ensure!(disks == 0, "{disks} disks are left");
    Ok(())
}
