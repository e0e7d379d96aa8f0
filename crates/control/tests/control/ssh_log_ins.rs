//! Log-ins by SSH, as the gateway asks for them: which key opens which workspace, that a signature counts once, and what ends a session.

use std::net::{Ipv4Addr, Ipv6Addr};

use futures_util::{SinkExt, StreamExt};
use reqwest::{Method, StatusCode};
use rigbox_control::Error;
use rigbox_control::admin::{self, ssh_host_key};
use rigbox_core::plans::Plan;
use rigbox_proto::ssh::log_in_response::Outcome;
use rigbox_proto::ssh::review_response::Verdict;
use rigbox_proto::ssh::ssh_gateway_client::SshGatewayClient;
use rigbox_proto::ssh::{
    AttachRequest, AttachResponse, CloseRequest, Granted, HostKeysRequest, LogInRequest, OfferKeyRequest,
    PrepareVmRequest, ReviewRequest,
};
use rigbox_proto::transport::client::Channel;
use rigbox_ssh_keys::log_in::signed_text;
use rigbox_ssh_keys::private_key::PrivateKey;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::tungstenite::Message;
use tonic::Streaming;

use crate::support::browser::Browser;
use crate::support::{TestControl, eventually};

const SESSION: [u8; 32] = [1; 32];
/// Process that asks.
const GATEWAY: &str = "gw-aaaaaaaa";

fn gateway(rig: &TestControl) -> SshGatewayClient<Channel> {
    SshGatewayClient::new(rigbox_proto::transport::unix::channel(&rig.path("ssh.sock")))
}

fn key(n: u8) -> PrivateKey {
    PrivateKey::ed25519(&[n; 32]).unwrap()
}

/// Registers a key, and returns its id.
async fn register(rig: &TestControl, key: &PrivateKey) -> String {
    let body = json!({"name": "laptop", "public_key": key.public_line()});
    let (status, body) = rig.call(Method::POST, "/ssh-keys", Some(body)).await;
    assert_eq!(status, 201, "{body}");
    body["id"].as_str().unwrap().to_owned()
}

fn signed(key: &PrivateKey, session_id: &[u8], user_name: &str) -> LogInRequest {
    let text = signed_text(session_id, user_name, key.algorithm(), &key.public());
    LogInRequest {
        session_id: session_id.to_vec().into(),
        user_name: user_name.to_owned(),
        algorithm: key.algorithm().to_owned(),
        key: key.public().into(),
        signature: key.sign(&text).unwrap().into(),
        client_address: "203.0.113.7".to_owned(),
        may_start: true,
        gateway_id: GATEWAY.to_owned(),
    }
}

/// Attaches a gateway, until the stream is dropped.
async fn attach(rig: &TestControl, gateway_id: &str) -> Streaming<AttachResponse> {
    let request = AttachRequest { gateway_id: gateway_id.to_owned() };
    gateway(rig).attach(request).await.unwrap().into_inner()
}

/// Returns the ends of sessions that the audit log has, the newest first.
async fn ends(rig: &TestControl) -> Vec<String> {
    let (_, log) = rig.get("/audit-log?limit=200").await;
    let entries = log["entries"].as_array().unwrap().iter();
    let ends = entries.filter(|entry| entry["action"] == "ssh.close");
    ends.map(|entry| entry["target"].as_str().unwrap().to_owned()).collect()
}

async fn log_in(rig: &TestControl, request: LogInRequest) -> Outcome {
    gateway(rig).log_in(request).await.unwrap().into_inner().outcome.unwrap()
}

async fn granted(rig: &TestControl, request: LogInRequest) -> Granted {
    match log_in(rig, request).await {
        Outcome::Granted(granted) => granted,
        Outcome::Unavailable(text) => panic!("{text}"),
        Outcome::Starting(starting) => panic!("{}", starting.text),
        Outcome::Refused(_) => panic!("refused"),
    }
}

async fn accepts(rig: &TestControl, key: &PrivateKey) -> bool {
    let request = OfferKeyRequest { key: key.public().into() };
    gateway(rig).offer_key(request).await.unwrap().into_inner().accepted
}

