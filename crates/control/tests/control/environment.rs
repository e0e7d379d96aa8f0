//! Environment of a workspace and its own key, against a simulated node and simulated guests.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use reqwest::{Method, StatusCode};
use rigbox_control::{KeySource, Timeouts};
use rigbox_proto::node::Cause;
use serde_json::{Value, json};

use crate::support::guests::VITE_HOSTS;
use crate::support::{TestControl, eventually};

fn map(of: &[(&str, &str)]) -> BTreeMap<String, String> {
    of.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

async fn set(rig: &TestControl, id: &str, env_vars: Value) -> (StatusCode, Value) {
    rig.call(Method::POST, &format!("/workspaces/{id}/env"), Some(json!({"env_vars": env_vars}))).await
}

async fn as_key(rig: &TestControl, key: &str, method: Method, path: &str) -> (u16, Value) {
    let request = rig.client.request(method, rig.url(&format!("/api/v1{path}"))).bearer_auth(key);
    let (status, body) = rig.fetch(request).await;
    (status.as_u16(), body)
}

#[tokio::test]
async fn values_are_never_returned() {
    let rig = TestControl::new().await;
    let id = rig.provisioned("one").await;
    assert_eq!(rig.get(&format!("/workspaces/{id}/env")).await.1, json!({"env_vars": {}}));
    let (status, body) = set(&rig, &id, json!({"B": "secret-1", "A": "secret-2"})).await;
    assert_eq!((status.as_u16(), &body["live"]), (200, &json!(false)), "{body}");
    assert!(body["message"].as_str().unwrap().contains("when it starts"));
    set(&rig, &id, json!({"B": "secret-3"})).await;
    let shown = json!({"A": "***", "B": "***"});
    let (_, one) = rig.get(&format!("/workspaces/{id}")).await;
    let (_, all) = rig.get("/workspaces").await;
    let (_, names) = rig.get(&format!("/workspaces/{id}/env")).await;
    assert_eq!((&one["vm"]["env_vars"], &all["vms"][0]["env_vars"]), (&shown, &shown));
    assert_eq!(names, json!({"env_vars": shown}));
    let (_, log) = rig.get("/audit-log").await;
    assert!(log.to_string().contains(&format!("{id}/env/A,B")), "{log}");
    for body in [one, all, names, log] {
        assert!(!body.to_string().contains("secret-"), "{body}");
    }

    let path = format!("/workspaces/{id}/env/A");
    assert_eq!(rig.call(Method::DELETE, &path, None).await.0, 200);
    let (status, body) = rig.call(Method::DELETE, &path, None).await;
    assert!(status == 404 && body["error"]["message"].as_str().unwrap().contains("not found"), "{body}");
    assert_eq!(rig.get(&format!("/workspaces/{id}/env")).await.1, json!({"env_vars": {"B": "***"}}));
    let (_, log) = rig.get("/audit-log").await;
    assert_eq!(log["entries"][0]["action"], "secret.delete", "{log}");
}

#[tokio::test]
async fn invalid_variables_are_refused() {
    let rig = TestControl::new().await;
    let id = rig.provisioned("one").await;
    let long = "x".repeat(32 * 1024 + 1);
    let large: BTreeMap<_, _> = ["A", "B", "C"].map(|name| (name, "x".repeat(30_000))).into();
    for (env_vars, code, expected) in [
        (json!({"1A": "x"}), 400, "1A"),
        (json!({"A-B": "x"}), 400, "A-B"),
        (json!({"": "x"}), 400, "name"),
        (json!({"UID": "x"}), 400, "shell"),
        (json!({"A": "x\u{0}y"}), 400, "NUL"),
        (json!({"A": "***"}), 400, "placeholder"),
        (json!({"A": long}), 400, "32768"),
        (json!({"A": 5}), 400, "env_vars.A"),
        (json!(["A"]), 400, "env_vars"),
        (json!(large), 402, "max_env_bytes"),
    ] {
        let (status, body) = set(&rig, &id, env_vars).await;
        let message = body["error"]["message"].as_str().unwrap();
        assert!(status == code && message.contains(expected), "{expected}: {status} {body}");
    }
    let (status, _) = rig.call(Method::POST, &format!("/workspaces/{id}/env"), Some(json!({}))).await;
    assert_eq!(status, 400);
    assert_eq!(set(&rig, "ws-aaaaaaaa", json!({"A": "x"})).await.0, 404);
    assert_eq!(rig.get(&format!("/workspaces/{id}/env")).await.1, json!({"env_vars": {}}));
}

#[tokio::test]
async fn workspace_is_running_only_with_its_environment_and_key() {
    let rig = TestControl::new().await;
    let id = rig.provisioned("one").await;
    set(&rig, &id, json!({"A": "a"})).await;
    rig.guests.unreachable.store(true, Ordering::SeqCst);
    rig.post(&format!("/workspaces/{id}/start")).await;
    eventually("the VM boots", || async { rig.node.alive(&id) }).await;
    let wait = format!("/workspaces/{id}?wait_until_not=starting&timeout_s=2");
    assert_eq!(rig.get(&wait).await.1["vm"]["status"], "starting");
    rig.guests.unreachable.store(false, Ordering::SeqCst);
    rig.until(&id, "running").await;
    let (times, env, key) = rig.guests.delivered_to(&id);
    assert_eq!((times, env, key.len()), (1, map(&[("A", "a")]), 49));
    assert!(key.starts_with("rb_ws_"));
}

#[tokio::test]
async fn workspace_is_told_the_domain_of_its_apps_unless_it_sets_it() {
    let rig = TestControl::new().await;
    let id = rig.provisioned("one").await;
    rig.post(&format!("/workspaces/{id}/start")).await;
    rig.until(&id, "running").await;
    let (name, value) = VITE_HOSTS;
    let told = || rig.guests.delivered.lock().unwrap()[&id].last().unwrap().env[name].clone();
    assert_eq!(told(), value);
    set(&rig, &id, json!({name: "own.example.org"})).await;
    assert_eq!(told(), "own.example.org");
    let listed = rig.get(&format!("/workspaces/{id}/env")).await.1;
    assert_eq!(listed["env_vars"].as_object().unwrap().len(), 1);
}

#[tokio::test]
async fn start_fails_in_time_if_secrets_cannot_be_delivered() {
    let short = Duration::from_millis(1500);
    let rig = TestControl::with(Timeouts { starting: short, ..Timeouts::default() }).await;
    let id = rig.provisioned("one").await;
    rig.guests.unreachable.store(true, Ordering::SeqCst);
    rig.post(&format!("/workspaces/{id}/start")).await;
    let body = rig.until(&id, "failed").await;
    assert_eq!(body["failure"]["code"], "timeout_starting");
    assert!(body["failure"]["message"].as_str().unwrap().contains("failed to deliver secrets"), "{body}");
    eventually("the VM has ended", || async { !rig.node.alive(&id) }).await;
}

#[tokio::test]
async fn change_is_live_with_its_response() {
    let rig = TestControl::new().await;
    let id = rig.running("one").await;
    let key = rig.guests.delivered_to(&id).2;
    for (value, times) in [("one", 2), ("two", 3)] {
        let (_, body) = set(&rig, &id, json!({"A": value})).await;
        assert_eq!(
            (&body["live"], rig.guests.delivered_to(&id)),
            (&json!(true), (times, map(&[("A", value)]), key.clone()))
        );
    }
    rig.call(Method::DELETE, &format!("/workspaces/{id}/env/A"), None).await;
    assert_eq!(rig.guests.delivered_to(&id).1, map(&[]));
    // The key was delivered once.
    let keys =
        rig.guests.delivered.lock().unwrap()[&id].iter().filter(|one| !one.workspace_key.is_empty()).count();
    assert_eq!(keys, 1);
}

#[tokio::test]
async fn change_during_a_lost_agent_is_delivered_when_it_is_back() {
    let rig = TestControl::new().await;
    let id = rig.running("one").await;
    rig.guests.unreachable.store(true, Ordering::SeqCst);
    rig.node.lose_agent(&id, true);
    let lost = || async { rig.get(&format!("/workspaces/{id}")).await.1["vm"]["agent"] == "lost" };
    eventually("lost", lost).await;
    let (status, body) = set(&rig, &id, json!({"A": "later"})).await;
    assert_eq!((status.as_u16(), &body["live"]), (200, &json!(false)));
    rig.guests.unreachable.store(false, Ordering::SeqCst);
    rig.node.lose_agent(&id, false);
    eventually("delivered", || async { rig.guests.delivered_to(&id).1 == map(&[("A", "later")]) }).await;
}

#[tokio::test]
async fn every_boot_gets_its_own_key_and_restarts_of_control_keep_it() {
    let mut rig = TestControl::new().await;
    let id = rig.running("one").await;
    let path = format!("/workspaces/{id}");
    set(&rig, &id, json!({"A": "a"})).await;
    let first = rig.guests.delivered_to(&id).2;
    assert_eq!(as_key(&rig, &first, Method::GET, &path).await.0, 200);
    // Deliveries survive a restart of control, and later changes still arrive.
    rig.kill_control();
    rig.start_control().await;
    set(&rig, &id, json!({"B": "b"})).await;
    eventually("delivered", || async { rig.guests.delivered_to(&id).1 == map(&[("A", "a"), ("B", "b")]) })
        .await;
    // At the start, and with each change: the restart delivered nothing again.
    assert_eq!((rig.guests.delivered_to(&id).0, rig.guests.delivered_to(&id).2), (3, first.clone()));
    assert_eq!(as_key(&rig, &first, Method::GET, &path).await.0, 200);

    let boot = rig.node.boot(&id);
    rig.node.end(&id, Cause::Reboot);
    assert_ne!(rig.node.boot(&id), boot);
    eventually("it has another key", || async { rig.guests.delivered_to(&id).2 != first }).await;
    rig.until(&id, "running").await;
    let (_, env, second) = rig.guests.delivered_to(&id);
    assert_eq!(env, map(&[("A", "a"), ("B", "b")]));
    assert_eq!(as_key(&rig, &first, Method::GET, &path).await.0, 401);
    assert_eq!(as_key(&rig, &second, Method::GET, &path).await.0, 200);
    rig.post(&format!("{path}/stop")).await;
    assert_eq!(as_key(&rig, &second, Method::GET, &path).await.0, 401, "the key outlived its boot");
}

#[tokio::test]
async fn secrets_are_delivered_after_control_dies_before_the_delivery() {
    let mut rig = TestControl::new().await;
    let id = rig.provisioned("one").await;
    set(&rig, &id, json!({"A": "a"})).await;
    rig.guests.unreachable.store(true, Ordering::SeqCst);
    rig.post(&format!("/workspaces/{id}/start")).await;
    eventually("the VM boots", || async { rig.node.alive(&id) }).await;
    rig.kill_control();
    rig.guests.unreachable.store(false, Ordering::SeqCst);
    rig.start_control().await;
    rig.until(&id, "running").await;
    let (_, env, key) = rig.guests.delivered_to(&id);
    assert_eq!(env, map(&[("A", "a")]));
    assert_eq!(as_key(&rig, &key, Method::GET, &format!("/workspaces/{id}")).await.0, 200);
}

#[tokio::test]
async fn workspace_key_only_reads_its_own_workspace() {
    let rig = TestControl::new().await;
    let (id, other) = (rig.running("one").await, rig.running("two").await);
    set(&rig, &id, json!({"A": "a"})).await;
    let key = rig.guests.delivered_to(&id).2;
    let (status, body) = as_key(&rig, &key, Method::GET, "/workspaces").await;
    assert_eq!((status, body["vms"].as_array().unwrap().len(), &body["vms"][0]["id"]), (200, 1, &json!(id)));
    for (method, path, code) in [
        (Method::GET, format!("/workspaces/{id}"), 200),
        (Method::GET, format!("/workspaces/{other}"), 404),
        (Method::POST, format!("/workspaces/{other}/stop"), 404),
        (Method::POST, format!("/workspaces/{id}/stop"), 403),
        (Method::GET, format!("/workspaces/{id}/env"), 403),
        (Method::DELETE, format!("/workspaces/{id}/env/A"), 403),
        (Method::DELETE, format!("/workspaces/{id}"), 403),
        (Method::GET, format!("/workspaces/{id}/files?path=/etc/passwd"), 403),
        (Method::GET, "/users/me".to_owned(), 403),
        (Method::GET, "/users/me/limits".to_owned(), 403),
        (Method::GET, "/api-keys".to_owned(), 403),
        (Method::GET, "/audit-log".to_owned(), 403),
    ] {
        assert_eq!(as_key(&rig, &key, method.clone(), &path).await.0, code, "{method} {path}");
    }
    for unknown in [format!("rb_ws_{}", "a".repeat(43)), "rb_ws_short".to_owned()] {
        assert_eq!(as_key(&rig, &unknown, Method::GET, "/workspaces").await.0, 401);
    }
    rig.node.end(&id, Cause::KernelPanic);
    rig.until(&id, "failed").await;
    assert_eq!(as_key(&rig, &key, Method::GET, &format!("/workspaces/{id}")).await.0, 401);
}

#[tokio::test]
async fn deleted_workspace_leaves_no_environment_behind() {
    let rig = TestControl::new().await;
    let id = rig.running("one").await;
    set(&rig, &id, json!({"A": "a"})).await;
    rig.call(Method::DELETE, &format!("/workspaces/{id}"), None).await;
    rig.until(&id, "gone").await;
    assert_eq!(rig.get(&format!("/workspaces/{id}/env")).await.0, 404);
    let done = rigbox_control::admin::rotate_master_key(&rig.config()).await.unwrap();
    assert_eq!(done.records, 0, "records remain");
}

#[tokio::test]
async fn master_key_rotates_while_control_runs() {
    let rig = TestControl::new().await;
    let id = rig.running("one").await;
    set(&rig, &id, json!({"A": "a"})).await;
    let before = std::fs::read(rig.path("master.key")).unwrap();
    let done = rigbox_control::admin::rotate_master_key(&rig.config()).await.unwrap();
    assert_eq!((done.records, done.resumed), (1, false));
    assert_ne!(std::fs::read(rig.path("master.key")).unwrap(), before);
    let (_, body) = set(&rig, &id, json!({"B": "b"})).await;
    assert_eq!(
        (&body["live"], rig.guests.delivered_to(&id).1),
        (&json!(true), map(&[("A", "a"), ("B", "b")]))
    );

    // The key of another installation is refused with the reason.
    std::fs::write(rig.path("other.key"), &before).unwrap();
    std::fs::set_permissions(rig.path("other.key"), std::os::unix::fs::PermissionsExt::from_mode(0o600))
        .unwrap();
    let config =
        rigbox_control::Config { master_key: KeySource::File(rig.path("other.key")), ..rig.config() };
    let refused = rigbox_control::admin::rotate_master_key(&config).await.unwrap_err().to_string();
    assert!(refused.contains("wrong master key"), "{refused}");
}
