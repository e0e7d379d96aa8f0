//! Users' own keys and credentials, as the AI proxy gets them, and the switch that closes it.

use reqwest::Method;
use rigbox_control::admin::ai;
use rigbox_core::ai::money::Money;
use rigbox_core::plans::Plan;
use rigbox_proto::ai::ai_client::AiClient;
use rigbox_proto::ai::ledger_request::Request;
use rigbox_proto::ai::ledger_response::Response;
use rigbox_proto::ai::{
    Denied, Ending, OpenOwnCallRequest, OpenSecretRequest, Operation, OwnKey, Provider, Reason,
    ReserveRequest, ReserveResponse, Secret, SecretReason, SettleRequest, SettleResponse, Usage,
    WatchRequest, open_own_call_response, open_secret_response, reserve_response,
};
use rigbox_proto::transport::client::Channel;
use serde_json::{Value, json};
use tonic::Code;

use crate::support::TestControl;
use crate::support::ai_ledger::ask;

const KEY: &str = "sk-ant-own-key-5d1c";
const TOKEN: &str = "ghp_ada-token-0123456789";

/// Begins a run of the proxy.
async fn proxy(rig: &TestControl) -> AiClient<Channel> {
    let mut proxy = AiClient::new(rigbox_proto::transport::unix::channel(&rig.path("ai.sock")));
    proxy
        .watch(WatchRequest { run_id: "run".to_owned() })
        .await
        .unwrap()
        .into_inner()
        .message()
        .await
        .unwrap();
    proxy
}

fn call(id: &str, workspace: &str) -> OpenOwnCallRequest {
    OpenOwnCallRequest {
        run_id: "run".to_owned(),
        call_id: id.to_owned(),
        workspace_id: workspace.to_owned(),
        provider: Provider::Anthropic.into(),
        operation: Operation::Generate.into(),
        model: "not-in-the-price-table".to_owned(),
        fetches_urls: false,
    }
}

async fn open(proxy: &mut AiClient<Channel>, request: OpenOwnCallRequest) -> Result<OwnKey, Denied> {
    match proxy.open_own_call(request).await.unwrap().into_inner().outcome.unwrap() {
        open_own_call_response::Outcome::OwnKey(key) => Ok(key),
        open_own_call_response::Outcome::Denied(denied) => Err(denied),
    }
}

async fn secret(proxy: &mut AiClient<Channel>, workspace: &str, name: &str) -> Result<Secret, SecretReason> {
    let request = OpenSecretRequest { workspace_id: workspace.to_owned(), name: name.to_owned() };
    match proxy.open_secret(request).await.unwrap().into_inner().outcome.unwrap() {
        open_secret_response::Outcome::Secret(secret) => Ok(secret),
        open_secret_response::Outcome::Denied(denied) => Err(denied.reason()),
    }
}

async fn put(rig: &TestControl, path: &str, body: Value) -> Value {
    let (status, body) = rig.call(Method::PUT, path, Some(body)).await;
    assert_eq!(status, 200, "{body}");
    body
}