async fn verdict(rig: &TestControl, session: &Granted) -> Verdict {
    let request = ReviewRequest {
        workspace_id: session.workspace_id.clone(),
        boot_id: session.boot_id.clone(),
        key_id: session.key_id.clone(),
    };
    gateway(rig).review(request).await.unwrap().into_inner().verdict()
}

#[tokio::test]
async fn registered_key_opens_its_owners_workspaces_by_name_and_id() {
    let rig = TestControl::with_gateways().await;
    let (own, other) = (key(1), key(2));
    let id = rig.running("web").await;
    let suffix = id.trim_start_matches("ws-");
    let registered = register(&rig, &own).await;
    // A key alone tells nobody which names there are.
    assert!(accepts(&rig, &own).await && !accepts(&rig, &other).await);
    for (n, name) in (10..).zip(["web".to_owned(), format!("web-{suffix}"), id.clone()]) {
        granted(&rig, signed(&own, &[n; 32], &name)).await;
        let outcome = log_in(&rig, signed(&other, &[n; 32], &name)).await;
        assert!(matches!(outcome, Outcome::Refused(_)), "{name}");
    }
    for nobody in ["", "root", "developer", "web-aaaaaaaa", &format!("other-{suffix}")] {
        let outcome = log_in(&rig, signed(&own, &[9; 32], nobody)).await;
        assert!(matches!(outcome, Outcome::Refused(_)), "{nobody}");
    }
    eventually("the owner of the key reads of it", async || {
        rig.get("/audit-log").await.1.to_string().contains("no workspace `root` of SHA256:")
    })
    .await;
    let session = granted(&rig, signed(&own, &SESSION, "web")).await;
    assert_eq!((session.workspace_id.as_str(), session.key_id.as_str()), (id.as_str(), registered.as_str()));
    // The key of a boot follows from it, also after a restart.
    let again = granted(&rig, signed(&own, &[2; 32], "web")).await;
    assert_eq!(session.boot_key, again.boot_key);
    assert_ne!(session.boot_key, own.public());
}

#[tokio::test]
async fn other_user_with_the_same_key_takes_no_name_over() {
    let rig = TestControl::with_gateways().await;
    let own = key(1);
    let id = rig.running("web").await;
    register(&rig, &own).await;
    admin::add_user(&rig.config(), "b@example.com", Plan::Free).await.unwrap();
    let other = Browser::signed_in(&rig, "b@example.com").await;
    let post = async |path: &str, body: Value| {
        let request = other.request(Method::POST, path).header("origin", rig.console());
        let response = rig.send(request.json(&body)).await;
        assert!(response.status.is_success(), "{path}: {}", response.status);
        response.json()
    };
    post("/api/v1/ssh-keys", json!({"name": "theirs", "public_key": own.public_line()})).await;
    let mut made = Vec::new();
    for name in ["web", "prod"] {
        let body = post("/api/v1/workspaces", json!({"name": name})).await;
        made.push(body["vm"]["id"].as_str().unwrap().to_owned());
    }
    // A name alone is of who has registered the key first, and an id is of whose it is.
    assert_eq!(granted(&rig, signed(&own, &[11; 32], "web")).await.workspace_id, id);
    let outcome = log_in(&rig, signed(&own, &[12; 32], "prod")).await;
    assert!(matches!(outcome, Outcome::Refused(_)), "another user's workspace was opened by its name");
    let named = format!("prod-{}", made[1].trim_start_matches("ws-"));
    let Outcome::Unavailable(text) = log_in(&rig, signed(&own, &[13; 32], &named)).await else {
        panic!("the workspace was not found by its id");
    };
    assert!(text.contains("`prod`"), "{text}");
}

