//! What control promises gateways, and those who change something: what is answered is in force at every gateway.

// clippy's exemption for tests does not reach helpers beside them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::time::{Duration, Instant};

use reqwest::Method;
use rigbox_control::admin;
use rigbox_core::plans::Plan;
use rigbox_proto::gateway::gateway_client::GatewayClient;
use rigbox_proto::gateway::identify_request::Credential;
use rigbox_proto::gateway::watch_event::Event;
use rigbox_proto::gateway::{
    AppState, IdentifyRequest, Identity, IdentityKind, RedeemRequest, ResolveRequest, Visibility, WatchAck,
    WatchEvent,
};
use serde_json::{Value, json};
use support::Rig;
use support::browser::Browser;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Streaming};

const STATE: &str = "sssssssssssssssssssssssssssssssssssssssssss";

fn client(rig: &Rig) -> GatewayClient<Channel> {
    GatewayClient::new(rigbox_proto::transport::unix::channel(&rig.path("gateway.sock")))
}

struct Watch {
    acknowledge: mpsc::Sender<WatchAck>,
    notices: Streaming<WatchEvent>,
}

impl Watch {
    async fn begin(rig: &Rig) -> Self {
        let (acknowledge, receiver) = mpsc::channel(16);
        let notices = client(rig).watch(ReceiverStream::new(receiver)).await.unwrap().into_inner();
        let mut watch = Self { acknowledge, notices };
        let first = watch.notices.message().await.unwrap().unwrap();
        assert!(matches!(first.event, Some(Event::Lease(_))), "{first:?}");
        watch
    }

    /// The next event that is not a keep-alive.
    async fn next(&mut self) -> WatchEvent {
        loop {
            let notice = self.notices.message().await.unwrap().unwrap();
            if !matches!(notice.event, Some(Event::Lease(_))) {
                return notice;
            }
        }
    }

    /// Acknowledges everything from now on.
    fn obey(mut self) -> tokio::task::JoinHandle<()> {
        tokio::spawn(async move {
            while let Ok(Some(notice)) = self.notices.message().await {
                let _ = self.acknowledge.send(WatchAck { sequence: notice.sequence }).await;
            }
        })
    }
}

async fn app(rig: &Rig, workspace: &str) -> String {
    let body = json!({"name": "web", "workspace_id": workspace, "port": 8000});
    let (status, body) = rig.call(Method::POST, "/apps", Some(body)).await;
    assert_eq!(status, 201, "{body}");
    body["app"]["id"].as_str().unwrap().to_owned()
}

async fn identify(rig: &Rig, app: &str, credential: Credential) -> Identity {
    let request = IdentifyRequest { credential: Some(credential), app_id: app.to_owned() };
    client(rig).identify(request).await.unwrap().into_inner()
}

async fn show_to(rig: &Rig, app: &str, body: Value) {
    let (status, body) = rig.call(Method::PUT, &format!("/apps/{app}/visibility"), Some(body)).await;
    assert_eq!(status, 200, "{body}");
}

#[tokio::test]
async fn a_host_resolves_to_what_stands_there_now() {
    let rig = Rig::with_gateways().await;
    let workspace = rig.running("one").await;
    let app = app(&rig, &workspace).await;
    let resolve = async |host: &str| {
        let answer = client(&rig).resolve(ResolveRequest { host: host.to_owned() }).await;
        answer.map(tonic::Response::into_inner).map_err(|status| status.code())
    };
    let route = resolve("web.rigbox.localhost").await.unwrap();
    assert_eq!((route.app_id.as_str(), route.port), (app.as_str(), 8000));
    assert_eq!((route.visibility(), route.state()), (Visibility::Private, AppState::Available));
    assert_eq!(route.origin, "http://web.rigbox.localhost:7080");
    assert_eq!(route.sign_in_url, format!("{}/open/{app}", rig.console()));
    assert!(!route.boot_id.is_empty());
    for nobody in ["other.rigbox.localhost", "rigbox.localhost", "a.web.rigbox.localhost", "web", "x.example"]
    {
        assert_eq!(resolve(nobody).await.unwrap_err(), Code::NotFound, "{nobody}");
    }
    let path = format!("/apps/{app}");
    rig.call(Method::PATCH, &path, Some(json!({"status": "inactive"}))).await;
    assert_eq!(resolve("web.rigbox.localhost").await.unwrap().state(), AppState::AppStopped);
    rig.call(Method::PATCH, &path, Some(json!({"status": "active"}))).await;
    rig.post(&format!("/workspaces/{workspace}/stop")).await;
    rig.until(&workspace, "stopped").await;
    let route = resolve("web.rigbox.localhost").await.unwrap();
    assert_eq!((route.state(), route.boot_id.as_str()), (AppState::WorkspaceNotRunning, ""));
    // A domain that is not verified is nobody's.
    rig.call(Method::PATCH, &path, Some(json!({"custom_domain": "x.example"}))).await;
    assert_eq!(resolve("x.example").await.unwrap_err(), Code::NotFound);
}