#[tokio::test]
async fn own_key_goes_to_the_proxy_only_where_it_is_to_and_its_calls_cost_nothing() {
    let rig = TestControl::new().await;
    let mut proxy = proxy(&rig).await;
    let id = rig.provisioned("web").await;
    let config = format!("/workspaces/{id}/ai-config");
    let denial = async |proxy: &mut AiClient<Channel>| open(proxy, call("a", &id)).await.unwrap_err();
    assert!(denial(&mut proxy).await.text.contains("operator's keys"));
    put(&rig, &config, json!({"mode": "byok", "provider": "anthropic", "api_key": KEY})).await;
    assert!(denial(&mut proxy).await.text.contains("Set key_delivery to proxy"));
    let set = put(&rig, &config, json!({"key_delivery": "proxy"})).await;
    assert_eq!((&set["status"], &set["key_delivery"]), (&json!("byok_active"), &json!("proxy")));
    assert!(!set.to_string().contains(KEY));
    let key = open(&mut proxy, call("a", &id)).await.unwrap();
    assert_eq!((key.secret.as_str(), key.upstream.as_str()), (KEY, "anthropic"));

    let usage = Some(Usage { input: 900, output: 100, ..Usage::default() });
    let settlement = SettleRequest {
        run_id: "run".to_owned(),
        call_id: "a".to_owned(),
        usage,
        status: 200,
        ending: Ending::Completed.into(),
        ..SettleRequest::default()
    };
    let settled = ask(&mut proxy, Request::Settle(settlement)).await;
    assert_eq!(settled, Response::Settle(SettleResponse { cost_micro: 0 }));
    let used = rig.get("/users/me/ai-usage").await.1;
    let read = ["requests", "input_tokens", "credits_micro"].map(|field| &used["daily"][0][field]);
    assert_eq!(read, [&json!(1), &json!(900), &json!(0)]);

    // Of another provider there is no key, and a run that is over opens nothing.
    let other = OpenOwnCallRequest { provider: Provider::Google.into(), ..call("b", &id) };
    assert!(open(&mut proxy, other).await.unwrap_err().text.contains("no key of its own at google"));
    let stale = OpenOwnCallRequest { run_id: "before".to_owned(), ..call("b", &id) };
    assert_eq!(proxy.open_own_call(stale).await.unwrap_err().code(), Code::FailedPrecondition);
    let unknown = open(&mut proxy, call("b", "ws-zzzzzzzz")).await.unwrap_err();
    assert_eq!(unknown.reason(), Reason::NotManaged);
    put(&rig, &config, json!({"api_key": null})).await;
    assert!(denial(&mut proxy).await.text.contains("no key of its own"));
    put(&rig, &config, json!({"key_delivery": null})).await;
    assert_eq!(rig.get(&config).await.1["key_delivery"], "env");
}

#[tokio::test]
async fn switched_off_proxy_gives_no_key_no_credential_and_no_credits() {
    let rig = TestControl::new().await;
    let mut proxy = proxy(&rig).await;
    let id = rig.provisioned("web").await;
    ai::grant(&rig.config(), "a@example.com", Money::from_dollars(10), false).await.unwrap();
    put(&rig, "/users/me/proxied-secrets/github", json!({"host": "api.example.org", "secret": TOKEN})).await;
    let own = json!({"provider": "anthropic", "api_key": KEY, "key_delivery": "proxy"});
    put(&rig, &format!("/workspaces/{id}/ai-config"), own).await;
    let reservation = ReserveRequest {
        run_id: "run".to_owned(),
        call_id: "m".to_owned(),
        workspace_id: id.clone(),
        provider: Provider::Anthropic.into(),
        operation: Operation::Generate.into(),
        model: "claude-opus-4-6".to_owned(),
        input_tokens: 100,
        output_tokens: Some(100),
        candidates: 1,
        ..ReserveRequest::default()
    };
    let path = format!("/workspaces/{id}/ai-proxy");
    for (enabled, number) in [(false, 1), (true, 2), (false, 3)] {
        let switched = put(&rig, &path, json!({"enabled": enabled})).await;
        assert_eq!(switched, json!({"enabled": enabled, "mode": "managed"}));
        assert_eq!(rig.get(&path).await.1, switched);
        let request = ReserveRequest { call_id: format!("m{number}"), ..reservation.clone() };
        let reserved = ask(&mut proxy, Request::Reserve(request)).await;
        let is_granted = matches!(
            reserved,
            Response::Reserve(ReserveResponse { outcome: Some(reserve_response::Outcome::Granted(_)) })
        );
        assert_eq!(is_granted, enabled, "{reserved:?}");
        assert_eq!(secret(&mut proxy, &id, "github").await.is_ok(), enabled);
        let mode = format!("/workspaces/{id}/mode");
        put(&rig, &mode, json!({"mode": "byok"})).await;
        let opened = open(&mut proxy, call(&format!("o{number}"), &id)).await;
        assert_eq!(opened.is_ok(), enabled);
        put(&rig, &mode, json!({"mode": null})).await;
    }
    assert!(rig.get("/audit-log").await.1.to_string().contains("workspace.ai_proxy"));
}

