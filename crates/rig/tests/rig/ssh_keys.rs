//! SSH keys: listing, registration from files, and removal.

use std::io::Write;
use std::path::PathBuf;
use std::process::Stdio;

use serde_json::{Value, json};

use crate::support::{CliOutput, Server};

const LINE: &str = "ssh-ed25519 AAAA ada@laptop\n";

/// Writes a file below the home folder.
fn file(server: &Server, name: &str, text: &str) -> PathBuf {
    let path = server.home.path().join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, text).unwrap();
    path
}

fn key(id: &str, name: &str) -> Value {
    json!({"id": id, "user_id": "us-aaaaaaaa", "name": name, "public_key": "ssh-ed25519 AAAA", "fingerprint": format!("SHA256:{id}"),
        "created_at": "2026-01-01T00:00:00Z"})
}

fn with_keys(keys: &[(&str, &str)]) -> Server {
    let server = Server::start();
    server.state.with(|state| state.ssh_keys = keys.iter().map(|(id, name)| key(id, name)).collect());
    server
}

fn ids(server: &Server) -> Vec<String> {
    server
        .state
        .with(|state| state.ssh_keys.iter().map(|key| key["id"].as_str().unwrap().to_owned()).collect())
}

#[test]
fn keys_are_listed_under_both_names_of_the_command() {
    let server = with_keys(&[("sh-aaaaaaaa", "laptop")]);
    for command in ["ssh-key", "ssh"] {
        let events = server.json(&[command, "ls"]).events();
        assert_eq!(events.len(), 1);
        let listed = &events[0]["ssh_keys"][0];
        assert_eq!((&events[0]["event"], &listed["name"]), (&json!("ssh_keys"), &json!("laptop")));
        assert_eq!(listed["fingerprint"], "SHA256:sh-aaaaaaaa");
        assert_eq!(
            (&listed["id"], &listed["created_at"]),
            (&json!("sh-aaaaaaaa"), &json!("2026-01-01T00:00:00Z"))
        );
        let text = server.run(&[command, "ls"]);
        assert!(text.text().contains("laptop  ssh-ed25519  SHA256:sh-aaaaaaaa"), "{text:?}");
    }
}

#[test]
fn key_of_a_file_or_of_stdin_is_registered() {
    let server = Server::start();
    let path = file(&server, "some.pub", LINE);
    let path = path.to_str().unwrap();
    for command in ["ssh-key", "ssh"] {
        let output = server.json(&[command, "add", "--name", "laptop", "--file", path]);
        assert_eq!(output.event_names(), ["ssh_key_added"], "{output:?}");
        assert_eq!(output.events()[0]["name"], "laptop");
        let received = server.state.with(|state| state.received.pop());
        assert_eq!(received, Some(json!({"name": "laptop", "public_key": LINE})));
    }
    let mut command = server.command(&["--output", "json", "ssh-key", "add", "--file", "-"]);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(LINE.as_bytes()).unwrap();
    let output = CliOutput::of(child.wait_with_output().unwrap());
    // The comment is the name.
    assert_eq!(output.events()[0]["name"], "ada@laptop", "{output:?}");
    assert_eq!(ids(&server).len(), 3);
}

#[test]
fn only_key_of_the_home_folder_is_registered_and_several_are_listed() {
    let server = Server::start();
    let none = server.json(&["ssh-key", "add"]);
    assert_eq!(none.code, Some(1));
    assert!(none.events()[0]["message"].as_str().unwrap().contains("ssh-keygen"), "{none:?}");
    file(&server, ".ssh/id_ed25519", "-----BEGIN OPENSSH PRIVATE KEY-----\n");
    file(&server, ".ssh/id_ed25519-cert.pub", LINE);
    file(&server, ".ssh/id_ed25519.pub", LINE);
    let output = server.run(&["ssh-key", "add"]);
    assert!(output.text().starts_with("SSH key ada@laptop added from "), "{output:?}");
    file(&server, ".ssh/work.pub", LINE);
    let several = server.json(&["ssh-key", "add"]);
    let message = several.events()[0]["message"].as_str().unwrap().to_owned();
    assert!(message.contains("/id_ed25519.pub, ") && message.contains("/work.pub"), "{message}");
    assert!(!message.contains("-cert.pub"), "{message}");
    assert_eq!((several.code, ids(&server).len()), (Some(1), 1));
}