#[tokio::test]
async fn a_change_is_answered_when_every_gateway_has_acknowledged_it() {
    let rig = Rig::with_gateways().await;
    let workspace = rig.running("one").await;
    let app = app(&rig, &workspace).await;
    let other = Watch::begin(&rig).await.obey();
    let mut slow = Watch::begin(&rig).await;
    let change = show_to(&rig, &app, json!({"visibility": "public"}));
    tokio::pin!(change);
    let notice = tokio::select! {
        notice = slow.next() => notice,
        () = &mut change => panic!("answered before it was in force"),
    };
    assert_eq!(notice.event, Some(Event::WorkspaceChanged(workspace)));
    let too_early = tokio::time::timeout(Duration::from_millis(300), &mut change).await;
    assert!(too_early.is_err(), "answered before it was in force");
    slow.acknowledge.send(WatchAck { sequence: notice.sequence }).await.unwrap();
    change.await;
    other.abort();
}

#[tokio::test]
async fn a_gateway_that_does_not_answer_is_let_go_and_waited_for_until_its_lease_is_over() {
    let rig = Rig::with_gateways().await;
    let workspace = rig.running("one").await;
    let app = app(&rig, &workspace).await;
    let mut silent = Watch::begin(&rig).await;
    let began = Instant::now();
    show_to(&rig, &app, json!({"visibility": "public"})).await;
    // It is heard of no more, and had a lease of two seconds.
    assert!(began.elapsed() >= Duration::from_secs(2), "{:?}", began.elapsed());
    while silent.notices.message().await.unwrap().is_some() {}
    let began = Instant::now();
    show_to(&rig, &app, json!({"visibility": "private"})).await;
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
}

#[tokio::test]
async fn what_is_revoked_is_told_before_it_is_answered_and_what_the_operator_does_soon() {
    let rig = Rig::with_gateways().await;
    let (_, made) = rig.call(Method::POST, "/api-keys", Some(json!({"name": "k"}))).await;
    let mut watch = Watch::begin(&rig).await;
    let path = format!("/api-keys/{}", made["api_key"]["id"].as_str().unwrap());
    let revoke = rig.call(Method::DELETE, &path, None);
    tokio::pin!(revoke);
    let notice = tokio::select! {
        notice = watch.next() => notice,
        _ = &mut revoke => panic!("answered before it was in force"),
    };
    assert!(matches!(notice.event, Some(Event::GrantsChanged(_))), "{notice:?}");
    watch.acknowledge.send(WatchAck { sequence: notice.sequence }).await.unwrap();
    assert_eq!(revoke.await.0, 200);
    admin::add_user(&rig.config(), "b@example.com", Plan::Free).await.unwrap();
    admin::set_disabled(&rig.config(), "b@example.com", true).await.unwrap();
    let told = tokio::time::timeout(Duration::from_secs(2), watch.next()).await.unwrap();
    assert!(matches!(told.event, Some(Event::GrantsChanged(_))), "{told:?}");
}

#[tokio::test]
async fn a_credential_stands_for_whom_it_stands() {
    let rig = Rig::with_gateways().await;
    let (workspace, other) = (rig.running("one").await, rig.running("two").await);
    let app = app(&rig, &workspace).await;
    let by_key = async |key: &str| identify(&rig, &app, Credential::Key(key.to_owned())).await;
    let owner = by_key(&rig.key).await;
    assert_eq!(
        (owner.kind(), owner.email.as_str(), owner.in_scope),
        (IdentityKind::User, "a@example.com", true)
    );
    // Nobody has followed a link to this address.
    assert!(!owner.email_verified && !owner.assertion.is_empty());
    let (_, limited) = rig
        .call(Method::POST, "/api-keys", Some(json!({"name": "k", "workspaces": [other], "role": "operate"})))
        .await;
    let limited = by_key(limited["key"].as_str().unwrap()).await;
    assert_eq!((limited.kind(), limited.in_scope), (IdentityKind::User, false));
    assert_eq!(by_key(&rig.guests.given(&workspace).2).await.kind(), IdentityKind::Workspace);
    for nobody in ["", "rb_short", &format!("rb_{}", "a".repeat(43)), &format!("rb_ws_{}", "a".repeat(43))] {
        assert_eq!(by_key(nobody).await.kind(), IdentityKind::Invalid, "{nobody}");
    }
}

