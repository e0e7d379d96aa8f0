//! Account, status, doctor, and failures of `rig` itself.

use std::os::unix::fs::PermissionsExt;

use serde_json::json;

use crate::support::{CliOutput, KEY, Server, rig};

#[test]
fn whoami_shows_the_account_and_the_source_of_the_key() {
    let server = Server::start();
    for (plan, subscription) in [("owner", None), ("pro", Some("pro"))] {
        server.state.with(|state| state.plan = plan);
        let mut wanted = json!({"event": "whoami", "authed": true, "user_email": "a@example.org",
            "user_id": "us-aaaaaaaa", "source": "env"});
        if let Some(plan) = subscription {
            wanted["subscription"] = plan.into();
        }
        assert_eq!(server.json(&["whoami"]).events(), [wanted]);
    }
}

#[test]
fn whoami_shows_the_scope_of_a_limited_key() {
    let server = Server::start().with_workspace("ws-aaaaaaaa", "web", "running");
    let key = json!({"id": "key-aaaaaaaa", "name": "ci", "role": "read",
        "workspaces": ["ws-aaaaaaaa", "ws-bbbbbbbb"]});
    server.state.with(|state| state.api_key = Some(key.clone()));
    assert_eq!(server.json(&["whoami"]).events()[0]["api_key"], key);
    let output = server.run(&["whoami"]);
    assert!(output.text().ends_with("\nkey ci: read on web, ws-bbbbbbbb\n"), "{output:?}");
    server.state.with(|state| state.api_key = Some(json!({"id": "key-aaaaaaaa", "name": "laptop"})));
    assert_eq!(server.run(&["whoami"]).text().lines().count(), 1);
}

#[test]
fn api_keys_are_listed_with_the_names_of_their_workspaces() {
    let server = Server::start().with_workspace("ws-aaaaaaaa", "web", "running");
    let output = server.run(&["api-key", "ls"]);
    assert!(
        output.text().contains("read on web, ws-bbbbbbbb") && output.text().contains("account"),
        "{output:?}"
    );
    let listed = server.json(&["api-key", "ls"]).events();
    assert_eq!(listed[0]["api_keys"][0]["workspaces"], json!(["ws-aaaaaaaa", "ws-bbbbbbbb"]));
}

#[test]
fn whoami_without_a_valid_key_succeeds() {
    let server = Server::start();
    for (key, source) in [("rb_revoked", "env"), ("", "none")] {
        let mut command = server.command(&["--output", "json", "whoami"]);
        let output = CliOutput::of(command.env("RIG_API_KEY", key).output().unwrap());
        assert_eq!(output.code, Some(0));
        assert_eq!(output.events(), [json!({"event": "whoami", "authed": false, "source": source})]);
    }
}

#[test]
fn key_is_read_from_the_file_without_one_in_the_environment() {
    let server = Server::start();
    std::fs::create_dir(server.home.path().join(".rigbox")).unwrap();
    let path = server.home.path().join(".rigbox/config.json");
    std::fs::write(&path, json!({"api_url": server.url(), "api_key": KEY, "user_email": "a@b"}).to_string())
        .unwrap();
    for (mode, warned) in [(0o600, false), (0o644, true)] {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        let output = CliOutput::of(rig(&server.home, &["--output", "json", "whoami"]).output().unwrap());
        assert_eq!(output.events()[0]["source"], "config");
        assert_eq!(output.stderr.contains("chmod 600"), warned, "{output:?}");
    }
}

#[test]
fn refused_key_is_exit_code_2() {
    let server = Server::start();
    for key in ["rb_revoked", ""] {
        for line in [&["workspace", "ls"][..], &["limits"], &["doctor"], &["workspace", "rm", "x", "--force"]]
        {
            let mut command = server.command(&[&["--output", "json"], line].concat());
            let output = CliOutput::of(command.env("RIG_API_KEY", key).output().unwrap());
            assert_eq!(output.code, Some(2), "{line:?}");
            let last = output.events().pop().unwrap();
            assert_eq!((&last["event"], &last["code"]), (&json!("error"), &json!("unauthorized")));
        }
    }
}