#[test]
fn private_key_is_not_sent() {
    let server = Server::start();
    for text in [
        "-----BEGIN OPENSSH PRIVATE KEY-----\nc2VjcmV0\n",
        "PuTTY-User-Key-File-3: ssh-ed25519\nc2VjcmV0\n",
        "b3BlbnNzaC1rZXktdjEAc2VjcmV0",
    ] {
        let path = file(&server, "id_ed25519", text);
        let output = server.json(&["ssh-key", "add", "--name", "x", "--file", path.to_str().unwrap()]);
        let event = &output.events()[0];
        assert_eq!((&event["event"], &event["code"]), (&json!("error"), &json!("private_key")));
        assert!(event["message"].as_str().unwrap().ends_with("ending in .pub"), "{event}");
        assert!(!output.text().contains("c2VjcmV0"), "{output:?}");
    }
    server.state.with(|state| assert_eq!(state.requests, Vec::<String>::new()));
}

#[test]
fn unusable_file_is_named() {
    let server = Server::start();
    let long = file(&server, "long", &"x".repeat(16 * 1024 + 1));
    for (path, expected) in [("missing.pub", "missing.pub"), (long.to_str().unwrap(), "too long")] {
        let output = server.json(&["ssh-key", "add", "--name", "x", "--file", path]);
        let event = &output.events()[0];
        assert_eq!(event["code"], "unreadable");
        assert!(event["message"].as_str().unwrap().contains(expected), "{event}");
    }
    let nameless = file(&server, "nameless.pub", "ssh-ed25519 AAAA\n");
    let output = server.run(&["ssh-key", "add", "--file", nameless.to_str().unwrap()]);
    assert!(output.stderr.contains("--name"), "{output:?}");
    // A text of several lines has no name of a key in it.
    for (text, expected) in [
        ("---- BEGIN SSH2 PUBLIC KEY ----\nComment: \"a b\"\nAAAA\n", "ssh-keygen -i"),
        ("# mine\nssh-ed25519 AAAA a\n", "ssh-keygen -i"),
        ("\n", "is empty"),
    ] {
        let path = file(&server, "other.pub", text);
        let output = server.run(&["ssh-key", "add", "--file", path.to_str().unwrap()]);
        assert!(output.stderr.contains(expected), "{output:?}");
    }
}

#[test]
fn keys_are_removed_by_name_id_and_fingerprint() {
    let keys =
        [("sh-aaaaaaaa", "one"), ("sh-bbbbbbbb", "two"), ("sh-cccccccc", "three"), ("sh-dddddddd", "four")];
    let server = with_keys(&keys);
    let output = server.json(&["ssh-key", "rm", "one", "sh-bbbbbbbb", "SHA256:sh-cccccccc", "sh-aaaaaaaa"]);
    assert_eq!(output.event_names(), ["ssh_key_rm"; 3], "{output:?}");
    assert_eq!(ids(&server), ["sh-dddddddd"]);
    assert_eq!(server.run(&["ssh", "rm", "four"]).text(), "SSH key four removed\n");
    assert_eq!(ids(&server), Vec::<String>::new());
}

#[test]
fn nothing_is_removed_if_one_key_is_unknown_or_ambiguous() {
    let server = with_keys(&[("sh-aaaaaaaa", "one"), ("sh-bbbbbbbb", "twin"), ("sh-cccccccc", "twin")]);
    for (line, code, expected) in [
        (["one", "nonesuch"], "not_found", "nonesuch"),
        (["one", "twin"], "ambiguous", "sh-bbbbbbbb, sh-cccccccc"),
    ] {
        let output = server.json(&[&["ssh-key", "rm"][..], &line].concat());
        let event = &output.events()[0];
        assert_eq!((output.code, &event["code"]), (Some(1), &json!(code)));
        assert!(event["message"].as_str().unwrap().contains(expected), "{event}");
        assert_eq!(ids(&server).len(), 3);
    }
    assert_eq!(server.json(&["ssh-key", "rm"]).code, Some(1));
}