#[tokio::test]
async fn a_browser_gets_from_the_console_to_an_app_it_may_see_once_per_code() {
    let rig = Rig::with_gateways().await;
    let workspace = rig.running("one").await;
    let app = app(&rig, &workspace).await;
    let open = format!("/open/{app}?state={STATE}");

    // Nobody is signed in: the way leads over the sign-in page, and back.
    let nobody = Browser::new(&rig);
    let answer = nobody.open(&open).await;
    assert_eq!(answer.headers["location"], format!("/sign-in?app={app}&state={STATE}"));
    let mut browser = Browser::new(&rig);
    let link = admin::login_link(&rig.config(), "a@example.com").await.unwrap();
    let (_, token) = link.split_once("token=").unwrap();
    let fields = [("token", token), ("app", app.as_str()), ("state", STATE)];
    let answer = browser.submit("/sign-in/link", &fields).await;
    assert_eq!(answer.headers["location"], format!("/sign-in?app={app}&state={STATE}"));

    let answer = browser.open(&open).await;
    let location = answer.headers["location"].to_str().unwrap().to_owned();
    let prefix = "http://web.rigbox.localhost:7080/.rigbox/callback?code=";
    let (code, state) = location.strip_prefix(prefix).unwrap().split_once("&state=").unwrap();
    assert_eq!(state, STATE);
    let redeem = async |code: &str, app_id: &str, state: &str| {
        let request =
            RedeemRequest { code: code.to_owned(), app_id: app_id.to_owned(), state: state.to_owned() };
        client(&rig).redeem(request).await.map(tonic::Response::into_inner).map_err(|status| status.code())
    };
    let session = redeem(code, &app, STATE).await.unwrap().app_session;
    assert_eq!(redeem(code, &app, STATE).await.unwrap_err(), Code::PermissionDenied);
    // What does not fit is used up.
    let fresh = async || {
        let answer = browser.open(&open).await;
        let location = answer.headers["location"].to_str().unwrap().to_owned();
        location.strip_prefix(prefix).unwrap().split_once('&').unwrap().0.to_owned()
    };
    for (app_id, state) in [("ap-aaaaaaaa", STATE), (app.as_str(), "another")] {
        let code = fresh().await;
        assert!(redeem(&code, app_id, state).await.is_err());
        assert!(redeem(&code, &app, STATE).await.is_err());
    }

    let by_session = async |app: &str| identify(&rig, app, Credential::AppSession(session.clone())).await;
    let identity = by_session(&app).await;
    assert_eq!((identity.kind(), identity.email_verified), (IdentityKind::User, true));
    assert_eq!(by_session("ap-aaaaaaaa").await.kind(), IdentityKind::Invalid);
    // It ends with the session on the console.
    browser.submit("/sign-out", &[]).await;
    assert_eq!(by_session(&app).await.kind(), IdentityKind::Invalid);
}

#[tokio::test]
async fn nobody_is_sent_to_an_app_they_may_not_see() {
    let rig = Rig::with_gateways().await;
    let workspace = rig.running("one").await;
    let app = app(&rig, &workspace).await;
    admin::add_user(&rig.config(), "b@example.com", Plan::Free).await.unwrap();
    let friend = Browser::signed_in(&rig, "b@example.com").await;
    let open = async |app: &str| friend.open(&format!("/open/{app}?state={STATE}")).await.status.as_u16();
    assert_eq!(open(&app).await, 403);
    assert_eq!((open("ap-aaaaaaaa").await, open("web").await), (403, 403));
    show_to(&rig, &app, json!({"visibility": "privileged", "allowed_emails": ["b@example.com"]})).await;
    assert_eq!(open(&app).await, 303);
    show_to(&rig, &app, json!({"visibility": "private"})).await;
    assert_eq!(open(&app).await, 403);
    // Only an app's host gives states of this form.
    for state in ["", "short", "https://evil.example/aaaaaaaaaaaaaaaaaaaaaa", &"s".repeat(44)] {
        let path = format!("/open/{app}?state={state}");
        assert_eq!(friend.open(&path).await.status, 400, "{state}");
    }
}
