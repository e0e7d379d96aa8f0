//! Everything that is not a workspace: who one is, how the server is, what is wrong, and how `rig` itself fails.

// clippy's exemption for tests does not reach helpers beside them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::os::unix::fs::PermissionsExt;

use serde_json::json;
use support::{Ended, KEY, Server, rig};

#[test]
fn whoami_says_who_and_by_which_key() {
    let server = Server::start();
    for (plan, subscription) in [("owner", None), ("pro", Some("pro"))] {
        server.world.with(|world| world.plan = plan);
        let mut wanted = json!({"event": "whoami", "authed": true, "user_email": "a@example.org",
            "user_id": "us-aaaaaaaa", "source": "env"});
        if let Some(plan) = subscription {
            wanted["subscription"] = plan.into();
        }
        assert_eq!(server.json(&["whoami"]).events(), [wanted]);
    }
}

#[test]
fn nobody_is_an_answer_and_no_failure() {
    let server = Server::start();
    for (key, source) in [("rb_revoked", "env"), ("", "none")] {
        let mut command = server.command(&["--output", "json", "whoami"]);
        let ended = Ended::of(command.env("RIG_API_KEY", key).output().unwrap());
        assert_eq!(ended.code, Some(0));
        assert_eq!(ended.events(), [json!({"event": "whoami", "authed": false, "source": source})]);
    }
}

#[test]
fn the_file_says_what_the_environment_does_not() {
    let server = Server::start();
    std::fs::create_dir(server.home.path().join(".rigbox")).unwrap();
    let path = server.home.path().join(".rigbox/config.json");
    std::fs::write(&path, json!({"api_url": server.url(), "api_key": KEY, "user_email": "a@b"}).to_string())
        .unwrap();
    for (mode, warned) in [(0o600, false), (0o644, true)] {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        let ended = Ended::of(rig(&server.home, &["--output", "json", "whoami"]).output().unwrap());
        assert_eq!(ended.events()[0]["source"], "config");
        assert_eq!(ended.stderr.contains("chmod 600"), warned, "{ended:?}");
    }
}

#[test]
fn a_refused_key_is_exit_code_2_and_nothing_else_is() {
    let server = Server::start();
    for key in ["rb_revoked", ""] {
        for line in [&["workspace", "ls"][..], &["limits"], &["doctor"], &["workspace", "rm", "x", "--force"]]
        {
            let mut command = server.command(&[&["--output", "json"], line].concat());
            let ended = Ended::of(command.env("RIG_API_KEY", key).output().unwrap());
            assert_eq!(ended.code, Some(2), "{line:?}");
            let last = ended.events().pop().unwrap();
            assert_eq!((&last["event"], &last["code"]), (&json!("error"), &json!("unauthorized")));
        }
    }
}

#[test]
fn a_usage_error_is_exit_code_1() {
    let server = Server::start();
    for line in
        [&["frobnicate"][..], &["workspace", "start"], &["workspace", "spawn", "--ram-mb", "x"], &["exec"]]
    {
        let ended = server.json(line);
        assert_eq!((ended.code, ended.event_names()), (Some(1), vec!["error".to_owned()]), "{line:?}");
        let ended = server.run(line);
        assert_eq!((ended.code, ended.text()), (Some(1), ""), "{line:?}");
        assert!(!ended.stderr.is_empty());
    }
}

#[test]
fn version_and_help() {
    let server = Server::start();
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(server.run(&["--version"]).text(), format!("rig {version}\n"));
    assert_eq!(server.json(&["--version"]).events(), [json!({"event": "version", "version": version})]);
    assert_eq!(server.json(&["--help"]).event_names(), ["help"]);
}

#[test]
fn a_busy_server_is_asked_again() {
    let server = Server::start();
    server.world.with(|world| world.busy = 1);
    let began = std::time::Instant::now();
    assert_eq!(server.json(&["workspace", "ls"]).code, Some(0));
    assert!(began.elapsed().as_millis() >= 1000, "not before it wants to be");
    assert_eq!(server.world.with(|world| world.seen.len()), 2);
}

