//! `rig login` and `rig logout`.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::support::{CliOutput, KEY, Server, rig};

fn file(server: &Server) -> PathBuf {
    server.home.path().join(".rigbox/config.json")
}

/// Runs `rig` without a key, as before a login.
fn keyless(server: &Server, line: &[&str]) -> CliOutput {
    let mut command = rig(&server.home, &[&["--output", "json"], line].concat());
    CliOutput::of(command.env("RIG_API_URL", server.url()).output().unwrap())
}

#[test]
fn approved_machine_saves_its_key_privately() {
    let server = Server::start();
    let output = keyless(&server, &["login"]);
    assert_eq!(
        output.event_names(),
        ["session_created", "browser_url", "polling", "polling", "approved", "saved"],
        "{output:?}"
    );
    let events = output.events();
    assert_eq!((&events[0]["code"], &events[1]["url"]), (&json!("BCDF-GHJK"), &json!("http://c/device")));
    assert_eq!(events[4]["user_email"], "a@example.org");
    assert_eq!(events[5]["path"], json!(file(&server)));
    assert!(!String::from_utf8_lossy(&output.stdout).contains(KEY), "the key is shown");
    let machine = server.state.with(|state| state.received[0]["machine"].clone());
    assert!(machine.as_str().is_some_and(|name| !name.is_empty()), "{machine}");

    let saved: Value = serde_json::from_slice(&std::fs::read(file(&server)).unwrap()).unwrap();
    assert_eq!(saved, json!({"api_url": server.url(), "api_key": KEY, "user_email": "a@example.org"}));
    assert_eq!(std::fs::metadata(file(&server)).unwrap().permissions().mode() & 0o777, 0o600);
    let whoami = CliOutput::of(rig(&server.home, &["--output", "json", "whoami"]).output().unwrap()).events();
    assert_eq!((&whoami[0]["authed"], &whoami[0]["source"]), (&json!(true), &json!("config")));
}

#[test]
fn denied_machine_saves_nothing() {
    let server = Server::start();
    server.state.with(|state| state.starts_fail = true);
    let output = keyless(&server, &["login"]);
    assert_eq!((output.code, output.event_names().pop().as_deref()), (Some(1), Some("error")));
    assert_eq!(output.events().pop().unwrap()["code"], "denied");
    assert!(!file(&server).exists());
}

#[test]
fn logout_revokes_and_deletes_the_key() {
    let server = Server::start();
    assert_eq!(keyless(&server, &["login"]).code, Some(0));
    let output = keyless(&server, &["logout"]);
    assert_eq!((output.code, output.event_names()), (Some(0), vec!["logout".to_owned()]));
    assert_eq!(output.events()[0]["ended"], true);
    assert!(server.state.with(|state| state.requests.iter().any(|line| line.ends_with("/auth/sign-out"))));
    let kept: Value = serde_json::from_slice(&std::fs::read(file(&server)).unwrap()).unwrap();
    assert_eq!(kept, json!({"api_url": server.url()}));
    assert_eq!(keyless(&server, &["logout"]).events()[0]["ended"], false);
    // A key in the environment cannot be deleted.
    let output = server.json(&["logout"]);
    assert_eq!((output.code, &output.events()[0]["code"]), (Some(1), &json!("key_in_environment")));
}
