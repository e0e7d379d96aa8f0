//! `rig workspace` against a server: what is printed, in which order, and what the exit code is.

// clippy's exemption for tests does not reach helpers beside them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use serde_json::json;
use support::Server;

const WEB: &str = "ws-aaaaaaaa";

#[test]
fn spawn_tells_its_way_to_ready() {
    let server = Server::start();
    let ended = server.json(&["workspace", "spawn", "-n", "web", "--ram-mb", "100", "--disk-mb", "5000"]);
    let reason = "the template `base` needs at least 512 MB";
    assert_eq!(
        ended.events(),
        [
            json!({"event": "creating", "name": "web"}),
            json!({"event": "floor_bumped", "resource": "ram", "from_mb": 100, "to_mb": 512, "reason": reason}),
            json!({"event": "created", "id": "ws-newnewne", "status": "provisioning"}),
            json!({"event": "starting"}),
            json!({"event": "vm_status", "status": "starting"}),
            json!({"event": "vm_status", "status": "running"}),
            json!({"event": "ready", "id": "ws-newnewne", "name": "web", "ssh_user": "web-newnewne", "ssh_host": "127.0.0.1"}),
        ]
    );
    assert_eq!(ended.code, Some(0));
}

#[test]
fn spawn_makes_up_a_name_and_says_what_to_do_next() {
    let ended = Server::start().run(&["workspace", "spawn"]);
    assert_eq!(ended.code, Some(0));
    assert!(ended.text().starts_with("box-") && ended.text().contains("rig exec -it box-"), "{ended:?}");
    assert_eq!(ended.stderr, "", "no progress where there is no terminal");
}

#[test]
fn a_start_that_fails_says_why_and_what_to_do() {
    let server = Server::start();
    server.world.with(|world| world.broken = true);
    let ended = server.json(&["workspace", "spawn", "web"]);
    assert_eq!(ended.code, Some(1));
    let events = ended.events();
    assert_eq!(events[events.len() - 2], json!({"event": "vm_status", "status": "failed"}));
    let error = events.last().unwrap();
    assert_eq!((&error["event"], &error["code"]), (&json!("error"), &json!("no_image")));
    let ended = server.run(&["workspace", "start", "web"]);
    assert!(ended.stderr.contains("the image is\\u{7} missing"), "escaped: {ended:?}");
    assert!(ended.stderr.contains("rig workspace rm web"), "{ended:?}");
}

#[test]
fn new_makes_a_workspace_that_does_not_run() {
    let server = Server::start();
    let ended = server.json(&["workspace", "new", "web", "--vcpus", "2"]);
    assert_eq!(ended.event_names(), ["vm_status", "vm_status", "workspace_new"]);
    let vm = &ended.events()[2]["vm"];
    assert_eq!((&vm["status"], &vm["vcpu_count"]), (&json!("provisioned"), &json!(2)));
    assert_eq!(vm["new_field"], json!(1), "what we do not know is passed on");
}

#[test]
fn too_much_is_refused_with_the_servers_words() {
    let ended = Server::start().json(&["workspace", "new", "web", "--ram-mb", "99999"]);
    let error = json!({"event": "error", "code": "limit_exceeded", "message": "ram_mb is too much"});
    assert_eq!((ended.code, ended.events()), (Some(1), vec![error]));
}

#[test]
fn ls_lists_all_pages() {
    let mut server = Server::start();
    for (id, name) in [("ws-aaaaaaaa", "one"), ("ws-aaaaaaab", "two"), ("ws-aaaaaaac", "three")] {
        server = server.with_workspace(id, name, "running");
    }
    let ended = server.json(&["workspace", "ls"]);
    assert_eq!(ended.event_names(), ["workspace_ls"]);
    assert_eq!(ended.events()[0]["vms"].as_array().unwrap().len(), 3);
    let table = server.run(&["workspace", "ls"]);
    let lines: Vec<_> = table.text().lines().collect();
    assert!(lines[0].starts_with("NAME") && lines.len() == 4, "{lines:?}");
    assert!(lines[3].contains("three") && lines[3].contains("ws-aaaaaaac"), "{lines:?}");
}

#[test]
fn start_stop_and_restart_wait_and_take_names_and_ids() {
    let server = Server::start().with_workspace(WEB, "web", "stopped");
    for (line, last, status, events) in [
        (["workspace", "start", "web"], "workspace_start", "running", 3),
        (["workspace", "stop", WEB], "workspace_stop", "stopped", 3),
        (["workspace", "start", WEB], "workspace_start", "running", 3),
        (["workspace", "restart", "web"], "workspace_restart", "running", 5),
    ] {
        let ended = server.json(&line);
        let names = ended.event_names();
        assert_eq!((ended.code, names.len()), (Some(0), events), "{ended:?}");
        assert_eq!(names.last().unwrap(), last);
        assert_eq!(ended.events().last().unwrap()["vm"]["status"], status);
    }
}

#[test]
fn an_illegal_move_is_an_error() {
    let server = Server::start().with_workspace(WEB, "web", "stopped");
    let ended = server.json(&["workspace", "stop", "web"]);
    assert_eq!((ended.code, ended.events()[0]["code"].as_str()), (Some(1), Some("invalid_state")));
}

#[test]
fn rm_says_removed_only_once_the_workspace_is_gone() {
    for status in ["stopped", "running", "failed", "starting", "provisioning", "stopping", "deleting"] {
        let server = Server::start().with_workspace(WEB, "web", status);
        let ended = server.json(&["workspace", "rm", "-n", "web", "--force"]);
        let removed = json!({"event": "removed", "workspace": "web", "workspace_id": WEB});
        assert_eq!((ended.code, ended.events()), (Some(0), vec![removed]), "{status}");
        server.world.with(|world| {
            assert!(world.workspaces.is_empty(), "{status}");
            assert!(world.seen.last().unwrap().starts_with("GET /api/v1/workspaces/ws-aaaaaaaa"), "{status}");
        });
    }
}

#[test]
fn rm_refuses_where_nobody_can_be_asked() {
    let server = Server::start().with_workspace(WEB, "web", "stopped");
    let ended = server.run(&["workspace", "rm", "web"]);
    assert_eq!(ended.code, Some(1));
    assert!(ended.stderr.contains("--force"), "{ended:?}");
    server.world.with(|world| assert_eq!(world.workspaces.len(), 1));
}

#[test]
fn what_is_not_there_is_not_found() {
    let server = Server::start().with_workspace(WEB, "web", "running");
    for name in ["nobody", "ws-bbbbbbbb", "No Name", "../../users/me", ""] {
        let ended = server.json(&["workspace", "start", name]);
        let events = ended.events();
        assert_eq!((ended.code, events[0]["code"].as_str()), (Some(1), Some("not_found")), "{name}");
        assert!(events[0]["message"].as_str().unwrap().contains("not found"));
    }
}

#[test]
fn a_name_that_looks_like_an_id_is_found() {
    let server = Server::start().with_workspace(WEB, "ws-bbbbbbbb", "running");
    assert_eq!(server.json(&["workspace", "stop", "ws-bbbbbbbb"]).code, Some(0));
}