#[test]
fn a_creation_that_is_asked_again_is_still_one() {
    let server = Server::start();
    server.run(&["workspace", "new", "a"]);
    server.run(&["workspace", "new", "a"]);
    let once = server.world.with(|world| world.once.clone());
    assert!(once.len() == 2 && once[0] != once[1] && once[0].len() == 26, "{once:?}");
}

#[test]
fn the_key_is_in_no_url_and_in_no_output() {
    let server = Server::start().with_workspace("ws-aaaaaaaa", "web", "running");
    for line in [&["workspace", "ls"][..], &["exec", "web", "--", "true"], &["status"], &["whoami"]] {
        let ended = server.json(line);
        assert!(!ended.text().contains(KEY) && !ended.stderr.contains(KEY), "{ended:?}");
    }
    server.world.with(|world| assert!(world.seen.iter().all(|url| !url.contains(KEY))));
}

#[test]
fn status_says_how_the_server_is() {
    let server = Server::start().with_workspace("ws-aaaaaaaa", "web", "running");
    let ended = server.json(&["status"]);
    assert_eq!(ended.event_names(), ["status"]);
    let status = &ended.events()[0];
    assert_eq!((&status["version"], &status["api_url"]), (&json!("1.2.3"), &json!(server.url())));
    assert_eq!(status["workspaces"], json!({"total": 1, "running": 1}));
    assert_eq!(status["capacity"]["disk_free_mb"], 6);
    assert!(server.run(&["status"]).text().contains("1 (1 running)"));
}

#[test]
fn a_server_that_is_not_there_is_said_with_the_remedy() {
    let server = Server::start();
    // A port that was free a moment ago.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let run = |line: &[&str]| {
        Ended::of(server.command(line).env("RIG_API_URL", format!("http://{free}")).output().unwrap())
    };
    let ended = run(&["status"]);
    assert_eq!((ended.code, ended.text()), (Some(1), ""));
    assert!(
        ended.stderr.contains("cannot be reached") && ended.stderr.contains("cargo xtask up"),
        "{ended:?}"
    );
    let ended = run(&["--output", "json", "doctor"]);
    assert_eq!((ended.code, ended.event_names()), (Some(1), vec!["doctor".to_owned(), "error".to_owned()]));
    assert_eq!(ended.events()[0]["healthy"], false);
    assert_eq!(ended.events()[1]["code"], "unreachable");
}

#[test]
fn doctor_shows_the_findings_and_fails_when_there_is_something_to_mend() {
    let server = Server::start();
    let ended = server.json(&["doctor"]);
    assert_eq!((ended.code, ended.events()[0]["healthy"].as_bool()), (Some(0), Some(true)));
    assert_eq!(ended.events()[0]["findings"][0]["subject"], "server");
    let finding = json!({"level": "error", "subject": "kvm", "message": "no /dev/kvm", "remedy": "load kvm"});
    server.world.with(|world| world.findings = vec![finding]);
    let ended = server.run(&["doctor"]);
    assert_eq!(ended.code, Some(1));
    assert!(ended.text().contains("no /dev/kvm; load kvm"), "{ended:?}");
}

#[test]
fn limits_and_templates_are_the_servers_answers() {
    let server = Server::start();
    let limits = server.json(&["limits"]).events();
    assert_eq!((&limits[0]["event"], &limits[0]["limits"]["max_vms"]), (&json!("limits"), &json!(9)));
    let mut command = server.command(&["--output", "json", "template", "ls"]);
    let templates = Ended::of(command.env_remove("RIG_API_KEY").output().unwrap()).events();
    assert_eq!(templates[0]["templates"][0]["id"], "base");
    assert!(server.run(&["template", "ls"]).text().contains("\\u{1b}[31mDebian"), "escaped");
}

#[test]
fn completion_is_a_script() {
    let server = Server::start();
    assert!(server.run(&["completion", "bash"]).text().contains("_rig()"));
    assert_eq!(server.json(&["completion", "zsh"]).event_names(), ["completion"]);
}
