//! Revocation reaches what is open: commands, terminals, transfers and followed logs end with the credential that opened them.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt, stream};
use reqwest::{Body, Method, Response};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::support::browser::Browser;
use crate::support::{TestControl, eventually};

const DEADLINE: Duration = Duration::from_secs(10);
/// Time without a byte after which a response counts as stalled.
const QUIET: Duration = Duration::from_millis(300);

/// Creates a key with these restrictions and returns its id and secret.
async fn create_key(rig: &TestControl, mut body: Value) -> (String, String) {
    body["name"] = json!("short-lived");
    let (status, created) = rig.call(Method::POST, "/api-keys", Some(body)).await;
    assert_eq!(status, 201, "{created}");
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    (text(&created["api_key"]["id"]), text(&created["key"]))
}

async fn revoke(rig: &TestControl, key: &str) {
    assert_eq!(rig.call(Method::DELETE, &format!("/api-keys/{key}"), None).await.0, 200);
}

/// Sends a request with a key and returns the response once its head is there.
async fn open(rig: &TestControl, key: &str, method: Method, path: &str, body: Option<Value>) -> Response {
    let request = rig.client.request(method, rig.url(&format!("/api/v1{path}"))).bearer_auth(key);
    let request = match body {
        Some(body) => request.json(&body),
        None => request,
    };
    let response = request.send().await.unwrap();
    assert_eq!(response.status(), 200);
    response
}

/// Reads a response to its end: its text, and whether the end was in order.
async fn rest(response: Response) -> (String, bool) {
    let read = async {
        let (mut text, mut body) = (String::new(), response.bytes_stream());
        while let Some(part) = body.next().await {
            match part {
                Ok(bytes) => text.push_str(&String::from_utf8_lossy(&bytes)),
                Err(_) => return (text, false),
            }
        }
        (text, true)
    };
    tokio::time::timeout(DEADLINE, read).await.expect("the response ends")
}

fn abandoned(rig: &TestControl) -> usize {
    rig.guests.abandoned.load(Ordering::SeqCst)
}

async fn sleep_with(rig: &TestControl, key: &str, id: &str) -> Response {
    let command = json!({"command": ["sleep"]});
    open(rig, key, Method::POST, &format!("/workspaces/{id}/exec"), Some(command)).await
}

#[tokio::test]
async fn revoked_key_ends_its_command_and_no_other() {
    let rig = TestControl::new().await;
    let id = rig.running("one").await;
    let (revoked, key) = create_key(&rig, json!({})).await;
    let mut own = sleep_with(&rig, &rig.key, &id).await;
    let command = sleep_with(&rig, &key, &id).await;
    revoke(&rig, &revoked).await;
    let (text, _) = rest(command).await;
    let last: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    rig.contract().check_value("ExecEvent", &last).unwrap();
    assert_eq!(last["error"]["code"], "unauthorized");
    eventually("the command has ended", || async { abandoned(&rig) == 1 }).await;
    let other = tokio::time::timeout(Duration::from_millis(500), own.chunk()).await;
    assert!(other.is_err(), "another key's command ended: {other:?}");
}

#[tokio::test]
async fn client_that_reads_nothing_cannot_hold_on_to_its_command() {
    let rig = TestControl::new().await;
    let id = rig.running("one").await;
    let (revoked, key) = create_key(&rig, json!({})).await;
    let command = json!({"command": ["flood", "1000"]});
    let _unread = open(&rig, &key, Method::POST, &format!("/workspaces/{id}/exec"), Some(command)).await;
    let (mut last, mut since) = (0, Instant::now());
    eventually("the command waits for its reader", || {
        let written = rig.guests.written.load(Ordering::SeqCst);
        if written > last {
            (last, since) = (written, Instant::now());
        }
        let waits = last > 0 && since.elapsed() >= QUIET;
        async move { waits }
    })
    .await;
    revoke(&rig, &revoked).await;
    eventually("the command has ended", || async { abandoned(&rig) == 1 }).await;
}

#[tokio::test]
async fn revoked_key_closes_its_terminal_with_the_reason() {
    let rig = TestControl::new().await;
    let id = rig.running("one").await;
    let (revoked, key) = create_key(&rig, json!({})).await;
    let request = rig.socket_request(&format!("/workspaces/{id}/exec"), &key);
    let (mut socket, _) = tokio_tungstenite::connect_async(request.clone()).await.unwrap();
    socket.send(Message::text(json!({"command": ["sleep"], "tty": true}).to_string())).await.unwrap();
    // Nothing runs on this one yet.
    let (mut idle, _) = tokio_tungstenite::connect_async(request).await.unwrap();
    revoke(&rig, &revoked).await;
    for socket in [&mut socket, &mut idle] {
        let mut next =
            async || tokio::time::timeout(DEADLINE, socket.next()).await.unwrap().unwrap().unwrap();
        let event: Value = serde_json::from_str(&next().await.into_text().unwrap()).unwrap();
        assert_eq!(event["error"]["code"], "unauthorized");
        match next().await {
            Message::Close(Some(frame)) => {
                assert_eq!((u16::from(frame.code), frame.reason.as_str()), (1008, "unauthorized"));
            }
            other => panic!("{other:?}"),
        }
    }
    eventually("the command has ended", || async { abandoned(&rig) == 1 }).await;
}

