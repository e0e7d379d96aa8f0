//! Gateways: a change gets its response once it is in force at every gateway.

use std::time::{Duration, Instant};

use reqwest::Method;
use rigbox_control::admin;
use rigbox_core::plans::Plan;
use rigbox_proto::gateway::changes_client::ChangesClient;
use rigbox_proto::gateway::gateway_client::GatewayClient;
use rigbox_proto::gateway::identify_request::Credential;
use rigbox_proto::gateway::watch_event::Event;
use rigbox_proto::gateway::{
    AppState, IdentifyRequest, Identity, IdentityKind, RedeemRequest, ResolveRequest, Visibility, WatchAck,
    WatchEvent,
};
use rigbox_proto::transport::client::Channel;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming};

use crate::support::browser::Browser;
use crate::support::{TestControl, eventually};

/// Address of the visitors of apps.
const VISITOR: &str = "203.0.113.7";
/// Host of the app.
const HOST: &str = "web.rigbox.localhost";
const SSH_KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAINzDTkJ/Qj8U6p6Vt76Q8GWs+YJVqzBcInAJ6CcLfDb9";
const STATE: &str = "sssssssssssssssssssssssssssssssssssssssssss";

fn channel(rig: &TestControl) -> Channel {
    rigbox_proto::transport::unix::channel(&rig.path("gateway.sock"))
}

fn client(rig: &TestControl) -> GatewayClient<Channel> {
    GatewayClient::new(channel(rig))
}

struct Watch {
    acknowledge: mpsc::Sender<WatchAck>,
    events: Streaming<WatchEvent>,
}

impl Watch {
    async fn start(rig: &TestControl) -> Self {
        #[expect(clippy::disallowed_methods, reason = "of one test")]
        let (acknowledge, receiver) = mpsc::channel(16);
        let events =
            ChangesClient::new(channel(rig)).watch(ReceiverStream::new(receiver)).await.unwrap().into_inner();
        let mut watch = Self { acknowledge, events };
        let first = watch.events.message().await.unwrap().unwrap();
        assert!(matches!(first.event, Some(Event::Lease(_))), "{first:?}");
        watch
    }

    /// Returns the next event that is not a keepalive.
    async fn next(&mut self) -> WatchEvent {
        loop {
            let event = self.events.message().await.unwrap().unwrap();
            if !matches!(event.event, Some(Event::Lease(_))) {
                return event;
            }
        }
    }

    /// Acknowledges every event from now on.
    fn acknowledge_all(mut self) -> tokio::task::JoinHandle<()> {
        tokio::spawn(async move {
            while let Ok(Some(event)) = self.events.message().await {
                let _ = self.acknowledge.send(WatchAck { sequence: event.sequence }).await;
            }
        })
    }
}

async fn app(rig: &TestControl, workspace: &str) -> String {
    let body = json!({"name": "web", "workspace_id": workspace, "port": 8000});
    let (status, body) = rig.call(Method::POST, "/apps", Some(body)).await;
    assert_eq!(status, 201, "{body}");
    body["app"]["id"].as_str().unwrap().to_owned()
}

async fn identify(rig: &TestControl, app: &str, credential: Credential) -> Identity {
    let request = IdentifyRequest {
        credential: Some(credential),
        app_id: app.to_owned(),
        client_address: VISITOR.to_owned(),
    };
    client(rig).identify(request).await.unwrap().into_inner()
}

async fn set_visibility(rig: &TestControl, app: &str, body: Value) {
    let (status, body) = rig.call(Method::PUT, &format!("/apps/{app}/visibility"), Some(body)).await;
    assert_eq!(status, 200, "{body}");
}

