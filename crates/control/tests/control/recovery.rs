//! Recovery: any process may die at any time, and nothing remains half done.

use std::time::Duration;

use reqwest::Method;
use rigbox_control::{Timeouts, admin};
use rigbox_proto::node::Cause;

use crate::support::{TestControl, eventually};

fn short() -> Timeouts {
    let short = Duration::from_millis(1500);
    Timeouts { provisioning: short, starting: short, stopping: short, deleting: short }
}

/// Kills control while the node performs `call`, once with the call lost and once with it done while control
/// is down.
async fn killed_during(call: &'static str, begin: impl AsyncFn(&TestControl) -> String, ends: &str) {
    for finished_meanwhile in [false, true] {
        let mut rig = TestControl::new().await;
        rig.node.hold(call);
        let id = begin(&rig).await;
        eventually("the node got the call", || async { rig.node.calls(call) > 0 }).await;
        rig.kill_control();
        if finished_meanwhile {
            rig.node.release(call);
            rig.start_control().await;
        } else {
            rig.start_control().await;
            rig.node.release(call);
        }
        rig.until(&id, ends).await;
        assert_eq!(rig.node.alive(&id), ends == "running");
        assert_eq!(rig.node.has(&id), ends != "gone");
    }
}

#[tokio::test]
async fn workspace_survives_control_being_killed_in_each_transient_status() {
    killed_during("provision", async |rig| rig.create("one").await, "provisioned").await;
    killed_during(
        "start",
        async |rig| {
            let id = rig.provisioned("one").await;
            rig.post(&format!("/workspaces/{id}/start")).await;
            id
        },
        "running",
    )
    .await;
    killed_during(
        "stop",
        async |rig| {
            let id = rig.running("one").await;
            rig.post(&format!("/workspaces/{id}/stop")).await;
            id
        },
        "stopped",
    )
    .await;
    killed_during(
        "delete",
        async |rig| {
            let id = rig.running("one").await;
            rig.call(Method::DELETE, &format!("/workspaces/{id}"), None).await;
            id
        },
        "gone",
    )
    .await;
}

#[tokio::test]
async fn workspace_created_while_the_node_is_read_is_not_lost() {
    let mut rig = TestControl::new().await;
    rig.kill_node();
    // The node answers with what it had before the workspace.
    rig.node.hold("watch");
    let read = rig.node.calls("watch");
    rig.start_node();
    eventually("control reads the node", || async { rig.node.calls("watch") > read }).await;
    let id = rig.create("one").await;
    eventually("the node has it", || async { rig.node.has(&id) }).await;
    rig.node.release("watch");
    rig.until(&id, "provisioned").await;
    rig.post(&format!("/workspaces/{id}/start")).await;
    rig.until(&id, "running").await;
}

#[tokio::test]
async fn workspace_in_the_queue_of_boots_shows_its_place_and_does_not_time_out() {
    let rig = TestControl::with(short()).await;
    let id = rig.provisioned("one").await;
    rig.node.queue_boots(Some(3));
    rig.post(&format!("/workspaces/{id}/start")).await;
    let position = async || rig.get(&format!("/workspaces/{id}")).await.1["vm"]["queue_position"].clone();
    eventually("it is in the queue", || async { position().await == 3 }).await;
    // For longer than a start may take.
    let wait = format!("/workspaces/{id}?wait_until_not=starting&timeout_s=3");
    assert_eq!(rig.get(&wait).await.1["vm"]["status"], "starting");
    assert_eq!(rig.get("/workspaces").await.1["vms"][0]["queue_position"], 3);
    rig.node.queue_boots(None);
    let running = rig.until(&id, "running").await;
    assert!(running["vm"].get("queue_position").is_none(), "{running}");

    // Who gives up leaves the queue.
    rig.post(&format!("/workspaces/{id}/stop")).await;
    rig.until(&id, "stopped").await;
    rig.node.queue_boots(Some(1));
    rig.post(&format!("/workspaces/{id}/start")).await;
    eventually("it is in the queue again", || async { position().await == 1 }).await;
    rig.post(&format!("/workspaces/{id}/cancel")).await;
    rig.until(&id, "stopped").await;
}