#[tokio::test]
async fn credential_is_its_users_and_goes_where_the_workspaces_policy_lets_it() {
    let rig = TestControl::new().await;
    let mut proxy = proxy(&rig).await;
    let (web, other) = (rig.provisioned("web").await, rig.provisioned("other").await);
    let path = "/users/me/proxied-secrets/github";
    let stored = put(&rig, path, json!({"host": "API.example.org", "secret": TOKEN})).await;
    assert!(!stored.to_string().contains(TOKEN), "{stored}");
    let fields = ["name", "host", "header", "format", "url"].map(|field| stored[field].as_str().unwrap());
    let expected =
        ["github", "api.example.org", "authorization", "Bearer {}", "http://172.16.0.1:9090/proxy/github/"];
    assert_eq!(fields, expected);
    let listed = rig.get("/users/me/proxied-secrets").await.1;
    assert_eq!(listed, json!({"proxied_secrets": [stored]}));
    let opened = secret(&mut proxy, &web, "github").await.unwrap();
    let read = (opened.host.as_str(), opened.port, opened.header.as_str(), opened.format.as_str());
    assert_eq!(read, ("api.example.org", 443, "authorization", "Bearer {}"));
    assert_eq!(opened.value, TOKEN);
    for (workspace, name) in
        [("ws-zzzzzzzz", "github"), (&web, "gitlab"), (&web, "GITHUB"), (&web, "../github")]
    {
        assert_eq!(secret(&mut proxy, workspace, name).await.unwrap_err(), SecretReason::NoSecret, "{name}");
    }

    // The policy of the workspace holds for the proxy too.
    let network = format!("/workspaces/{web}/network");
    for (egress, is_allowed) in [
        (json!({"mode": "none"}), false),
        (json!({"mode": "list", "domains": ["example.org"], "cidrs": []}), false),
        (json!({"mode": "list", "domains": ["*.example.org"], "cidrs": []}), true),
        (json!({"mode": "list", "domains": ["api.example.org:8443"], "cidrs": []}), false),
        (json!({"mode": "internet"}), true),
    ] {
        let (status, body) = rig.call(Method::PATCH, &network, Some(json!({"egress": egress}))).await;
        assert_eq!(status, 200, "{body}");
        let opened = secret(&mut proxy, &web, "github").await;
        assert_eq!(
            opened.map(drop),
            if is_allowed { Ok(()) } else { Err(SecretReason::NotAllowed) },
            "{egress}"
        );
    }

    // For one workspace, in place of the one before.
    let one =
        json!({"host": "api.example.org:8443", "header": "X-Api-Key", "workspace_id": web, "secret": TOKEN});
    let stored = put(&rig, path, one).await;
    assert_eq!((&stored["workspace_id"], &stored["format"]), (&json!(web), &json!("{}")));
    assert_eq!(secret(&mut proxy, &web, "github").await.unwrap().port, 8443);
    assert_eq!(secret(&mut proxy, &other, "github").await.unwrap_err(), SecretReason::NoSecret);

    let (status, _) = rig.call(Method::DELETE, path, None).await;
    assert_eq!(status, 200);
    assert_eq!(secret(&mut proxy, &web, "github").await.unwrap_err(), SecretReason::NoSecret);
    assert_eq!(rig.call(Method::DELETE, path, None).await.0, 404);
    let log = rig.get("/audit-log").await.1.to_string();
    assert!(log.contains("proxy/github api.example.org") && !log.contains(TOKEN), "{log}");
}

#[tokio::test]
async fn what_is_another_users_does_not_exist() {
    let mut rig = TestControl::new().await;
    let mut proxy = proxy(&rig).await;
    let mine = rig.provisioned("mine").await;
    put(&rig, "/users/me/proxied-secrets/github", json!({"host": "api.example.org", "secret": TOKEN})).await;
    let own = json!({"default_mode": "byok", "default_provider": "anthropic", "default_api_key": KEY,
        "default_key_delivery": "proxy"});
    put(&rig, "/users/me/ai-defaults", own).await;

    rig.key = rig.new_user("b@example.com", Plan::Free).await;
    let theirs = rig.provisioned("theirs").await;
    assert_eq!(rig.get("/users/me/proxied-secrets").await.1, json!({"proxied_secrets": []}));
    assert_eq!(rig.get("/users/me/ai-defaults").await.1["default_status"], "managed_active");
    for (method, path) in [
        (Method::DELETE, "/users/me/proxied-secrets/github".to_owned()),
        (Method::GET, format!("/workspaces/{mine}/ai-config")),
        (Method::GET, format!("/workspaces/{mine}/ai-proxy")),
    ] {
        assert_eq!(rig.call(method, &path, None).await.0, 404, "{path}");
    }
    let theft = json!({"host": "api.example.org", "secret": TOKEN, "workspace_id": mine});
    assert_eq!(rig.call(Method::PUT, "/users/me/proxied-secrets/x", Some(theft)).await.0, 404);
    let switch = json!({"enabled": false});
    assert_eq!(rig.call(Method::PUT, &format!("/workspaces/{mine}/ai-proxy"), Some(switch)).await.0, 404);
    assert_eq!(secret(&mut proxy, &theirs, "github").await.unwrap_err(), SecretReason::NoSecret);
    put(&rig, &format!("/workspaces/{theirs}/ai-config"), json!({"mode": "byok", "key_delivery": "proxy"}))
        .await;
    assert!(open(&mut proxy, call("t", &theirs)).await.unwrap_err().text.contains("no key of its own"));
    assert_eq!(open(&mut proxy, call("m", &mine)).await.unwrap().secret, KEY);
}

