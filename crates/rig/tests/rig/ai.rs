//! Credits, usage and modes of AI calls.

use serde_json::{Value, json};

use crate::support::Server;

#[test]
fn credits_and_usage_are_shown_as_the_server_tells_them() {
    let server = Server::start();
    assert_eq!(server.run(&["ai", "credits"]).text(), "$7.50 of $10.00 left, mode managed\n");
    let events = server.json(&["ai", "credits"]).events();
    assert_eq!(
        (&events[0]["event"], &events[0]["remaining_micro"]),
        (&json!("ai_credits"), &json!(7_500_000))
    );
    let text = server.run(&["ai", "usage"]).text().to_owned();
    for part in ["2026-11-27", "web", "1200", "34", "$0.000021"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let events = server.json(&["ai", "usage"]).events();
    assert_eq!(events[0]["by_workspace"][0]["workspace_id"], "ws-aaaaaaaa");
}

#[test]
fn mode_of_a_workspace_is_shown_set_and_cleared() {
    let server = Server::start().with_workspace("ws-aaaaaaaa", "web", "running");
    let mode = |arguments: &[&str]| {
        let all = [&["workspace", "ai", "mode", "web"], arguments].concat();
        server.json(&all).events()
    };
    let event = |mode: &str| [json!({"event": "mode", "workspace": "web", "mode": mode})];
    assert_eq!(mode(&[]), event("managed"));
    assert_eq!(mode(&["byok"]), event("byok"));
    assert_eq!(mode(&["default"]), event("managed"));
    let received = server.state.with(|state| state.received.clone());
    assert_eq!(received, [json!({"mode": "byok"}), json!({"mode": Value::Null})]);
    let output = server.run(&["workspace", "ai", "mode", "web", "byok"]);
    assert_eq!(output.text(), "AI mode of web: byok (set for it)\n");
}

#[test]
fn settings_are_shown_and_changed_and_the_key_comes_from_stdin() {
    let server = Server::start().with_workspace("ws-aaaaaaaa", "web", "running");
    let shown = "AI settings of web: invalid_missing_key, mode byok, provider google, model none chosen, key delivery env\n";
    assert_eq!(server.run(&["ai", "config", "web"]).text(), shown);
    let shown = "AI settings of your account: managed_active, mode managed, provider anthropic, model none chosen, key delivery env\n";
    assert_eq!(server.run(&["ai", "config"]).text(), shown);
    let all = [
        "ai",
        "config",
        "web",
        "--mode",
        "byok",
        "--provider",
        "google",
        "--model",
        "gemini-x",
        "--key",
        "--key-delivery",
        "proxy",
    ];
    let changed = "AI settings of web: byok_active, mode byok, provider google, model gemini-x, key delivery proxy\nChanged.\n";
    assert_eq!(server.run_with_input(&all, "own-key\n").text(), changed);
    server.run(&["ai", "config", "--clear-key", "--model", "default"]).text();
    let received = server.state.with(|state| state.received.clone());
    assert_eq!(
        received,
        [
            json!({"mode": "byok", "provider": "google", "model": "gemini-x", "api_key": "own-key",
                "key_delivery": "proxy"}),
            json!({"default_model": Value::Null, "default_api_key": Value::Null}),
        ]
    );
    let events = server.json(&["ai", "config", "web"]).events();
    assert_eq!((&events[0]["event"], &events[0]["provider"]), (&json!("ai_config"), &json!("google")));
}

#[test]
fn proxy_is_switched_and_its_state_is_told() {
    let server = Server::start().with_workspace("ws-aaaaaaaa", "web", "running");
    assert_eq!(server.run(&["proxy", "status", "-w", "web"]).text(), "Proxy of web: on (AI mode managed)\n");
    let off = server.run(&["proxy", "off", "-w", "web"]);
    assert_eq!(off.text(), "Proxy of web: off: no AI call and no proxied secret passes (AI mode managed)\n");
    let events = server.json(&["proxy", "on", "-w", "web"]).events();
    assert_eq!(events, [json!({"event": "proxy", "enabled": true, "mode": "managed"})]);
    let received = server.state.with(|state| state.received.clone());
    assert_eq!(received, [json!({"enabled": false}), json!({"enabled": true})]);
    // Outside, a workspace has to be named.
    assert_eq!(server.run(&["proxy", "off"]).code, Some(1));
}

#[test]
fn proxied_secret_is_read_from_stdin_and_never_shown() {
    let server = Server::start().with_workspace("ws-aaaaaaaa", "web", "running");
    let add = ["secret", "proxy", "add", "github", "--host", "api.example.org", "-w", "web"];
    let stored =
        "Stored. In a workspace, http://172.16.0.1:9090/proxy/github/ is https://api.example.org/ with it.\n";
    assert_eq!(server.run_with_input(&add, "ghp_0123456789\n").text(), stored);
    let all = [
        "secret",
        "proxy",
        "add",
        "x",
        "--host",
        "h.example.org:8443",
        "--header",
        "X-Key",
        "--format",
        "k {}",
    ];
    server.run_with_input(&all, "0123456789").text();
    let received = server.state.with(|state| state.received.clone());
    let body = |host, header, format: Value, workspace: Value, secret| json!({"host": host, "header": header, "format": format, "workspace_id": workspace, "secret": secret});
    let first = body("api.example.org", "Authorization", Value::Null, json!("ws-aaaaaaaa"), "ghp_0123456789");
    let second = body("h.example.org:8443", "X-Key", json!("k {}"), Value::Null, "0123456789");
    assert_eq!(received, [first, second]);
    let text = server.run(&["secret", "proxy", "ls"]).text().to_owned();
    for part in ["github", "api.example.org", "authorization: Bearer {}", "web", "/proxy/github/"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert_eq!(server.run(&["secret", "proxy", "rm", "github"]).text(), "Proxied secret github removed\n");
}