#[tokio::test]
async fn each_end_of_a_vm_changes_the_status_of_its_workspace() {
    let rig = TestControl::new().await;
    for (cause, status, code) in [
        (Cause::Poweroff, "stopped", None),
        (Cause::Halt, "stopped", None),
        (Cause::KernelPanic, "failed", Some("kernel_panic")),
        (Cause::VmmDied, "failed", Some("vmm_died")),
        (Cause::EndedUnobserved, "failed", Some("ended_unobserved")),
        (Cause::AgentNeverAnswered, "failed", Some("agent_never_answered")),
        (Cause::StartFailed, "failed", Some("start_failed")),
    ] {
        let id = rig.running(&format!("w{}", cause as i32)).await;
        rig.node.end(&id, cause);
        let body = rig.until(&id, status).await;
        assert_eq!(body["failure"]["code"].as_str(), code, "{body}");
        assert_eq!(body["vm"]["failure_code"].as_str(), code);
    }
    for cause in [Cause::Reboot, Cause::HostWentDown] {
        let id = rig.running(&format!("w{}", cause as i32)).await;
        let before = rig.node.boot(&id);
        rig.node.end(&id, cause);
        eventually("another boot", || async { rig.node.boot(&id) != before }).await;
        rig.until(&id, "running").await;
    }
}

#[tokio::test]
async fn failed_workspace_can_be_retried() {
    let rig = TestControl::new().await;
    rig.node.fail("provision", "disk_full", "12 MiB are left, 4096 are needed");
    let id = rig.create("one").await;
    let body = rig.until(&id, "failed").await;
    assert_eq!(body["failure"]["code"], "disk_full");
    assert_eq!(body["failure"]["retryable"], true);
    assert!(body["failure"]["message"].as_str().unwrap().contains("12 MiB"));
    rig.node.recover("provision");
    assert_eq!(rig.post(&format!("/workspaces/{id}/retry")).await.0, 200);
    let body = rig.until(&id, "running").await;
    assert!(body.get("failure").is_none());
}

#[tokio::test]
async fn no_transient_status_outlives_its_timeout() {
    for (call, request, code) in [
        ("provision", None, "timeout_provisioning"),
        ("start", Some((Method::POST, "start")), "timeout_starting"),
        ("delete", Some((Method::DELETE, "")), "timeout_deleting"),
    ] {
        let rig = TestControl::with(short()).await;
        let id = if request.is_some() { rig.provisioned("one").await } else { String::new() };
        rig.node.hold(call);
        let id = match request {
            Some((method, path)) => {
                let path = format!("/workspaces/{id}/{path}");
                rig.call(method, path.trim_end_matches('/'), None).await;
                id
            }
            None => rig.create("one").await,
        };
        let body = rig.until(&id, "failed").await;
        assert_eq!(body["failure"]["code"], code);
        rig.node.release(call);
    }
}

#[tokio::test]
async fn late_boot_is_ended() {
    let rig = TestControl::with(short()).await;
    let id = rig.provisioned("one").await;
    rig.node.never_finish_boots();
    rig.post(&format!("/workspaces/{id}/start")).await;
    eventually("the VM boots", || async { rig.node.alive(&id) }).await;
    assert_eq!(rig.until(&id, "failed").await["failure"]["code"], "timeout_starting");
    eventually("the VM has ended", || async { !rig.node.alive(&id) }).await;
    assert_eq!(rig.get(&format!("/workspaces/{id}")).await.1["vm"]["status"], "failed");
}

#[tokio::test]
async fn cancel_deletes_during_creation_and_stops_during_start() {
    let rig = TestControl::new().await;
    rig.node.hold("provision");
    let id = rig.create("one").await;
    let (_, body) = rig.post(&format!("/workspaces/{id}/cancel")).await;
    assert_eq!(body["vm"]["status"], "deleting");
    rig.node.release("provision");
    rig.until(&id, "gone").await;

    let id = rig.provisioned("two").await;
    rig.node.hold("start");
    rig.post(&format!("/workspaces/{id}/start")).await;
    eventually("the node got the call", || async { rig.node.calls("start") > 0 }).await;
    rig.post(&format!("/workspaces/{id}/cancel")).await;
    rig.until(&id, "stopped").await;
    rig.node.release("start");
    assert!(!rig.node.alive(&id));
    rig.post(&format!("/workspaces/{id}/start")).await;
    rig.until(&id, "running").await;
}