#[tokio::test]
async fn key_for_one_workspace_does_not_bring_the_accounts_key_into_it() {
    let mut rig = TestControl::new().await;
    let id = rig.provisioned("web").await;
    let own = json!({"default_mode": "byok", "default_provider": "anthropic", "default_api_key": KEY,
        "default_key_delivery": "proxy"});
    put(&rig, "/users/me/ai-defaults", own).await;
    let limited = json!({"name": "ci", "role": "operate", "workspaces": [id]});
    let (status, body) = rig.call(Method::POST, "/api-keys", Some(limited)).await;
    assert_eq!(status, 201, "{body}");
    let whole = std::mem::replace(&mut rig.key, body["key"].as_str().unwrap().to_owned());
    let config = format!("/workspaces/{id}/ai-config");
    for delivery in [json!("env"), Value::Null] {
        let (status, body) = rig.call(Method::PUT, &config, Some(json!({"key_delivery": delivery}))).await;
        assert_eq!(status, 403, "{body}");
    }
    put(&rig, &config, json!({"key_delivery": "proxy", "model": "claude-x"})).await;
    rig.key = whole;
    assert_eq!(put(&rig, &config, json!({"key_delivery": "env"})).await["key_delivery"], "env");
}

#[tokio::test]
async fn invalid_credentials_are_refused_and_change_nothing() {
    let rig = TestControl::new().await;
    let path = "/users/me/proxied-secrets/github";
    for (path, body, status, part) in [
        (path, json!({"host": "10.0.0.1", "secret": TOKEN}), 400, "host"),
        (path, json!({"host": "localhost", "secret": TOKEN}), 400, "host"),
        (path, json!({"host": "*.example.org", "secret": TOKEN}), 400, "host"),
        (path, json!({"host": "api.example.org", "header": "Host", "secret": TOKEN}), 400, "header"),
        (path, json!({"host": "api.example.org", "format": "Bearer", "secret": TOKEN}), 400, "format"),
        (path, json!({"host": "api.example.org", "secret": "short"}), 400, "8 to 4096"),
        (path, json!({"host": "api.example.org", "secret": TOKEN, "workspace_id": "web"}), 404, "Use its id"),
        (
            path,
            json!({"host": "api.example.org", "secret": TOKEN, "workspace_id": "ws-zzzzzzzz"}),
            404,
            "ws-zzzzzzzz",
        ),
        (path, json!({"host": "api.example.org", "secret": TOKEN, "hosts": 1}), 400, "hosts"),
        ("/users/me/proxied-secrets/Git", json!({"host": "api.example.org", "secret": TOKEN}), 400, "name"),
    ] {
        let (answered, response) = rig.call(Method::PUT, path, Some(body.clone())).await;
        assert_eq!(answered, status, "{body}: {response}");
        let text = response.to_string();
        assert!(text.contains(part) && !text.contains(TOKEN), "{body}: {text}");
    }
    assert_eq!(rig.get("/users/me/proxied-secrets").await.1, json!({"proxied_secrets": []}));
    for number in 0..64 {
        let path = format!("/users/me/proxied-secrets/s{number}");
        put(&rig, &path, json!({"host": "api.example.org", "secret": TOKEN})).await;
    }
    let (status, response) =
        rig.call(Method::PUT, path, Some(json!({"host": "api.example.org", "secret": TOKEN}))).await;
    assert!(status == 402 && response.to_string().contains("64 of 64"), "{response}");
    // One in the place of another is no more of them.
    put(&rig, "/users/me/proxied-secrets/s0", json!({"host": "api.example.org", "secret": TOKEN})).await;
}
