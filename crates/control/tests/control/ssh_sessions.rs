//! Sessions by SSH in the audit log, with the gateway and control as they are: each has an end, however it came.

use std::time::Duration;

use reqwest::Method;
use rigbox_ssh::Limits;
use rigbox_ssh::authentication::log_in_request;
use rigbox_ssh::connection::{Connection, Error};
use rigbox_ssh_keys::private_key::PrivateKey;
use serde_json::json;
use tokio::net::TcpStream;

use crate::support::ssh_gateway::SshGateway;
use crate::support::{TestControl, eventually};

/// Returns a key of the owner of a workspace `web`, which runs.
async fn owner(rig: &TestControl) -> PrivateKey {
    let key = PrivateKey::ed25519(&[1; 32]).unwrap();
    rig.guests.host_keys.lock().unwrap().push(key.public_line());
    rig.running("web").await;
    let body = json!({"name": "laptop", "public_key": key.public_line()});
    assert_eq!(rig.call(Method::POST, "/ssh-keys", Some(body)).await.0, 201);
    key
}

/// Logs in. The session has begun at control when it is in the audit log, and waits for its VM.
async fn log_in(rig: &TestControl, gateway: &SshGateway, key: &PrivateKey) -> Connection<TcpStream> {
    let mut client = gateway.connect().await;
    let request = log_in_request(client.session_id().unwrap(), "web", key).unwrap();
    client.send(&request).await.unwrap();
    eventually("the session is open", async || !of_sessions(rig, "ssh.open").await.is_empty()).await;
    client
}

/// Returns the targets of an action in the audit log.
async fn of_sessions(rig: &TestControl, action: &str) -> Vec<String> {
    let (_, log) = rig.get("/audit-log?limit=200").await;
    let entries = log["entries"].as_array().unwrap().iter().filter(|entry| entry["action"] == action);
    entries.map(|entry| entry["target"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn session_that_does_not_reach_its_vm_ends_in_the_audit_log() {
    let rig = TestControl::with_gateways().await;
    let key = owner(&rig).await;
    let limits = Limits { vm: Duration::from_millis(100), ..Limits::default() };
    let gateway = SshGateway::start(&rig, limits).await;
    let mut client = log_in(&rig, &gateway, &key).await;
    let end = loop {
        // Banners come first.
        if let Err(error) = client.receive().await {
            break error;
        }
    };
    assert!(matches!(end, Error::Disconnected(_)), "{end}");
    drop(client);
    eventually("the session has ended", async || !of_sessions(&rig, "ssh.close").await.is_empty()).await;
    let ends = of_sessions(&rig, "ssh.close").await;
    assert!(matches!(&ends[..], [end] if end.ends_with(" 0 bytes in, 0 out")), "{ends:?}");
}

#[tokio::test]
async fn session_whose_gateway_is_killed_ends_in_the_audit_log() {
    let rig = TestControl::with_gateways().await;
    let key = owner(&rig).await;
    let limits = Limits { vm: Duration::from_secs(600), ..Limits::default() };
    let mut gateway = SshGateway::start(&rig, limits).await;
    let client = log_in(&rig, &gateway, &key).await;
    gateway.kill();
    eventually("the session has ended", async || !of_sessions(&rig, "ssh.close").await.is_empty()).await;
    let ends = of_sessions(&rig, "ssh.close").await;
    assert!(
        matches!(&ends[..], [end] if end.ends_with(" the SSH gateway has ended, bytes unknown")),
        "{ends:?}"
    );
    drop(client);
}

#[tokio::test]
async fn client_that_hangs_up_waits_for_its_vm_no_longer() {
    let rig = TestControl::with_gateways().await;
    let key = owner(&rig).await;
    let limits = Limits { vm: Duration::from_secs(600), ..Limits::default() };
    let gateway = SshGateway::start(&rig, limits).await;
    let mut client = log_in(&rig, &gateway, &key).await;
    // It is told that it waits, and goes.
    client.receive().await.unwrap();
    drop(client);
    eventually("the session has ended", async || !of_sessions(&rig, "ssh.close").await.is_empty()).await;
}