#[test]
fn usage_error_is_exit_code_1() {
    let server = Server::start();
    for line in [&["frobnicate"][..], &["workspace", "start"], &["workspace", "spawn", "--ram-mb", "x"]] {
        let output = server.json(line);
        assert_eq!((output.code, output.event_names()), (Some(1), vec!["error".to_owned()]), "{line:?}");
        let output = server.run(line);
        assert_eq!((output.code, output.text()), (Some(1), ""), "{line:?}");
        assert!(!output.stderr.is_empty());
    }
}

#[test]
fn command_below_another_is_named_in_full() {
    let server = Server::start();
    for (word, tip) in [("spwan", "`rig workspace spawn`"), ("logs", "`rig workspace logs`, `rig app logs`")]
    {
        let output = server.run(&[word, "x"]);
        assert_eq!(output.code, Some(1));
        assert!(output.stderr.ends_with(&format!("tip: {tip}\n")), "{output:?}");
        assert!(!output.stderr.contains("login"), "{output:?}");
        let output = server.json(&[word]);
        assert!(output.events()[0]["message"].as_str().unwrap().ends_with(tip), "{output:?}");
    }
}

#[test]
fn version_and_help_are_printed() {
    let server = Server::start();
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(server.run(&["--version"]).text(), format!("rig {version}\n"));
    assert_eq!(server.json(&["--version"]).events(), [json!({"event": "version", "version": version})]);
    assert_eq!(server.json(&["--help"]).event_names(), ["help"]);
}

#[test]
fn request_to_a_busy_server_is_retried() {
    let server = Server::start();
    server.state.with(|state| state.busy_responses = 1);
    let started = std::time::Instant::now();
    assert_eq!(server.json(&["workspace", "ls"]).code, Some(0));
    assert!(started.elapsed().as_millis() >= 1000, "retried before Retry-After");
    assert_eq!(server.state.with(|state| state.requests.len()), 2);
}

#[test]
fn each_creation_has_its_own_idempotency_key() {
    let server = Server::start();
    server.run(&["workspace", "new", "a"]);
    server.run(&["workspace", "new", "a"]);
    let keys = server.state.with(|state| state.idempotency_keys.clone());
    assert!(keys.len() == 2 && keys[0] != keys[1] && keys[0].len() == 26, "{keys:?}");
}

#[test]
fn key_is_in_no_url_and_in_no_output() {
    let server = Server::start().with_workspace("ws-aaaaaaaa", "web", "running");
    for line in [&["workspace", "ls"][..], &["exec", "web", "--", "true"], &["status"], &["whoami"]] {
        let output = server.json(line);
        assert!(!output.text().contains(KEY) && !output.stderr.contains(KEY), "{output:?}");
    }
    server.state.with(|state| assert!(state.requests.iter().all(|url| !url.contains(KEY))));
}

#[test]
fn status_shows_health_capacity_and_workspaces() {
    let server = Server::start().with_workspace("ws-aaaaaaaa", "web", "running");
    let output = server.json(&["status"]);
    assert_eq!(output.event_names(), ["status"]);
    let status = &output.events()[0];
    assert_eq!((&status["version"], &status["api_url"]), (&json!("1.2.3"), &json!(server.url())));
    assert_eq!(status["workspaces"], json!({"total": 1, "running": 1}));
    assert_eq!(status["capacity"]["disk_free_mb"], 6);
    assert!(server.run(&["status"]).text().contains("1 (1 running)"));
}

#[test]
fn status_says_that_emulation_isolates_nothing() {
    let server = Server::start();
    for emulated in [true, false] {
        server.state.with(|state| state.emulated = emulated);
        assert_eq!(server.json(&["status"]).events()[0]["capacity"]["emulated"], emulated);
        let text = server.run(&["status"]).text().to_owned();
        assert_eq!(text.contains("isolation   none: VMs run in software emulation."), emulated, "{text}");
    }
}

#[test]
fn unreachable_server_is_reported_with_the_remedy() {
    let server = Server::start();
    // A free port, on which nothing listens.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let run = |line: &[&str]| {
        CliOutput::of(server.command(line).env("RIG_API_URL", format!("http://{free}")).output().unwrap())
    };
    let output = run(&["status"]);
    assert_eq!((output.code, output.text()), (Some(1), ""));
    assert!(output.stderr.contains("cannot reach") && output.stderr.contains("cargo xtask up"), "{output:?}");
    let output = run(&["--output", "json", "doctor"]);
    assert_eq!((output.code, output.event_names()), (Some(1), vec!["doctor".to_owned(), "error".to_owned()]));
    assert_eq!(output.events()[0]["healthy"], false);
    assert_eq!(output.events()[1]["code"], "unreachable");
}

