//! `rig workspace`: output, order of events, and exit codes.

use std::process::Stdio;
use std::time::Duration;

use rigbox_testkit::blocking::eventually;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::support::{CliOutput, Server};

const WEB: &str = "ws-aaaaaaaa";

#[test]
fn spawn_reports_each_step_until_ready() {
    let server = Server::start();
    let output = server.json(&["workspace", "spawn", "-n", "web", "--ram-mb", "100", "--disk-mb", "5000"]);
    let reason = "the template `base` needs at least 512 MiB";
    assert_eq!(
        output.events(),
        [
            json!({"event": "creating", "name": "web"}),
            json!({"event": "floor_bumped", "resource": "ram", "from_mb": 100, "to_mb": 512, "reason": reason}),
            json!({"event": "created", "id": "ws-newnewne", "status": "provisioning"}),
            json!({"event": "starting"}),
            json!({"event": "vm_status", "status": "starting"}),
            json!({"event": "vm_status", "status": "running", "system": "starting"}),
            json!({"event": "ready", "id": "ws-newnewne", "name": "web", "ssh_user": "web-newnewne", "ssh_host": "127.0.0.1"}),
        ]
    );
    assert_eq!(output.code, Some(0));
}

#[test]
fn spawn_generates_a_name_and_prints_the_next_command() {
    let output = Server::start().run(&["workspace", "spawn"]);
    assert_eq!(output.code, Some(0));
    assert!(output.text().starts_with("box-") && output.text().contains("rig exec -it box-"), "{output:?}");
    assert_eq!(output.stderr, "", "no progress without a terminal");
}

