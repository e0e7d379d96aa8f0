//! Users' settings of AI calls, and what of them arrives in a workspace.

use std::collections::BTreeMap;

use reqwest::Method;
use rigbox_proto::guest::DeliverSecretsRequest;
use serde_json::{Value, json};

use crate::support::TestControl;

const KEY: &str = "sk-ant-own-key-5d1c";

fn last_delivery(rig: &TestControl, id: &str) -> DeliverSecretsRequest {
    rig.guests.delivered.lock().unwrap()[id].last().unwrap().clone()
}

/// Returns the variables for AI calls that the workspace has.
fn variables(rig: &TestControl, id: &str) -> BTreeMap<String, String> {
    let is_ai =
        |name: &String| ["ANTHROPIC", "OPENAI", "GOOGLE", "GEMINI"].iter().any(|at| name.starts_with(at));
    last_delivery(rig, id).env.into_iter().filter(|(name, _)| is_ai(name)).collect()
}

fn map(of: &[(&str, &str)]) -> BTreeMap<String, String> {
    of.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn managed() -> BTreeMap<String, String> {
    map(&[("ANTHROPIC_API_KEY", "managed-by-rigbox"), ("ANTHROPIC_BASE_URL", "http://172.16.0.1:9090")])
}

/// Changes settings. Returns the response.
async fn set(rig: &TestControl, path: &str, body: Value) -> Value {
    let (status, body) = rig.call(Method::PUT, path, Some(body)).await;
    assert_eq!(status, 200, "{body}");
    body
}

#[tokio::test]
async fn workspace_finds_the_bridge_in_managed_mode_and_its_owners_key_in_the_other() {
    let rig = TestControl::new().await;
    let id = rig.running("one").await;
    let path = format!("/workspaces/{id}/ai-config");
    assert_eq!(variables(&rig, &id), managed());

    let body = set(&rig, &path, json!({"mode": "byok", "provider": "anthropic"})).await;
    assert_eq!(body["status"], "invalid_missing_key");
    assert_eq!(variables(&rig, &id), map(&[]));

    let body = set(&rig, &path, json!({"api_key": KEY, "model": "claude-x"})).await;
    assert_eq!((&body["status"], &body["live"]), (&json!("byok_active"), &json!(true)));
    assert_eq!(variables(&rig, &id), map(&[("ANTHROPIC_API_KEY", KEY), ("ANTHROPIC_MODEL", "claude-x")]));
    let read = rig.get(&path).await.1;
    assert_eq!(
        (&read["mode"], &read["provider"], &read["model"], &read["status"]),
        (&json!("byok"), &json!("anthropic"), &json!("claude-x"), &json!("byok_active"))
    );
    assert!(!read.to_string().contains(KEY));

    let body = set(&rig, &path, json!({"api_key": null})).await;
    assert_eq!((&body["status"], &body["live"]), (&json!("invalid_missing_key"), &json!(true)));
    assert!(body["message"].as_str().unwrap().contains("What runs in the workspace keeps"), "{body}");
    assert_eq!(variables(&rig, &id), map(&[]));

    set(&rig, &path, json!({"api_key": KEY})).await;
    set(&rig, &path, json!({"mode": null, "provider": null, "api_key": null})).await;
    assert_eq!(variables(&rig, &id), managed());
    let body = set(&rig, &path, json!({"mode": "byok"})).await;
    assert_eq!(body["status"], "invalid_missing_key");
    set(&rig, &path, json!({"mode": null})).await;
    let log = rig.get("/audit-log").await.1.to_string();
    assert!(log.contains("key of anthropic") && !log.contains(KEY), "{log}");
}

#[tokio::test]
async fn accounts_settings_hold_in_workspaces_without_their_own() {
    let rig = TestControl::new().await;
    let (one, two) = (rig.running("one").await, rig.running("two").await);
    set(&rig, &format!("/workspaces/{two}/mode"), json!({"mode": "managed"})).await;
    let change = json!({"default_mode": "byok", "default_provider": "openai", "default_model": "gpt-x",
        "default_api_key": KEY});
    let defaults = set(&rig, "/users/me/ai-defaults", change).await;
    let mut defaults = defaults;
    let message = defaults.as_object_mut().unwrap().remove("message").unwrap();
    assert!(message.as_str().unwrap().contains("keeps what it had"), "{message}");
    let expected = json!({"default_mode": "byok", "default_provider": "openai", "default_model": "gpt-x",
        "default_status": "byok_active", "default_key_delivery": "env"});
    assert_eq!((&defaults, &rig.get("/users/me/ai-defaults").await.1), (&expected, &expected));
    let own = map(&[("OPENAI_API_KEY", KEY), ("OPENAI_MODEL", "gpt-x")]);
    crate::support::eventually("both have it", || async {
        variables(&rig, &one) == own && variables(&rig, &two) == managed()
    })
    .await;
    // A provider of the workspace's own has no key yet, and the account's model is not its.
    let path = format!("/workspaces/{one}/ai-config");
    let body = set(&rig, &path, json!({"provider": "google"})).await;
    assert_eq!((&body["status"], &body["model"]), (&json!("invalid_missing_key"), &json!("")));
    let body = set(&rig, &path, json!({"api_key": "AIza-own"})).await;
    assert_eq!(body["status"], "byok_active");
    let google = map(&[("GEMINI_API_KEY", "AIza-own"), ("GOOGLE_API_KEY", "AIza-own")]);
    assert_eq!(variables(&rig, &one), google);
    set(&rig, &path, json!({"provider": null})).await;
    assert_eq!(variables(&rig, &one), own);
}

#[tokio::test]
async fn own_key_that_stays_outside_leaves_a_placeholder_and_an_address_of_its_own() {
    let rig = TestControl::new().await;
    let id = rig.running("one").await;
    let path = format!("/workspaces/{id}/ai-config");
    let own = json!({"mode": "byok", "provider": "openai", "api_key": KEY, "model": "gpt-x", "key_delivery": "proxy"});
    set(&rig, &path, own).await;
    let proxied = map(&[
        ("OPENAI_API_KEY", "managed-by-rigbox"),
        ("OPENAI_BASE_URL", "http://172.16.0.1:9090/own/v1"),
        ("OPENAI_MODEL", "gpt-x"),
    ]);
    assert_eq!(variables(&rig, &id), proxied);
    let delivery = last_delivery(&rig, &id);
    assert!(delivery.codex_config.contains("base_url = \"http://172.16.0.1:9090/own/v1\""));
    let everything = rig.guests.delivered.lock().unwrap()[&id]
        .iter()
        .any(|one| one.env.values().any(|value| value.contains(KEY)) || one.codex_config.contains(KEY));
    assert!(!everything, "the key never enters the workspace");
    set(&rig, &path, json!({"key_delivery": "env"})).await;
    assert_eq!(variables(&rig, &id), map(&[("OPENAI_API_KEY", KEY), ("OPENAI_MODEL", "gpt-x")]));
    // Codex reads the key only where its configuration says so.
    assert!(last_delivery(&rig, &id).codex_config.contains("https://api.openai.com/v1"));
    set(&rig, &path, json!({"key_delivery": "proxy"})).await;
    set(&rig, &format!("/workspaces/{id}/ai-proxy"), json!({"enabled": false})).await;
    assert_eq!(variables(&rig, &id), map(&[]));
    assert_eq!(last_delivery(&rig, &id).codex_config, "");
    set(&rig, &path, json!({"mode": null})).await;
    assert_eq!(variables(&rig, &id), map(&[]));
    set(&rig, &format!("/workspaces/{id}/ai-proxy"), json!({"enabled": true})).await;
    assert_eq!(variables(&rig, &id), managed());
}

#[tokio::test]
async fn variable_of_the_workspace_comes_before_the_platforms() {
    let rig = TestControl::new().await;
    let id = rig.running("one").await;
    let own = json!({"env_vars": {"ANTHROPIC_API_KEY": "mine"}});
    assert_eq!(rig.call(Method::POST, &format!("/workspaces/{id}/env"), Some(own)).await.0, 200);
    assert_eq!(variables(&rig, &id)["ANTHROPIC_API_KEY"], "mine");
}

#[tokio::test]
async fn invalid_settings_are_refused_and_change_nothing() {
    let rig = TestControl::new().await;
    let id = rig.running("one").await;
    let path = format!("/workspaces/{id}/ai-config");
    for (body, part) in [
        (json!({"mode": "free"}), "Use managed or byok"),
        (json!({"provider": "openrouter"}), "Use google, openai or anthropic"),
        (json!({"api_key": ""}), "visible ASCII"),
        (json!({"api_key": "a b"}), "visible ASCII"),
        (json!({"api_key": "k".repeat(513)}), "1 to 512"),
        (json!({"api_key": KEY, "provider": null}), "comes with its provider"),
        (json!({"model": "a\nb"}), "model"),
        (json!({"apikey": KEY}), "apikey"),
        (json!({"key_delivery": "disk"}), "Use env or proxy"),
    ] {
        let (status, response) = rig.call(Method::PUT, &path, Some(body.clone())).await;
        assert_eq!(status, 400, "{body}");
        let text = response.to_string();
        assert!(text.contains(part) && !text.contains(KEY), "{body}: {text}");
    }
    assert_eq!(rig.get(&path).await.1["status"], "managed_active");
    assert_eq!(variables(&rig, &id), managed());
}

#[tokio::test]
async fn workspace_of_another_user_is_not_found() {
    let rig = TestControl::new().await;
    for method in [Method::GET, Method::PUT] {
        let body = (method == Method::PUT).then(|| json!({"api_key": KEY}));
        let (status, _) = rig.call(method, "/workspaces/ws-aaaaaaaa/ai-config", body).await;
        assert_eq!(status, 404);
    }
}