#[tokio::test]
async fn signature_counts_once_and_for_what_it_was_made() {
    let mut rig = TestControl::with_gateways().await;
    let own = key(1);
    rig.running("web").await;
    rig.running("other").await;
    register(&rig, &own).await;
    let refused = async |request| matches!(log_in(&rig, request).await, Outcome::Refused(_));
    let request = signed(&own, &SESSION, "web");
    assert!(refused(LogInRequest { user_name: "other".to_owned(), ..request.clone() }).await);
    assert!(refused(LogInRequest { session_id: vec![2; 32].into(), ..request.clone() }).await);
    assert!(refused(LogInRequest { signature: key(2).sign(b"x").unwrap().into(), ..request.clone() }).await);
    granted(&rig, request.clone()).await;
    assert!(refused(request.clone()).await, "a second time");
    rig.kill_control();
    rig.start_control().await;
    let outcome = log_in(&rig, request).await;
    assert!(matches!(outcome, Outcome::Refused(_)), "after a restart");
}

#[tokio::test]
async fn session_ends_with_its_key_and_with_its_boot() {
    let rig = TestControl::with_gateways().await;
    let own = key(1);
    let id = rig.running("web").await;
    let registered = register(&rig, &own).await;
    let session = granted(&rig, signed(&own, &SESSION, "web")).await;
    assert_eq!(verdict(&rig, &session).await, Verdict::GoesOn);
    let other = Granted { boot_id: "another".to_owned(), ..session.clone() };
    assert_eq!(verdict(&rig, &other).await, Verdict::BootEnded);
    rig.post(&format!("/workspaces/{id}/stop")).await;
    rig.until(&id, "stopped").await;
    assert_eq!(verdict(&rig, &session).await, Verdict::BootEnded);
    let Outcome::Unavailable(text) = log_in(&rig, signed(&own, &[3; 32], "web")).await else {
        panic!("a stopped workspace was opened");
    };
    assert_eq!(text, "The workspace `web` is stopped. Start it: rig workspace start web");
    rig.call(Method::DELETE, &format!("/ssh-keys/{registered}"), None).await;
    assert_eq!(verdict(&rig, &session).await, Verdict::Revoked);
    assert!(!accepts(&rig, &own).await);
    // What the gateway tells of the session is recorded, also when its key is gone.
    let close = CloseRequest { session_id: SESSION.to_vec().into(), bytes_to_vm: 5, bytes_to_client: 6 };
    gateway(&rig).close(close.clone()).await.unwrap();
    let log = rig.get("/audit-log").await.1.to_string();
    assert!(log.contains("ssh.open"), "{log}");
    // Told again, because an answer was lost, it is one end all the same.
    gateway(&rig).close(close).await.unwrap();
    assert_eq!(ends(&rig).await, [format!("{id} 5 bytes in, 6 out")]);
}

#[tokio::test]
async fn sessions_of_a_gateway_that_is_gone_are_ended_in_the_audit_log() {
    let mut rig = TestControl::with_gateways().await;
    let own = key(1);
    let id = rig.running("web").await;
    register(&rig, &own).await;
    let open = async |rig: &TestControl, session: u8, gateway_id: &str| {
        let request = signed(&own, &[session; 32], "web");
        granted(rig, LogInRequest { gateway_id: gateway_id.to_owned(), ..request }).await;
    };
    let [killed, dead, alive] = ["gw-killedaa", "gw-deadaaaa", "gw-aliveaaa"];
    let (of_killed, of_alive) = (attach(&rig, killed).await, attach(&rig, alive).await);
    let of_dead = attach(&rig, dead).await;
    open(&rig, 1, killed).await;
    open(&rig, 2, alive).await;
    open(&rig, 3, dead).await;
    // One gateway ends while control runs, and another one while control does not run either.
    drop(of_killed);
    eventually("its session has ended", async || ends(&rig).await.len() == 1).await;
    rig.kill_control();
    drop((of_alive, of_dead));
    rig.start_control().await;
    let of_alive = attach(&rig, alive).await;
    eventually("the other one's has ended", async || ends(&rig).await.len() == 2).await;
    let expected = format!("{id} the SSH gateway has ended, bytes unknown");
    assert_eq!(ends(&rig).await, [expected.clone(), expected]);
    let (_, log) = rig.get("/audit-log?limit=200").await;
    let end = log["entries"].as_array().unwrap().iter().find(|entry| entry["action"] == "ssh.close").unwrap();
    assert_eq!(end["address"], "203.0.113.7");
    // What is attached keeps its sessions, and tells their end itself.
    let close = CloseRequest { session_id: vec![2; 32].into(), bytes_to_vm: 1, bytes_to_client: 2 };
    gateway(&rig).close(close).await.unwrap();
    assert_eq!(ends(&rig).await[0], format!("{id} 1 bytes in, 2 out"));
    drop(of_alive);
}