#[test]
fn doctor_shows_the_findings_and_fails_if_one_is_an_error() {
    let server = Server::start();
    let output = server.json(&["doctor"]);
    assert_eq!((output.code, output.events()[0]["healthy"].as_bool()), (Some(0), Some(true)));
    assert_eq!(output.events()[0]["findings"][0]["subject"], "server");
    let finding = json!({"level": "error", "subject": "kvm", "message": "no /dev/kvm", "remedy": "load kvm"});
    server.state.with(|state| state.findings = vec![finding]);
    let output = server.run(&["doctor"]);
    assert_eq!(output.code, Some(1));
    assert!(output.text().contains("no /dev/kvm; load kvm"), "{output:?}");
}

#[test]
fn limits_and_templates_come_from_the_server() {
    let server = Server::start();
    let limits = server.json(&["limits"]).events();
    assert_eq!((&limits[0]["event"], &limits[0]["limits"]["max_vms"]), (&json!("limits"), &json!(9)));
    let mut command = server.command(&["--output", "json", "template", "ls"]);
    let templates = CliOutput::of(command.env_remove("RIG_API_KEY").output().unwrap()).events();
    assert_eq!(templates[0]["templates"][0]["id"], "base");
    assert!(server.run(&["template", "ls"]).text().contains("\\u{1b}[31mDebian"), "escaped");
}

#[test]
fn template_above_the_limits_is_marked() {
    let server = Server::start();
    let is_marked =
        |server: &Server| server.run(&["template", "ls"]).text().contains("512 MiB of memory of at most 256");
    assert!(!is_marked(&server));
    server.state.with(|state| state.max_ram_per_vm_mb = Some(256));
    assert!(is_marked(&server));
    // Without a key there is no plan.
    let mut command = server.command(&["template", "ls"]);
    let output = CliOutput::of(command.env_remove("RIG_API_KEY").output().unwrap());
    assert!(output.code == Some(0) && !output.text().contains("at most"), "{output:?}");
}

#[test]
fn names_are_completed_from_the_server() {
    let server = Server::start().with_workspace("ws-aaaaaaaa", "web", "running").with_workspace(
        "ws-aaaaaaab",
        "api",
        "stopped",
    );
    let complete = |line: &[&str]| {
        let mut command = server.command(&[&["--", "rig"], line].concat());
        command.env("COMPLETE", "bash").env("_CLAP_COMPLETE_INDEX", line.len().to_string());
        command
            .env("_CLAP_IFS", "\n")
            .env("_CLAP_COMPLETE_COMP_TYPE", "9")
            .env("_CLAP_COMPLETE_SPACE", "true");
        CliOutput::of(command.output().unwrap())
    };
    let names = complete(&["workspace", "stop", "w"]);
    assert_eq!(names.text(), "web", "{names:?}");
    let names = complete(&["exec", ""]);
    assert!(names.text().contains("web") && names.text().contains("api"), "{names:?}");
    let names = complete(&["app", "open", ""]);
    assert!(names.text().contains("web"), "{names:?}");
    server.state.with(|state| {
        state.ssh_keys = vec![json!({"id": "sh-aaaaaaaa", "name": "laptop", "created_at": ""})]
    });
    let names = complete(&["ssh-key", "rm", "la"]);
    assert_eq!(names.text(), "laptop", "{names:?}");
    // Without a server there are none, and no error either.
    let mut command = server.command(&["--", "rig", "workspace", "stop", ""]);
    command.env("COMPLETE", "bash").env("_CLAP_COMPLETE_INDEX", "3").env("_CLAP_IFS", "\n");
    let output = CliOutput::of(command.env("RIG_API_URL", "http://127.0.0.1:9").output().unwrap());
    assert!(!output.text().contains("web") && output.code == Some(0), "{output:?}");
}

#[test]
fn completion_prints_a_script() {
    let server = Server::start();
    let script = server.run(&["completion", "bash"]);
    assert!(script.text().contains("COMPLETE=\"bash\"") && script.text().contains("rig"), "{script:?}");
    assert_eq!(server.json(&["completion", "zsh"]).event_names(), ["completion"]);
}