#[tokio::test]
async fn host_resolves_to_the_current_app() {
    let rig = TestControl::with_gateways().await;
    let workspace = rig.running("one").await;
    let app = app(&rig, &workspace).await;
    let resolve = async |host: &str| {
        let response = client(&rig).resolve(ResolveRequest { host: host.to_owned() }).await;
        response.map(tonic::Response::into_inner).map_err(|status| status.code())
    };
    let route = resolve("web.rigbox.localhost").await.unwrap();
    assert_eq!((route.app_id.as_str(), route.port), (app.as_str(), 8000));
    assert_eq!((route.visibility(), route.state()), (Visibility::Private, AppState::Available));
    assert_eq!(route.origin, "http://web.rigbox.localhost:7080");
    assert_eq!(route.sign_in_url, format!("{}/open/{app}", rig.console()));
    assert!(!route.boot_id.is_empty());
    for unknown in
        ["other.rigbox.localhost", "rigbox.localhost", "a.web.rigbox.localhost", "web", "x.example"]
    {
        assert_eq!(resolve(unknown).await.unwrap_err(), Code::NotFound, "{unknown}");
    }
    let path = format!("/apps/{app}");
    rig.call(Method::PATCH, &path, Some(json!({"status": "inactive"}))).await;
    assert_eq!(resolve("web.rigbox.localhost").await.unwrap().state(), AppState::AppStopped);
    rig.call(Method::PATCH, &path, Some(json!({"status": "active"}))).await;
    rig.post(&format!("/workspaces/{workspace}/stop")).await;
    rig.until(&workspace, "stopped").await;
    let route = resolve("web.rigbox.localhost").await.unwrap();
    assert_eq!((route.state(), route.boot_id.as_str()), (AppState::WorkspaceNotRunning, ""));
    // An unverified domain resolves to nothing.
    rig.call(Method::PATCH, &path, Some(json!({"custom_domain": "x.example"}))).await;
    assert_eq!(resolve("x.example").await.unwrap_err(), Code::NotFound);
}

#[tokio::test]
async fn response_to_a_change_waits_for_every_gateway() {
    let rig = TestControl::with_gateways().await;
    let workspace = rig.running("one").await;
    let app = app(&rig, &workspace).await;
    let other = Watch::start(&rig).await.acknowledge_all();
    let mut slow = Watch::start(&rig).await;
    let change = set_visibility(&rig, &app, json!({"visibility": "public"}));
    tokio::pin!(change);
    let event = tokio::select! {
        event = slow.next() => event,
        () = &mut change => panic!("response before the change was in force"),
    };
    assert_eq!(event.event, Some(Event::WorkspaceChanged(workspace)));
    let too_early = tokio::time::timeout(Duration::from_millis(300), &mut change).await;
    assert!(too_early.is_err(), "response before the change was in force");
    slow.acknowledge.send(WatchAck { sequence: event.sequence }).await.unwrap();
    change.await;
    other.abort();
}

#[tokio::test]
async fn silent_gateway_is_removed_once_its_lease_has_expired() {
    let rig = TestControl::with_gateways().await;
    let workspace = rig.running("one").await;
    let app = app(&rig, &workspace).await;
    let mut silent = Watch::start(&rig).await;
    let started_at = Instant::now();
    set_visibility(&rig, &app, json!({"visibility": "public"})).await;
    // The gateway is removed, and its lease was two seconds.
    assert!(started_at.elapsed() >= Duration::from_secs(2), "{:?}", started_at.elapsed());
    while silent.events.message().await.unwrap().is_some() {}
    let started_at = Instant::now();
    set_visibility(&rig, &app, json!({"visibility": "private"})).await;
    assert!(started_at.elapsed() < Duration::from_secs(2), "{:?}", started_at.elapsed());
}

#[tokio::test]
async fn revocation_reaches_gateways_before_its_response_and_operator_changes_soon() {
    let rig = TestControl::with_gateways().await;
    let (_, key) = rig.call(Method::POST, "/api-keys", Some(json!({"name": "k"}))).await;
    let ssh_key = json!({"name": "k", "public_key": SSH_KEY});
    let (_, ssh_key) = rig.call(Method::POST, "/ssh-keys", Some(ssh_key)).await;
    let mut watch = Watch::start(&rig).await;
    for (route, id) in [("api-keys", &key["api_key"]["id"]), ("ssh-keys", &ssh_key["id"])] {
        let path = format!("/{route}/{}", id.as_str().unwrap());
        let revoke = rig.call(Method::DELETE, &path, None);
        tokio::pin!(revoke);
        let event = tokio::select! {
            event = watch.next() => event,
            _ = &mut revoke => panic!("response before the change was in force"),
        };
        assert!(matches!(event.event, Some(Event::GrantsChanged(_))), "{event:?}");
        watch.acknowledge.send(WatchAck { sequence: event.sequence }).await.unwrap();
        assert_eq!(revoke.await.0, 200);
    }
    admin::add_user(&rig.config(), "b@example.com", Plan::Free).await.unwrap();
    admin::set_disabled(&rig.config(), "b@example.com", true).await.unwrap();
    let event = tokio::time::timeout(Duration::from_secs(2), watch.next()).await.unwrap();
    assert!(matches!(event.event, Some(Event::Reset(_))), "{event:?}");
}

