//! Any process may die at any time, and nothing stays half done.

// clippy's exemption for tests does not reach helpers beside them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::time::Duration;

use reqwest::Method;
use rigbox_control::Timeouts;
use rigbox_proto::node::{Cause, State};
use support::{Rig, eventually};

fn short() -> Timeouts {
    let short = Duration::from_millis(1500);
    Timeouts { provisioning: short, starting: short, stopping: short, deleting: short }
}

/// Kills control while the node works on `verb`, both with the verb lost and with it done behind control's back.
async fn killed_during(verb: &'static str, begin: impl AsyncFn(&Rig) -> String, ends: &str) {
    for finished_meanwhile in [false, true] {
        let mut rig = Rig::new().await;
        rig.node.hold(verb);
        let id = begin(&rig).await;
        eventually("the node is requested", || async { rig.node.calls(verb) > 0 }).await;
        rig.kill_control();
        if finished_meanwhile {
            rig.node.release(verb);
            rig.start_control().await;
        } else {
            rig.start_control().await;
            rig.node.release(verb);
        }
        rig.until(&id, ends).await;
        assert_eq!(rig.node.alive(&id), ends == "running");
        assert_eq!(rig.node.knows(&id), ends != "gone");
    }
}

#[tokio::test]
async fn a_workspace_survives_control_being_killed_in_each_transient_state() {
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
async fn each_end_of_a_guest_moves_its_workspace() {
    let rig = Rig::new().await;
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
async fn a_failed_workspace_can_be_tried_again() {
    let rig = Rig::new().await;
    rig.node.fail("provision", "disk_full", "12 MiB are left, 4096 are needed");
    let id = rig.create("one").await;
    let body = rig.until(&id, "failed").await;
    assert_eq!(body["failure"]["code"], "disk_full");
    assert_eq!(body["failure"]["retryable"], true);
    assert!(body["failure"]["message"].as_str().unwrap().contains("12 MiB"));
    rig.node.mend("provision");
    assert_eq!(rig.post(&format!("/workspaces/{id}/retry")).await.0, 200);
    let body = rig.until(&id, "running").await;
    assert!(body.get("failure").is_none());
}

#[tokio::test]
async fn no_transient_state_outlives_its_time_out() {
    for (verb, request, code) in [
        ("provision", None, "timeout_provisioning"),
        ("start", Some((Method::POST, "start")), "timeout_starting"),
        ("delete", Some((Method::DELETE, "")), "timeout_deleting"),
    ] {
        let rig = Rig::with(short()).await;
        let id = if request.is_some() { rig.provisioned("one").await } else { String::new() };
        rig.node.hold(verb);
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
        rig.node.release(verb);
    }
}

#[tokio::test]
async fn a_boot_that_comes_too_late_does_not_run_unowned() {
    let rig = Rig::with(short()).await;
    let id = rig.provisioned("one").await;
    rig.node.silence_boots();
    rig.post(&format!("/workspaces/{id}/start")).await;
    eventually("it boots", || async { rig.node.alive(&id) }).await;
    assert_eq!(rig.until(&id, "failed").await["failure"]["code"], "timeout_starting");
    eventually("it is ended", || async { !rig.node.alive(&id) }).await;
    assert_eq!(rig.get(&format!("/workspaces/{id}")).await.1["vm"]["status"], "failed");
}

#[tokio::test]
async fn cancel_ends_a_creation_in_nothing_and_a_start_in_stopped() {
    let rig = Rig::new().await;
    rig.node.hold("provision");
    let id = rig.create("one").await;
    let (_, body) = rig.post(&format!("/workspaces/{id}/cancel")).await;
    assert_eq!(body["vm"]["status"], "deleting");
    rig.node.release("provision");
    rig.until(&id, "gone").await;

    let id = rig.provisioned("two").await;
    rig.node.hold("start");
    rig.post(&format!("/workspaces/{id}/start")).await;
    eventually("the node is requested", || async { rig.node.calls("start") > 0 }).await;
    rig.post(&format!("/workspaces/{id}/cancel")).await;
    rig.until(&id, "stopped").await;
    rig.node.release("start");
    assert!(!rig.node.alive(&id));
    rig.post(&format!("/workspaces/{id}/start")).await;
    rig.until(&id, "running").await;
}

#[tokio::test]
async fn a_restart_of_the_node_leaves_running_workspaces_alone() {
    let mut rig = Rig::new().await;
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
async fn a_node_that_dies_in_a_verb_is_asked_again() {
    let mut rig = Rig::new().await;
    // More than once: how far the answer had come decides what the broken call looks like.
    for round in 0..8 {
        let verb = ["provision", "start"][round % 2];
        rig.node.hold(verb);
        let before = rig.node.calls(verb);
        let id = rig.create(&format!("w{round}")).await;
        if verb == "start" {
            rig.until(&id, "provisioned").await;
            rig.post(&format!("/workspaces/{id}/start")).await;
        }
        eventually("the node is requested", || async { rig.node.calls(verb) > before }).await;
        rig.kill_node();
        rig.node.release(verb);
        rig.start_node();
        rig.until(&id, if verb == "start" { "running" } else { "provisioned" }).await;
    }
}

#[tokio::test]
async fn a_restart_of_control_keeps_the_boot() {
    let mut rig = Rig::new().await;
    let id = rig.running("one").await;
    let boot = rig.node.boot(&id);
    rig.kill_control();
    rig.start_control().await;
    eventually("ready", || async { rig.send(rig.client.get(rig.url("/readyz"))).await.status == 200 }).await;
    assert_eq!(rig.get(&format!("/workspaces/{id}")).await.1["vm"]["status"], "running");
    assert_eq!((rig.node.boot(&id), rig.node.calls("start")), (boot, 1));
}

#[tokio::test]
async fn a_running_workspace_that_the_node_lost_has_failed() {
    let mut rig = Rig::new().await;
    let id = rig.running("one").await;
    rig.kill_node();
    rig.node.forget(&id);
    rig.start_node();
    assert_eq!(rig.until(&id, "failed").await["failure"]["code"], "ended_unobserved");
}

#[tokio::test]
async fn what_nobody_owns_is_removed_and_what_somebody_owns_is_not() {
    let mut rig = Rig::new().await;
    let id = rig.running("one").await;
    rig.kill_node();
    rig.node.plant("ws-orphan22", 7, State::Running, "boot-x");
    rig.start_node();
    eventually("the orphan is gone", || async { !rig.node.knows("ws-orphan22") }).await;
    assert!(rig.node.alive(&id));
}

#[tokio::test]
async fn a_stop_that_finds_the_guest_gone_is_done() {
    let rig = Rig::new().await;
    let id = rig.running("one").await;
    rig.node.hold("stop");
    rig.post(&format!("/workspaces/{id}/stop")).await;
    eventually("the node is requested", || async { rig.node.calls("stop") > 0 }).await;
    rig.node.end(&id, Cause::KernelPanic);
    rig.node.release("stop");
    rig.until(&id, "stopped").await;
}

#[tokio::test]
async fn a_lost_agent_is_told_and_found_again() {
    let rig = Rig::new().await;
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
