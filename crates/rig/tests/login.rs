//! `rig login` and `rig logout`.

// clippy's exemption for tests does not reach helpers beside them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use serde_json::{Value, json};
use support::{Ended, KEY, Server, rig};

fn file(server: &Server) -> PathBuf {
    server.home.path().join(".rigbox/config.json")
}

/// Without a key, as before a log-in.
fn keyless(server: &Server, line: &[&str]) -> Ended {
    let mut command = rig(&server.home, &[&["--output", "json"], line].concat());
    Ended::of(command.env("RIG_API_URL", server.url()).output().unwrap())
}

#[test]
fn a_machine_that_was_approved_has_its_key_where_nobody_else_reads_it() {
    let server = Server::start();
    let ended = keyless(&server, &["login"]);
    assert_eq!(
        ended.event_names(),
        ["session_created", "browser_url", "polling", "polling", "approved", "saved"],
        "{ended:?}"
    );
    let events = ended.events();
    assert_eq!((&events[0]["code"], &events[1]["url"]), (&json!("BCDF-GHJK"), &json!("http://c/device")));
    assert_eq!(events[4]["user_email"], "a@example.org");
    assert_eq!(events[5]["path"], json!(file(&server)));
    assert!(!String::from_utf8_lossy(&ended.stdout).contains(KEY), "the key is shown");
    let machine = server.world.with(|world| world.said[0]["machine"].clone());
    assert!(machine.as_str().is_some_and(|name| !name.is_empty()), "{machine}");

    let saved: Value = serde_json::from_slice(&std::fs::read(file(&server)).unwrap()).unwrap();
    assert_eq!(saved, json!({"api_url": server.url(), "api_key": KEY, "user_email": "a@example.org"}));
    assert_eq!(std::fs::metadata(file(&server)).unwrap().permissions().mode() & 0o777, 0o600);
    let whoami = Ended::of(rig(&server.home, &["--output", "json", "whoami"]).output().unwrap()).events();
    assert_eq!((&whoami[0]["authed"], &whoami[0]["source"]), (&json!(true), &json!("config")));
}

#[test]
fn a_machine_that_was_denied_keeps_nothing() {
    let server = Server::start();
    server.world.with(|world| world.broken = true);
    let ended = keyless(&server, &["login"]);
    assert_eq!((ended.code, ended.event_names().pop().as_deref()), (Some(1), Some("error")));
    assert_eq!(ended.events().pop().unwrap()["code"], "denied");
    assert!(!file(&server).exists());
}

#[test]
fn after_logging_out_the_key_is_ended_and_forgotten() {
    let server = Server::start();
    assert_eq!(keyless(&server, &["login"]).code, Some(0));
    let ended = keyless(&server, &["logout"]);
    assert_eq!((ended.code, ended.event_names()), (Some(0), vec!["logout".to_owned()]));
    assert_eq!(ended.events()[0]["ended"], true);
    assert!(server.world.with(|world| world.seen.iter().any(|line| line.ends_with("/auth/sign-out"))));
    let kept: Value = serde_json::from_slice(&std::fs::read(file(&server)).unwrap()).unwrap();
    assert_eq!(kept, json!({"api_url": server.url()}));
    assert_eq!(keyless(&server, &["logout"]).events()[0]["ended"], false);
    // A key in the environment is not ours to forget.
    let ended = server.json(&["logout"]);
    assert_eq!((ended.code, &ended.events()[0]["code"]), (Some(1), &json!("key_in_environment")));
}