#[tokio::test]
async fn restart_of_the_node_keeps_running_workspaces() {
    let mut rig = TestControl::new().await;
    let (kept, ended) = (rig.running("kept").await, rig.running("ended").await);
    let boot = rig.node.boot(&kept);
    rig.kill_node();
    rig.node.end(&ended, Cause::Poweroff);
    rig.start_node();
    rig.until(&ended, "stopped").await;
    assert_eq!(rig.get(&format!("/workspaces/{kept}")).await.1["vm"]["status"], "running");
    assert_eq!(rig.node.boot(&kept), boot);
}

#[tokio::test]
async fn verb_is_repeated_after_the_node_dies() {
    let mut rig = TestControl::new().await;
    // Several rounds: how far the response had come decides what the broken call looks like.
    for round in 0..8 {
        let call = ["provision", "start"][round % 2];
        rig.node.hold(call);
        let before = rig.node.calls(call);
        let id = rig.create(&format!("w{round}")).await;
        if call == "start" {
            rig.until(&id, "provisioned").await;
            rig.post(&format!("/workspaces/{id}/start")).await;
        }
        eventually("the node got the call", || async { rig.node.calls(call) > before }).await;
        rig.kill_node();
        rig.node.release(call);
        rig.start_node();
        rig.until(&id, if call == "start" { "running" } else { "provisioned" }).await;
    }
}

#[tokio::test]
async fn restart_of_control_keeps_the_boot() {
    let mut rig = TestControl::new().await;
    let id = rig.running("one").await;
    let boot = rig.node.boot(&id);
    rig.kill_control();
    rig.start_control().await;
    eventually("ready", || async { rig.send(rig.client.get(rig.url("/readyz"))).await.status == 200 }).await;
    assert_eq!(rig.get(&format!("/workspaces/{id}")).await.1["vm"]["status"], "running");
    assert_eq!((rig.node.boot(&id), rig.node.calls("start")), (boot, 1));
}

#[tokio::test]
async fn running_workspace_lost_by_the_node_fails() {
    let mut rig = TestControl::new().await;
    let id = rig.running("one").await;
    rig.kill_node();
    rig.node.forget(&id);
    rig.start_node();
    assert_eq!(rig.until(&id, "failed").await["failure"]["code"], "ended_unobserved");
}

const ORPHAN: &str = "ws-orphan22";

/// Control whose node has a workspace that the database does not have.
async fn with_orphan() -> (TestControl, String) {
    let mut rig = TestControl::new().await;
    let id = rig.running("one").await;
    rig.kill_node();
    rig.node.add_orphan(ORPHAN, 7, Some("boot-x"));
    rig.start_node();
    eventually("the orphan is listed and stopped", || async {
        let orphans = admin::orphans(&rig.config()).await.unwrap();
        orphans.iter().any(|orphan| orphan.id.as_str() == ORPHAN) && !rig.node.alive(ORPHAN)
    })
    .await;
    (rig, id)
}

#[tokio::test]
async fn unknown_workspace_is_stopped_kept_and_named() {
    let (mut rig, id) = with_orphan().await;
    assert!(rig.node.has(ORPHAN) && rig.node.alive(&id));
    let named = async |rig: &TestControl| {
        let findings = rig.get("/doctor").await.1["findings"].clone();
        let finding = findings.as_array().unwrap().iter().find(|finding| finding["subject"] == "orphans");
        finding.is_some_and(|finding| finding["message"].as_str().unwrap().contains(ORPHAN))
    };
    assert!(named(&rig).await);
    rig.kill_node();
    rig.node.forget(ORPHAN);
    rig.start_node();
    eventually("what is gone is not listed", || async { !named(&rig).await }).await;
    assert!(rig.node.alive(&id));
}