#[tokio::test]
async fn vm_admits_the_key_of_its_boot_and_tells_its_host_keys() {
    let rig = TestControl::with_gateways().await;
    let (own, host) = (key(1), key(7));
    let id = rig.running("web").await;
    register(&rig, &own).await;
    let session = granted(&rig, signed(&own, &SESSION, "web")).await;
    *rig.guests.host_keys.lock().unwrap() =
        vec![format!("{} root@web", host.public_line()), "no key".to_owned(), "ssh-dss AAAA".to_owned()];
    let request = PrepareVmRequest { workspace_id: id.clone(), boot_id: session.boot_id.clone() };
    let host_keys = gateway(&rig).prepare_vm(request.clone()).await.unwrap().into_inner().host_keys;
    assert_eq!(host_keys, [host.public()]);
    let boot_key = PrivateKey::ed25519(&session.boot_key).unwrap();
    assert_eq!(*rig.guests.gateway_keys.lock().unwrap(), [boot_key.public_line()]);
    let other = PrepareVmRequest { boot_id: "another".to_owned(), ..request };
    let status = gateway(&rig).prepare_vm(other).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::FailedPrecondition);
}

#[tokio::test]
async fn host_key_is_made_once_and_published() {
    let mut rig = TestControl::with_gateways().await;
    let seeds = async |rig: &TestControl| {
        gateway(rig).host_keys(HostKeysRequest {}).await.unwrap().into_inner().seeds
    };
    let first = seeds(&rig).await;
    rig.kill_control();
    rig.start_control().await;
    assert_eq!(seeds(&rig).await, first);
    let url = format!("http://{}/.well-known/ssh-known-hosts", rig.address);
    let text = rig.client.get(url).send().await.unwrap().text().await.unwrap();
    let line = PrivateKey::ed25519(&first[0]).unwrap().public_line();
    assert_eq!(text, format!("[localhost]:7022 {line}\n"));
}

#[tokio::test]
async fn registered_keys_are_synced_into_running_workspaces() {
    let rig = TestControl::with_gateways().await;
    let (before, later) = (key(1), key(2));
    register(&rig, &before).await;
    let id = rig.running("web").await;
    let synced = |count: usize| {
        let lines = rig.guests.synced_keys.lock().unwrap();
        lines.last().is_some_and(|(of, keys)| *of == id && keys.len() == count)
    };
    eventually("the key is there from the start", async || synced(1)).await;
    let registered = register(&rig, &later).await;
    eventually("a new key is added", async || synced(2)).await;
    rig.call(Method::DELETE, &format!("/ssh-keys/{registered}"), None).await;
    eventually("a removed key goes", async || synced(1)).await;
    let (status, body) = rig.call(Method::POST, &format!("/workspaces/{id}/ssh-keys/sync"), None).await;
    assert_eq!((status.as_u16(), &body["synced"]), (200, &json!(1)), "{body}");
    assert_eq!(body["keys"][0]["key_type"], "ssh-ed25519");
}