#[test]
fn interrupted_spawn_says_that_the_workspace_goes_on_starting() {
    let server = Server::start();
    server.state.with(|state| state.starts_hang = true);
    let mut command = server.command(&["workspace", "spawn", "web"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    eventually("it waits for the start", Duration::from_secs(10), || {
        let is_waiting = |url: &String| url.contains("wait_until_not=starting");
        Ok(server.state.with(|state| state.requests.iter().any(is_waiting)).then_some(()))
    })
    .unwrap();
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let output = CliOutput::of(child.wait_with_output().unwrap());
    assert_eq!(output.code, Some(130), "{output:?}");
    assert!(output.stderr.contains("web goes on starting in the background"), "{output:?}");
}

#[test]
fn failed_start_is_reported_with_reason_and_remedy() {
    let server = Server::start();
    server.state.with(|state| state.starts_fail = true);
    let output = server.json(&["workspace", "spawn", "web"]);
    assert_eq!(output.code, Some(1));
    let events = output.events();
    assert_eq!(events[events.len() - 2], json!({"event": "vm_status", "status": "failed"}));
    let error = events.last().unwrap();
    assert_eq!((&error["event"], &error["code"]), (&json!("error"), &json!("no_image")));
    let output = server.run(&["workspace", "start", "web"]);
    assert!(output.stderr.contains("the image is\\u{7} missing"), "escaped: {output:?}");
    assert!(output.stderr.contains("rig workspace rm web"), "{output:?}");
}

#[test]
fn new_creates_a_workspace_without_starting_it() {
    let server = Server::start();
    let output = server.json(&["workspace", "new", "web", "--vcpus", "2"]);
    assert_eq!(output.event_names(), ["vm_status", "vm_status", "workspace_new"]);
    let vm = &output.events()[2]["vm"];
    assert_eq!((&vm["status"], &vm["vcpu_count"]), (&json!("provisioned"), &json!(2)));
    assert_eq!(vm["new_field"], json!(1), "unknown fields are passed on");
}

#[test]
fn exceeded_limit_is_reported_with_the_servers_message() {
    let output = Server::start().json(&["workspace", "new", "web", "--ram-mb", "99999"]);
    let error = json!({"event": "error", "code": "limit_exceeded", "message": "ram_mb is too much"});
    assert_eq!((output.code, output.events()), (Some(1), vec![error]));
}

#[test]
fn ls_lists_all_pages() {
    let mut server = Server::start();
    for (id, name) in [("ws-aaaaaaaa", "one"), ("ws-aaaaaaab", "two"), ("ws-aaaaaaac", "three")] {
        server = server.with_workspace(id, name, "running");
    }
    let output = server.json(&["workspace", "ls"]);
    assert_eq!(output.event_names(), ["workspace_ls"]);
    assert_eq!(output.events()[0]["vms"].as_array().unwrap().len(), 3);
    let table = server.run(&["workspace", "ls"]);
    let lines: Vec<_> = table.text().lines().collect();
    assert!(lines[0].starts_with("NAME") && lines.len() == 4, "{lines:?}");
    assert!(lines[3].contains("three") && lines[3].contains("ws-aaaaaaac"), "{lines:?}");
}

#[test]
fn start_stop_and_restart_wait_and_accept_names_and_ids() {
    let server = Server::start().with_workspace(WEB, "web", "stopped");
    for (line, last, status, events) in [
        (["workspace", "start", "web"], "workspace_start", "running", 3),
        (["workspace", "stop", WEB], "workspace_stop", "stopped", 3),
        (["workspace", "start", WEB], "workspace_start", "running", 3),
        (["workspace", "restart", "web"], "workspace_restart", "running", 5),
    ] {
        let output = server.json(&line);
        let names = output.event_names();
        assert_eq!((output.code, names.len()), (Some(0), events), "{output:?}");
        assert_eq!(names.last().unwrap(), last);
        assert_eq!(output.events().last().unwrap()["vm"]["status"], status);
    }
}

#[test]
fn invalid_transition_is_an_error() {
    let server = Server::start().with_workspace(WEB, "web", "failed");
    let output = server.json(&["workspace", "stop", "web"]);
    assert_eq!((output.code, output.events()[0]["code"].as_str()), (Some(1), Some("invalid_state")));
}

#[test]
fn what_is_so_already_is_a_success() {
    for (operation, status) in [("stop", "stopped"), ("start", "running")] {
        let server = Server::start().with_workspace(WEB, "web", status);
        let output = server.json(&["workspace", operation, "web"]);
        assert_eq!(output.code, Some(0), "{output:?}");
        assert_eq!(output.events().last().unwrap()["vm"]["status"], status);
    }
}

#[test]
fn several_workspaces_have_their_turn_whatever_becomes_of_one() {
    let server =
        Server::start().with_workspace(WEB, "web", "running").with_workspace("ws-aaaaaaab", "two", "running");
    let output = server.json(&["workspace", "stop", "web", "nobody", "two"]);
    assert_eq!((output.code, output.events().last().unwrap()["code"].as_str()), (Some(1), Some("not_found")));
    server
        .state
        .with(|state| assert!(state.workspaces.values().all(|workspace| workspace.status == "stopped")));
}

#[test]
fn system_is_waited_for_on_request() {
    let server = Server::start().with_workspace(WEB, "web", "stopped");
    let output = server.json(&["workspace", "start", "web", "--wait", "system"]);
    assert_eq!(output.code, Some(0), "{output:?}");
    let events = output.events();
    let states: Vec<_> = events.iter().filter(|event| event["event"] == "vm_status").collect();
    assert_eq!(states.last().unwrap()["system"], "running", "{events:?}");
    server.state.with(|state| {
        assert!(state.requests.iter().any(|request| request.contains("wait_until_system_not=starting")));
    });
}

#[test]
fn rm_succeeds_only_after_the_workspace_is_deleted() {
    for status in ["stopped", "running", "failed", "starting", "provisioning", "stopping", "deleting"] {
        let server = Server::start().with_workspace(WEB, "web", status);
        let output = server.json(&["workspace", "rm", "-n", "web", "--force"]);
        let removed = json!({"event": "removed", "workspace": "web", "workspace_id": WEB});
        assert_eq!((output.code, output.events()), (Some(0), vec![removed]), "{status}");
        server.state.with(|state| {
            assert!(state.workspaces.is_empty(), "{status}");
            assert!(
                state.requests.last().unwrap().starts_with("GET /api/v1/workspaces/ws-aaaaaaaa"),
                "{status}"
            );
        });
    }
}

#[test]
fn rm_without_a_terminal_requires_force() {
    let server = Server::start().with_workspace(WEB, "web", "stopped");
    let output = server.run(&["workspace", "rm", "web"]);
    assert_eq!(output.code, Some(1));
    assert!(output.stderr.contains("--force"), "{output:?}");
    server.state.with(|state| assert_eq!(state.workspaces.len(), 1));
}

#[test]
fn unknown_workspace_is_not_found() {
    let server = Server::start().with_workspace(WEB, "web", "running");
    for name in ["nobody", "ws-bbbbbbbb", "No Name", "../../users/me", ""] {
        let output = server.json(&["workspace", "start", name]);
        let events = output.events();
        assert_eq!((output.code, events[0]["code"].as_str()), (Some(1), Some("not_found")), "{name}");
        assert!(events[0]["message"].as_str().unwrap().contains("not found"));
    }
}

#[test]
fn name_shaped_like_an_id_is_found() {
    let server = Server::start().with_workspace(WEB, "ws-bbbbbbbb", "running");
    assert_eq!(server.json(&["workspace", "stop", "ws-bbbbbbbb"]).code, Some(0));
}