#[tokio::test]
async fn orphan_is_destroyed_on_request_only() {
    let (rig, id) = with_orphan().await;
    admin::remove_orphan(&rig.config(), &ORPHAN.parse().unwrap()).await.unwrap();
    eventually("it is gone", || async { !rig.node.has(ORPHAN) }).await;
    eventually("it is not listed", || async { admin::orphans(&rig.config()).await.unwrap().is_empty() })
        .await;
    assert!(rig.node.alive(&id));
}

#[tokio::test]
async fn adopted_orphan_is_a_workspace_of_its_new_owner() {
    let (rig, _) = with_orphan().await;
    let (orphan, name) = (ORPHAN.parse().unwrap(), "found".parse().unwrap());
    let template = rigbox_core::templates::find("base").unwrap();
    admin::adopt_orphan(&rig.config(), &orphan, "a@example.com", name, template).await.unwrap();
    let vm = rig.until(ORPHAN, "stopped").await["vm"].clone();
    assert_eq!((vm["name"].as_str(), vm["disk_size_mb"].as_u64()), (Some("found"), Some(4096)));
    assert!(admin::orphans(&rig.config()).await.unwrap().is_empty());
    assert_eq!(rig.post(&format!("/workspaces/{ORPHAN}/start")).await.0, 200);
    rig.until(ORPHAN, "running").await;
}

#[tokio::test]
async fn orphan_without_a_complete_disk_is_listed_and_not_adopted() {
    let mut rig = TestControl::new().await;
    rig.kill_node();
    rig.node.add_orphan_without_disk(ORPHAN);
    rig.start_node();
    eventually("the orphan is listed", || async {
        let orphans = admin::orphans(&rig.config()).await.unwrap();
        orphans.iter().any(|orphan| orphan.id.as_str() == ORPHAN && orphan.disk_size_mb == 0)
    })
    .await;
    let (orphan, name) = (ORPHAN.parse().unwrap(), "found".parse().unwrap());
    let template = rigbox_core::templates::find("base").unwrap();
    let adopted = admin::adopt_orphan(&rig.config(), &orphan, "a@example.com", name, template).await;
    assert!(adopted.unwrap_err().to_string().contains("has no complete disk"));
}

#[tokio::test]
async fn deleted_workspace_is_removed_wherever_it_appears_again() {
    let mut rig = TestControl::new().await;
    let id = rig.provisioned("one").await;
    rig.call(Method::DELETE, &format!("/workspaces/{id}"), None).await;
    rig.until(&id, "gone").await;
    rig.kill_node();
    rig.node.add_orphan(&id, 1, None);
    rig.start_node();
    eventually("it is gone again", || async { !rig.node.has(&id) }).await;
}

#[tokio::test]
async fn lost_database_destroys_no_disk() {
    let mut rig = TestControl::new().await;
    let id = rig.running("one").await;
    rig.kill_control();
    let known = rig.node.database().unwrap().parse().unwrap();
    for file in ["rigbox.db", "rigbox.db-wal", "rigbox.db-shm", "revocations.log"] {
        let _ = std::fs::remove_file(rig.path(file));
    }
    admin::bootstrap(&rig.config(), "b@example.com").await.unwrap();
    rig.start_control().await;
    // The node refuses the new database.
    eventually("the node was asked", || async { rig.node.refused_calls() > 0 }).await;
    assert!(rig.node.alive(&id));
    rig.kill_control();
    admin::claim_nodes(&rig.config(), &known).await.unwrap();
    rig.start_control().await;
    eventually("its workspace is listed", || async {
        admin::orphans(&rig.config()).await.unwrap().iter().any(|orphan| orphan.id.as_str() == id)
    })
    .await;
    assert!(rig.node.has(&id));
}