#[tokio::test]
async fn revoked_key_ends_its_logs_and_uploads() {
    let rig = TestControl::new().await;
    let id = rig.running("one").await;
    let (revoked, key) = create_key(&rig, json!({})).await;
    let logs = open(&rig, &key, Method::GET, &format!("/workspaces/{id}/logs/stream"), None).await;
    let endless = stream::iter([Ok::<_, std::io::Error>(vec![b'x'; 100_000])]).chain(stream::pending());
    let upload = rig
        .client
        .put(rig.url(&format!("/api/v1/workspaces/{id}/files?path=/tmp/cut")))
        .bearer_auth(&key)
        .body(Body::wrap_stream(endless));
    let upload = tokio::spawn(upload.send());
    eventually("the guest has part of the file", || async {
        rig.guests.started_files.load(Ordering::SeqCst) > 0
    })
    .await;
    revoke(&rig, &revoked).await;
    let (_, in_order) = rest(logs).await;
    assert!(!in_order, "a client takes the log for complete");
    let _ = tokio::time::timeout(DEADLINE, upload).await.expect("the upload ends").unwrap();
    eventually("the upload has ended", || async { abandoned(&rig) == 1 }).await;
    assert!(rig.guests.files.lock().unwrap().is_empty());
}

#[tokio::test]
async fn waiting_for_a_status_ends_with_the_key() {
    let rig = TestControl::new().await;
    let id = rig.running("one").await;
    let (revoked, key) = create_key(&rig, json!({})).await;
    let url = rig.url(&format!("/api/v1/workspaces/{id}?wait_until_not=running&timeout_s=30"));
    let waiting = tokio::spawn(rig.client.get(url).bearer_auth(&key).send());
    eventually("the request has been authenticated", || async {
        let (_, keys) = rig.get("/api-keys").await;
        let keys = keys["api_keys"].as_array().unwrap().iter();
        keys.filter(|key| key["id"] == revoked.as_str()).any(|key| key["last_used_at"].is_string())
    })
    .await;
    revoke(&rig, &revoked).await;
    let answered = tokio::time::timeout(DEADLINE, waiting).await.unwrap().unwrap().unwrap();
    assert_eq!(answered.status(), 401);
}

#[tokio::test]
async fn expired_secrets_and_keys_end_what_they_opened() {
    let rig = TestControl::new().await;
    let id = rig.running("one").await;
    let soon = time::OffsetDateTime::now_utc() + Duration::from_secs(3);
    let expires_at = soon.format(&time::format_description::well_known::Rfc3339).unwrap();
    let (_, expiring) = create_key(&rig, json!({"expires_at": expires_at})).await;
    let (rotated, old) = create_key(&rig, json!({})).await;
    let (by_expiring, by_old) = (sleep_with(&rig, &expiring, &id).await, sleep_with(&rig, &old, &id).await);
    let body = json!({"grace_s": 2});
    let (status, _) = rig.call(Method::POST, &format!("/api-keys/{rotated}/rotate"), Some(body)).await;
    assert_eq!(status, 200);
    for command in [by_expiring, by_old] {
        assert!(rest(command).await.0.contains("unauthorized"));
    }
    eventually("both commands have ended", || async { abandoned(&rig) == 2 }).await;
}

#[tokio::test]
async fn session_ends_what_it_opened() {
    let rig = TestControl::new().await;
    let id = rig.running("one").await;
    let mut browser = Browser::signed_in(&rig, "a@example.com").await;
    let path = format!("/api/v1/workspaces/{id}/logs/stream");
    let logs = browser.request(Method::GET, &path).header("sec-fetch-site", "same-origin");
    let logs = logs.send().await.unwrap();
    assert_eq!(logs.status(), 200);
    browser.submit("/sign-out", &[]).await;
    assert!(!rest(logs).await.1);
}

#[tokio::test]
async fn stopping_a_workspace_ends_what_its_own_key_opened_and_deleting_it_its_log() {
    let rig = TestControl::new().await;
    let id = rig.running("one").await;
    let key = rig.guests.delivered_to(&id).2;
    let path = format!("/workspaces/{id}/logs/stream");
    let by_workspace = open(&rig, &key, Method::GET, &path, None).await;
    let by_owner = open(&rig, &rig.key, Method::GET, &path, None).await;
    assert_eq!(rig.post(&format!("/workspaces/{id}/stop")).await.0, 200);
    assert!(!rest(by_workspace).await.1);
    rig.until(&id, "stopped").await;
    assert_eq!(rig.call(Method::DELETE, &format!("/workspaces/{id}"), None).await.0, 200);
    assert!(!rest(by_owner).await.1);
}