#[tokio::test]
async fn apps_of_a_disabled_user_are_gone_at_every_gateway() {
    let rig = TestControl::with_gateways().await;
    admin::add_user(&rig.config(), "b@example.com", Plan::Pro).await.unwrap();
    let browser = Browser::signed_in(&rig, "b@example.com").await;
    let page = |method: Method, path: &str| {
        browser.request(method, &format!("/api/v1{path}")).header("origin", rig.console())
    };
    let created = rig.send(page(Method::POST, "/workspaces").json(&json!({"name": "theirs"}))).await.json();
    let workspace = created["vm"]["id"].as_str().unwrap();
    let body = json!({"name": "public-app", "workspace_id": workspace, "port": 8000});
    eventually("the app is there", || async {
        matches!(rig.send(page(Method::POST, "/apps").json(&body)).await.status.as_u16(), 201 | 409)
    })
    .await;
    let resolve = async || {
        let host = "public-app.rigbox.localhost".to_owned();
        client(&rig).resolve(ResolveRequest { host }).await.map(drop).map_err(|status| status.code())
    };
    assert_eq!(resolve().await, Ok(()));
    let mut watch = Watch::start(&rig).await;
    admin::set_disabled(&rig.config(), "b@example.com", true).await.unwrap();
    // Also those who showed no credential are told.
    let told = async {
        // The workspace is still being provisioned, which they hear of too.
        while !matches!(watch.next().await.event, Some(Event::Reset(_))) {}
    };
    tokio::time::timeout(Duration::from_secs(5), told).await.expect("gateways forget everything");
    assert_eq!(resolve().await, Err(Code::NotFound));
}

#[tokio::test]
async fn credentials_identify_users_and_workspaces() {
    let rig = TestControl::with_gateways().await;
    let (workspace, other) = (rig.running("one").await, rig.running("two").await);
    let app = app(&rig, &workspace).await;
    let by_key = async |key: &str| identify(&rig, &app, Credential::Key(key.to_owned())).await;
    let owner = by_key(&rig.key).await;
    assert_eq!(
        (owner.kind(), owner.email.as_str(), owner.in_scope),
        (IdentityKind::User, "a@example.com", true)
    );
    // No one has followed a link to this address.
    assert!(!owner.email_verified && !owner.assertion.is_empty());
    let (_, limited) = rig
        .call(Method::POST, "/api-keys", Some(json!({"name": "k", "workspaces": [other], "role": "operate"})))
        .await;
    let limited = by_key(limited["key"].as_str().unwrap()).await;
    assert_eq!((limited.kind(), limited.in_scope), (IdentityKind::User, false));
    assert_eq!(by_key(&rig.guests.delivered_to(&workspace).2).await.kind(), IdentityKind::Workspace);
    // Uses at apps are in the audit log, by the visitor's address.
    eventually("the first use from this address is recorded", || async {
        let (_, log) = rig.get("/audit-log").await;
        let entries = log["entries"].as_array().unwrap();
        entries.iter().any(|entry| entry["action"] == "key.first_use" && entry["address"] == VISITOR)
    })
    .await;
    for unknown in ["", "rb_short", &format!("rb_{}", "a".repeat(43)), &format!("rb_ws_{}", "a".repeat(43))] {
        assert_eq!(by_key(unknown).await.kind(), IdentityKind::Invalid, "{unknown}");
    }
}