#[tokio::test]
async fn stopped_workspace_is_started_once_for_its_owner_who_connects() {
    let rig = TestControl::with_gateways().await;
    let own = key(1);
    let id = rig.running("web").await;
    register(&rig, &own).await;
    rig.post(&format!("/workspaces/{id}/stop")).await;
    rig.until(&id, "stopped").await;
    let request = signed(&own, &SESSION, "web");
    assert!(matches!(log_in(&rig, request.clone()).await, Outcome::Unavailable(_)), "without the setting");
    let path = format!("/workspaces/{id}/ssh");
    let setting = json!({"start_on_connect": true});
    assert_eq!(rig.get(&path).await.1["start_on_connect"], false);
    assert_eq!(rig.call(Method::PATCH, &path, Some(setting.clone())).await, (StatusCode::OK, setting));
    assert_eq!(rig.get(&path).await.1["start_on_connect"], true);
    let again = LogInRequest { may_start: false, ..request.clone() };
    assert!(matches!(log_in(&rig, again.clone()).await, Outcome::Unavailable(_)), "a second start");
    let Outcome::Starting(starting) = log_in(&rig, request).await else { panic!("not started") };
    assert_eq!(
        (starting.workspace_id.as_str(), starting.text.as_str()),
        (id.as_str(), "The workspace `web` is starting.")
    );
    rig.until(&id, "running").await;
    let session = granted(&rig, again.clone()).await;
    assert_eq!(session.workspace_id, id);
    // The signature that has waited counts once, too, and starts nothing later.
    assert!(matches!(log_in(&rig, again.clone()).await, Outcome::Refused(_)));
    rig.post(&format!("/workspaces/{id}/stop")).await;
    rig.until(&id, "stopped").await;
    let replayed = LogInRequest { may_start: true, ..again };
    assert!(matches!(log_in(&rig, replayed).await, Outcome::Refused(_)));
    let (_, log) = rig.get("/audit-log").await;
    let started =
        |entry: &serde_json::Value| entry["action"] == "workspace.start" && entry["address"] == "203.0.113.7";
    assert!(log["entries"].as_array().unwrap().iter().any(started), "{log}");
}

#[tokio::test]
async fn next_host_key_is_offered_beside_the_current_one_and_then_replaces_it() {
    let rig = TestControl::with_gateways().await;
    let seeds = async || gateway(&rig).host_keys(HostKeysRequest {}).await.unwrap().into_inner().seeds;
    let first = seeds().await;
    assert_eq!(first.len(), 1);
    let config = rig.config();
    let announced = ssh_host_key::announce_host_key(&config).await.unwrap();
    assert!(announced.next.is_some(), "{announced:?}");
    assert!(matches!(ssh_host_key::announce_host_key(&config).await, Err(Error::HostKeyAnnounced)));
    let both = seeds().await;
    assert_eq!((both.len(), &both[0]), (2, &first[0]));
    let url = format!("http://{}/.well-known/ssh-known-hosts", rig.address);
    let published = async || rig.client.get(&url).send().await.unwrap().text().await.unwrap().lines().count();
    eventually("both are published", async || published().await == 2).await;
    let (replaced, was_announced) = ssh_host_key::replace_host_key(&config).await.unwrap();
    assert!(was_announced);
    assert_eq!((Some(replaced.current), replaced.next), (announced.next, None));
    assert_eq!(seeds().await, both[1..]);
    // Without one that was announced, a new one.
    let (_, was_announced) = ssh_host_key::replace_host_key(&config).await.unwrap();
    assert!(!was_announced);
    let last = seeds().await;
    assert!(last.len() == 1 && !both.contains(&last[0]));
}

#[tokio::test]
async fn connection_over_the_api_reaches_the_gateway_with_the_clients_address() {
    let rig = TestControl::with_gateways().await;
    let id = rig.running("web").await;
    let request = rig.socket_request(&format!("/workspaces/{id}/ssh/stream"), &rig.key);
    let refused = tokio_tungstenite::connect_async(request.clone()).await.unwrap_err();
    assert!(refused.to_string().contains("503"), "without a gateway: {refused}");
    let gateway = tokio::net::UnixListener::bind(rig.path("ssh-streams.sock")).unwrap();
    let (mut socket, _) = tokio_tungstenite::connect_async(request).await.unwrap();
    let (mut stream, _) = gateway.accept().await.unwrap();
    let mut address = [0; 16];
    stream.read_exact(&mut address).await.unwrap();
    assert_eq!(Ipv6Addr::from(address), Ipv4Addr::LOCALHOST.to_ipv6_mapped());
    socket.send(Message::binary(&b"SSH-2.0-test\r\n"[..])).await.unwrap();
    let mut bytes = [0; 14];
    stream.read_exact(&mut bytes).await.unwrap();
    assert_eq!(&bytes, b"SSH-2.0-test\r\n");
    stream.write_all(b"hello").await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap().into_data(), &b"hello"[..]);
    drop(stream);
    assert!(matches!(socket.next().await, Some(Ok(Message::Close(_)))));
}
