//! `rig workspace env`.

use serde_json::json;

use crate::support::Server;

const WEB: &str = "ws-aaaaaaaa";

fn server(status: &'static str) -> Server {
    Server::start().with_workspace(WEB, "web", status)
}

fn value(server: &Server, name: &str) -> Option<String> {
    server.state.with(|state| state.workspaces[WEB].env.get(name).cloned())
}

#[test]
fn variables_are_set_listed_and_removed() {
    let server = server("running");
    let output = server.json(&["workspace", "env", "set", "web", "B=1=2", "A=x y"]);
    assert_eq!(
        output.events(),
        [json!({"event": "set", "workspace": "web", "keys": ["A", "B"]})],
        "{output:?}"
    );
    assert_eq!((value(&server, "A"), value(&server, "B")), (Some("x y".into()), Some("1=2".into())));
    for workspace in [&["web"][..], &["-n", "web"], &["-w", WEB]] {
        let output = server.json(&[&["workspace", "env", "ls"], workspace].concat());
        let listed = json!({"event": "workspace_env_ls", "env_vars": {"A": "***", "B": "***"}});
        assert_eq!(output.events(), [listed], "{workspace:?}");
    }
    let output = server.run(&["workspace", "env", "ls", "web"]);
    assert!(output.text().contains("A     ***"), "{output:?}");
    let output = server.json(&["ws", "env", "unset", "-n", WEB, "A", "B"]);
    assert_eq!(output.events(), [json!({"event": "unset", "workspace": "web", "keys": ["A", "B"]})]);
    assert_eq!(value(&server, "A"), None);
    let output = server.json(&["workspace", "env", "unset", "web", "A"]);
    assert_eq!((output.code, output.events()[0]["code"].as_str()), (Some(1), Some("not_found")));
}

#[test]
fn removal_is_all_or_nothing() {
    let server = server("running");
    server.run(&["workspace", "env", "set", "web", "A=1", "B=2"]);
    let output = server.json(&["workspace", "env", "unset", "web", "A", "NOPE", "B"]);
    assert_eq!(
        (output.code, output.events()[0]["code"].as_str()),
        (Some(1), Some("not_found")),
        "{output:?}"
    );
    assert!(value(&server, "A").is_some() && value(&server, "B").is_some());
    let output = server.json(&["workspace", "env", "unset", "web", "A", "B", "A"]);
    assert_eq!(output.events(), [json!({"event": "unset", "workspace": "web", "keys": ["A", "B"]})]);
}

#[test]
fn variable_that_decides_which_programs_run_is_set_with_a_warning() {
    let server = server("running");
    for (name, warned) in
        [("PATH", true), ("LD_PRELOAD", true), ("LD_LIBRARY_PATH", true), ("GREETING", false)]
    {
        let output = server.run(&["workspace", "env", "set", "web", &format!("{name}=x")]);
        assert_eq!(
            (output.code, output.stderr.contains("every command in web")),
            (Some(0), warned),
            "{output:?}"
        );
    }
}

#[test]
fn value_may_come_from_stdin() {
    let server = server("stopped");
    let output = server.json_with_input(&["workspace", "env", "set", "web", "KEY"], "line 1\nline 2\n");
    assert_eq!(output.events(), [json!({"event": "set", "workspace": "web", "keys": ["KEY"]})], "{output:?}");
    assert_eq!(value(&server, "KEY").as_deref(), Some("line 1\nline 2"));
    let output = server.json_with_input(&["workspace", "env", "set", "web", "A", "B"], "x");
    assert_eq!((output.code, output.events()[0]["code"].as_str()), (Some(1), Some("usage")));
    // Stdin is /dev/null.
    let output = server.json(&["workspace", "env", "set", "web", "A"]);
    assert_eq!((output.code, output.events()[0]["code"].as_str()), (Some(1), Some("usage")));
    let output = server.json(&["workspace", "env", "set", "web"]);
    assert_eq!((output.code, output.events()[0]["code"].as_str()), (Some(1), Some("usage")));
    assert_eq!(server.state.with(|state| state.workspaces[WEB].env.len()), 1);
}

#[test]
fn values_are_never_printed() {
    let server = server("running");
    for line in [&["workspace", "env", "set", "web", "A=canary"][..], &["workspace", "env", "ls", "web"]] {
        for output in [server.run(line), server.json(line)] {
            assert!(!output.text().contains("canary") && !output.stderr.contains("canary"), "{output:?}");
        }
    }
    let set = server.run(&["workspace", "env", "set", "web", "A=canary"]);
    assert!(set.text().contains("New processes in web will see"), "{set:?}");
    server.state.with(|state| assert!(state.requests.iter().all(|url| !url.contains("canary"))));
}