#[tokio::test]
async fn browser_is_handed_off_to_an_app_once_per_code() {
    let rig = TestControl::with_gateways().await;
    let workspace = rig.running("one").await;
    let app = app(&rig, &workspace).await;
    let open = format!("/open/{app}?state={STATE}&host={HOST}");

    // Without a session, the handoff leads through the sign-in page and back.
    let anonymous = Browser::new(&rig);
    let response = anonymous.open(&open).await;
    assert_eq!(response.headers["location"], format!("/sign-in?app={app}&state={STATE}&host={HOST}"));
    let mut browser = Browser::new(&rig);
    let link = admin::login_link(&rig.config(), "a@example.com").await.unwrap();
    let (_, token) = link.split_once("token=").unwrap();
    let fields = [("token", token), ("app", app.as_str()), ("state", STATE), ("host", HOST)];
    let response = browser.submit("/sign-in/link", &fields).await;
    assert_eq!(response.headers["location"], format!("/sign-in?app={app}&state={STATE}&host={HOST}"));

    let response = browser.open(&open).await;
    let location = response.headers["location"].to_str().unwrap().to_owned();
    let prefix = "http://web.rigbox.localhost:7080/.rigbox/callback?code=";
    let (code, state) = location.strip_prefix(prefix).unwrap().split_once("&state=").unwrap();
    assert_eq!(state, STATE);
    let redeem = async |code: &str, app_id: &str, state: &str, host: &str| {
        let request = RedeemRequest {
            code: code.to_owned(),
            app_id: app_id.to_owned(),
            state: state.to_owned(),
            host: host.to_owned(),
        };
        client(&rig).redeem(request).await.map(tonic::Response::into_inner).map_err(|status| status.code())
    };
    let session = redeem(code, &app, STATE, HOST).await.unwrap().app_session;
    assert_eq!(redeem(code, &app, STATE, HOST).await.unwrap_err(), Code::PermissionDenied);
    // A failed attempt uses the code up.
    let fresh = async || {
        let response = browser.open(&open).await;
        let location = response.headers["location"].to_str().unwrap().to_owned();
        location.strip_prefix(prefix).unwrap().split_once('&').unwrap().0.to_owned()
    };
    for (app_id, state, host) in [
        ("ap-aaaaaaaa", STATE, HOST),
        (app.as_str(), "another", HOST),
        (app.as_str(), STATE, "shop.example.org"),
        (app.as_str(), STATE, ""),
    ] {
        let code = fresh().await;
        assert!(redeem(&code, app_id, state, host).await.is_err());
        assert!(redeem(&code, &app, STATE, HOST).await.is_err());
    }
    // No code goes to a host that is not the app's, whatever a link says; what is no host is no link.
    for (host, to) in [
        ("", "http://web.rigbox.localhost:7080/.rigbox/callback?code="),
        ("&host=other.rigbox.localhost", "http://web.rigbox.localhost:7080/"),
        ("&host=shop.example.org", "http://web.rigbox.localhost:7080/"),
        ("&host=evil.example%2F", ""),
        ("&host=", ""),
    ] {
        let response = browser.open(&format!("/open/{app}?state={STATE}{host}")).await;
        let location = response.headers.get("location").map_or("", |to| to.to_str().unwrap());
        assert_eq!(location.split_inclusive("code=").next().unwrap_or_default(), to, "{host}");
        assert_eq!(response.status.as_u16(), if to.is_empty() { 400 } else { 303 }, "{host}");
    }

    let by_session = async |app: &str| identify(&rig, app, Credential::AppSession(session.clone())).await;
    let identity = by_session(&app).await;
    assert_eq!((identity.kind(), identity.email_verified), (IdentityKind::User, true));
    assert_eq!(by_session("ap-aaaaaaaa").await.kind(), IdentityKind::Invalid);
    // It ends with the session at the console.
    browser.submit("/sign-out", &[]).await;
    assert_eq!(by_session(&app).await.kind(), IdentityKind::Invalid);
}

#[tokio::test]
async fn no_handoff_to_an_app_the_user_may_not_open() {
    let rig = TestControl::with_gateways().await;
    let workspace = rig.running("one").await;
    let app = app(&rig, &workspace).await;
    admin::add_user(&rig.config(), "b@example.com", Plan::Free).await.unwrap();
    let friend = Browser::signed_in(&rig, "b@example.com").await;
    let open = async |app: &str| friend.open(&format!("/open/{app}?state={STATE}")).await.status.as_u16();
    assert_eq!(open(&app).await, 403);
    assert_eq!((open("ap-aaaaaaaa").await, open("web").await), (403, 403));
    set_visibility(&rig, &app, json!({"visibility": "privileged", "allowed_emails": ["b@example.com"]}))
        .await;
    assert_eq!(open(&app).await, 303);
    set_visibility(&rig, &app, json!({"visibility": "private"})).await;
    assert_eq!(open(&app).await, 403);
    // Only an app's host issues states of this form.
    for state in ["", "short", "https://evil.example/aaaaaaaaaaaaaaaaaaaaaa", &"s".repeat(44)] {
        let path = format!("/open/{app}?state={state}");
        assert_eq!(friend.open(&path).await.status, 400, "{state}");
    }
}
