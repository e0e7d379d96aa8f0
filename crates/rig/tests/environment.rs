//! `rig workspace env`.

// clippy's exemption for tests does not reach helpers beside them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::io::Write;
use std::process::Stdio;

use serde_json::json;
use support::{Ended, Server};

const WEB: &str = "ws-aaaaaaaa";

fn server(status: &'static str) -> Server {
    Server::start().with_workspace(WEB, "web", status)
}

fn value(server: &Server, name: &str) -> Option<String> {
    server.world.with(|world| world.workspaces[WEB].env.get(name).cloned())
}

fn piped(server: &Server, line: &[&str], input: &str) -> Ended {
    let mut child = server
        .command(&[&["--output", "json"], line].concat())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // One that refuses does not read it.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    Ended::of(child.wait_with_output().unwrap())
}

#[test]
fn variables_are_set_listed_and_removed() {
    let server = server("running");
    let ended = server.json(&["workspace", "env", "set", "web", "B=1=2", "A=x y"]);
    assert_eq!(
        ended.events(),
        [json!({"event": "set", "workspace": "web", "keys": ["A", "B"]})],
        "{ended:?}"
    );
    assert_eq!((value(&server, "A"), value(&server, "B")), (Some("x y".into()), Some("1=2".into())));
    for which in [&["web"][..], &["-n", "web"], &["-w", WEB]] {
        let ended = server.json(&[&["workspace", "env", "ls"], which].concat());
        let listed = json!({"event": "workspace_env_ls", "env_vars": {"A": "***", "B": "***"}});
        assert_eq!(ended.events(), [listed], "{which:?}");
    }
    let ended = server.run(&["workspace", "env", "ls", "web"]);
    assert!(ended.text().contains("A     ***"), "{ended:?}");
    let ended = server.json(&["ws", "env", "unset", "-n", WEB, "A", "B"]);
    assert_eq!(ended.events(), [json!({"event": "unset", "workspace": "web", "keys": ["A", "B"]})]);
    assert_eq!(value(&server, "A"), None);
    let ended = server.json(&["workspace", "env", "unset", "web", "A"]);
    assert_eq!((ended.code, ended.events()[0]["code"].as_str()), (Some(1), Some("not_found")));
}

#[test]
fn a_value_need_not_stand_on_the_command_line() {
    let server = server("stopped");
    let ended = piped(&server, &["workspace", "env", "set", "web", "KEY"], "line 1\nline 2\n");
    assert_eq!(ended.events(), [json!({"event": "set", "workspace": "web", "keys": ["KEY"]})], "{ended:?}");
    assert_eq!(value(&server, "KEY").as_deref(), Some("line 1\nline 2"));
    let ended = piped(&server, &["workspace", "env", "set", "web", "A", "B"], "x");
    assert_eq!((ended.code, ended.events()[0]["code"].as_str()), (Some(1), Some("usage")));
    // Nobody types and nothing is piped in.
    let ended = server.json(&["workspace", "env", "set", "web", "A"]);
    assert_eq!((ended.code, ended.events()[0]["code"].as_str()), (Some(1), Some("usage")));
    let ended = server.json(&["workspace", "env", "set", "web"]);
    assert_eq!((ended.code, ended.events()[0]["code"].as_str()), (Some(1), Some("usage")));
    assert_eq!(server.world.with(|world| world.workspaces[WEB].env.len()), 1);
}

#[test]
fn no_value_is_said_again() {
    let server = server("running");
    for line in [&["workspace", "env", "set", "web", "A=canary"][..], &["workspace", "env", "ls", "web"]] {
        for ended in [server.run(line), server.json(line)] {
            assert!(!ended.text().contains("canary") && !ended.stderr.contains("canary"), "{ended:?}");
        }
    }
    let said = server.run(&["workspace", "env", "set", "web", "A=canary"]);
    assert!(said.text().contains("from now on"), "{said:?}");
    server.world.with(|world| assert!(world.seen.iter().all(|url| !url.contains("canary"))));
}