#[tokio::test]
async fn doctor_names_a_log_of_revocations_that_is_missing_or_short() {
    let mut rig = TestControl::new().await;
    let (_, made) = rig.call(Method::POST, "/api-keys", Some(serde_json::json!({"name": "one"}))).await;
    let id = made["api_key"]["id"].as_str().unwrap_or_else(|| panic!("{made}")).to_owned();
    let log = rig.path("revocations.log");
    let finding = async |rig: &TestControl| {
        let (_, doctor) = rig.get("/doctor").await;
        let findings = doctor["findings"].as_array().unwrap().clone();
        let log = findings.into_iter().find(|finding| finding["subject"] == "revocation_log").unwrap();
        (log["level"].as_str().unwrap().to_owned(), doctor["healthy"].clone(), log.to_string())
    };
    let empty = std::fs::read(&log).unwrap();
    rig.call(Method::DELETE, &format!("/api-keys/{id}"), None).await;
    let whole = std::fs::read(&log).unwrap();
    assert!(whole.len() > empty.len());
    let (level, healthy, text) = finding(&rig).await;
    assert_eq!((level.as_str(), healthy), ("ok", true.into()), "{text}");
    for (content, problem) in [(Some(&empty), "ends at entry 0 of 1"), (None, "is missing")] {
        match content {
            Some(content) => std::fs::write(&log, content).unwrap(),
            None => std::fs::remove_file(&log).unwrap(),
        }
        let (level, healthy, text) = finding(&rig).await;
        assert_eq!((level.as_str(), healthy), ("error", false.into()), "{text}");
        assert!(text.contains(problem) && text.contains("remedy"), "{text}");
    }
    // Begun anew.
    rig.kill_control();
    rig.start_control().await;
    let (level, healthy, text) = finding(&rig).await;
    assert_eq!((level.as_str(), healthy), ("warning", true.into()), "{text}");
    assert!(text.contains("up to 1"), "{text}");
}

#[tokio::test]
async fn stop_succeeds_if_the_vm_has_already_ended() {
    let rig = TestControl::new().await;
    let id = rig.running("one").await;
    rig.node.hold("stop");
    rig.post(&format!("/workspaces/{id}/stop")).await;
    eventually("the node got the call", || async { rig.node.calls("stop") > 0 }).await;
    rig.node.end(&id, Cause::KernelPanic);
    rig.node.release("stop");
    rig.until(&id, "stopped").await;
}

#[tokio::test]
async fn end_of_a_vm_is_not_lost_when_the_database_is_busy() {
    let rig = TestControl::new().await;
    let id = rig.running("one").await;
    let other = rusqlite::Connection::open(rig.config().database).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    rig.node.end(&id, Cause::KernelPanic);
    // A write that begins after that of the report, and is given up.
    let body = serde_json::json!({"name": "two"});
    let (status, body) = rig.call(Method::POST, "/workspaces", Some(body)).await;
    assert_eq!((status.as_u16(), body["error"]["code"].as_str()), (503, Some("database_unavailable")));
    other.execute_batch("COMMIT").unwrap();
    assert_eq!(rig.until(&id, "failed").await["failure"]["code"], "kernel_panic");
}

#[tokio::test]
async fn lost_agent_is_reported_until_it_is_back() {
    let rig = TestControl::new().await;
    let id = rig.running("one").await;
    rig.node.lose_agent(&id, true);
    let agent = || async { rig.get(&format!("/workspaces/{id}")).await.1["vm"]["agent"].clone() };
    eventually("lost", || async { agent().await == "lost" }).await;
    let exec = serde_json::json!({"command": ["echo", "x"]});
    let (status, body) = rig.call(Method::POST, &format!("/workspaces/{id}/exec"), Some(exec)).await;
    assert_eq!((status.as_u16(), body["error"]["code"].as_str()), (503, Some("agent_lost")));
    rig.node.lose_agent(&id, false);
    eventually("back", || async { agent().await.is_null() }).await;
}

#[tokio::test]
async fn callers_do_not_wait_for_an_absent_node_one_after_the_other() {
    let mut rig = TestControl::new().await;
    rig.node.hold("describe");
    // One that has no description yet.
    rig.kill_control();
    rig.start_control().await;
    let started = std::time::Instant::now();
    let calls = (0..5).map(|_| rig.client.get(rig.url("/api/v1/capacity")).send());
    for response in futures_util::future::join_all(calls).await {
        assert_eq!(response.unwrap().status(), 503);
    }
    let took = started.elapsed();
    assert!(took < Duration::from_secs(15), "one failure takes 10 s, and five took {took:?}");
}
