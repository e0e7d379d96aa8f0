//! `rig exec`: bytes, exit codes, signals and terminals.

use std::fs::File;
use std::io::{Read, Write};
use std::process::{Child, Stdio};
use std::time::Duration;

use rigbox_testkit::blocking::eventually;
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};
use serde_json::json;

use crate::support::{CliOutput, Server};

const WEB: &str = "ws-aaaaaaaa";

fn server() -> Server {
    Server::start().with_workspace(WEB, "web", "running")
}

#[test]
fn output_is_unchanged_and_the_exit_code_is_the_commands() {
    let server = server();
    let output = server.run(&["exec", "web", "--", "both"]);
    assert_eq!((output.code, output.text(), output.stderr.as_str()), (Some(3), "out", "err\u{1b}[0m"));
    assert_eq!(server.run(&["exec", WEB, "--", "true"]).code, Some(0));
    assert_eq!(server.run(&["exec", "-w", "web", "--", "killed"]).code, Some(128 + 9));
}

#[test]
fn events_hold_text_as_text_and_bytes_as_base64() {
    let server = server();
    assert_eq!(
        server.json(&["exec", "web", "--", "torn"]).events(),
        [
            json!({"event": "stdout", "data": "a"}),
            json!({"event": "stdout", "data": "äb"}),
            json!({"event": "stdout", "data_b64": "/w=="}),
            json!({"event": "exit", "code": 0}),
        ]
    );
    assert_eq!(
        server.json(&["exec", "web", "--", "both"]).events()[1],
        json!({"event": "stderr", "data": "err\u{1b}[0m"})
    );
    let output = server.json(&["exec", "web", "--", "killed"]);
    assert_eq!((output.code, output.events()), (Some(137), vec![json!({"event": "exit", "code": 137})]));
}

#[test]
fn large_output_is_complete() {
    let output = server().run(&["exec", "web", "--", "big"]);
    assert_eq!(output.stdout.len(), 200 * 60_000);
    assert!(
        output.stdout.chunks(60_000).enumerate().all(|(i, part)| part.iter().all(|b| usize::from(*b) == i))
    );
}

#[test]
fn failure_of_rig_itself_is_exit_code_125() {
    let server = server().with_workspace("ws-aaaaaaab", "off", "stopped");
    for (line, code) in [
        (["exec", "web", "--", "endless"], "connection_lost"),
        (["exec", "nobody", "--", "true"], "not_found"),
        (["exec", "off", "--", "true"], "invalid_state"),
    ] {
        let output = server.json(&line);
        assert_eq!(output.code, Some(125), "{line:?}");
        assert_eq!(output.events().last().unwrap()["code"], code, "{line:?}");
    }
    let output = CliOutput::of(
        server.command(&["exec", "web", "--", "true"]).env("RIG_API_KEY", "no").output().unwrap(),
    );
    assert_eq!(output.code, Some(125));
}

#[test]
fn command_that_cannot_run_exits_as_in_a_shell() {
    let server = server();
    for (command, code) in [("missing", 127), ("forbidden", 126), ("slow", 124)] {
        let output = server.json(&["exec", "web", "--", command]);
        assert_eq!(output.code, Some(code), "{output:?}");
        assert_eq!(output.events().last().unwrap()["event"], "error");
    }
    let output = server.run(&["exec", "web", "--", "missing | head"]);
    assert!(output.code == Some(127) && output.stderr.contains("--shell"), "{output:?}");
}

#[test]
fn usage_error_of_exec_is_told_from_the_commands_own_exit_code() {
    let server = server();
    let output = server.run(&["exec", "web", "ls"]);
    assert_eq!(output.code, Some(125));
    assert!(output.stderr.contains("rig exec WORKSPACE -- COMMAND"), "{output:?}");
    let output = server.json(&["exec", "web"]);
    assert_eq!((output.code, output.events()[0]["code"].as_str()), (Some(125), Some("usage")));
}

#[test]
fn timeout_and_shell_become_the_request() {
    let server = server();
    server.run(&["exec", "--timeout", "2m", "--shell", "web", "--", "ls", "| head"]);
    let wanted = json!({"command": "ls | head", "timeout_s": 120.0});
    assert_eq!(server.state.with(|state| state.received.clone()), [wanted]);
}

#[test]
fn background_command_has_an_id() {
    let server = server();
    let started = server.run(&["exec", "--detach", "web", "--", "sleep", "9"]);
    assert_eq!((started.code, started.text()), (Some(0), "pr-aaaaaaaa\n"));
    let listed = server.run(&["ps", "web"]);
    assert!(listed.text().contains("pr-aaaaaaaa") && listed.text().contains("exited (3)"), "{listed:?}");
    let attached = server.run(&["attach", "web", "pr-aaaaaaaa"]);
    assert_eq!((attached.code, attached.text()), (Some(3), "kept\n"));
    assert_eq!(server.run(&["kill", "web", "pr-aaaaaaaa", "-s", "INT"]).code, Some(0));
    assert_eq!(server.state.with(|state| state.received.last().cloned()), Some(json!({"signal": "INT"})));
    assert_eq!(server.run(&["exec", "--detach", "web", "--", "missing"]).code, Some(127));
}

#[test]
fn second_signal_ends_rig() {
    let server = server();
    let mut child = waiting(&server, &["exec", "web", "--", "deaf"]);
    signal(&child, Signal::INT);
    eventually("the first signal arrives", Duration::from_secs(10), || {
        let is_sent = server.state.with(|state| state.received.last() == Some(&json!({"signal": "INT"})));
        Ok(is_sent.then_some(()))
    })
    .unwrap();
    signal(&child, Signal::TERM);
    assert_eq!(child.wait().unwrap().code(), Some(143));
}

#[test]
fn arguments_become_the_request() {
    let server = server();
    server
        .run(&["exec", "-u", "root", "--cwd", "/tmp", "-e", "A=1", "-e", "B=x=y", "web", "--", "echo", "-n"]);
    let wanted =
        json!({"command": ["echo", "-n"], "cwd": "/tmp", "env": {"A": "1", "B": "x=y"}, "user": "root"});
    assert_eq!(server.state.with(|state| state.received.clone()), [wanted]);
}

#[test]
fn id_needs_one_request() {
    let server = server();
    server.run(&["exec", WEB, "--", "true"]);
    assert_eq!(
        server.state.with(|state| state.requests.clone()),
        ["POST /api/v1/workspaces/ws-aaaaaaaa/exec"]
    );
}

#[test]
fn stdin_that_is_not_a_terminal_is_forwarded() {
    let server = server();
    let data: Vec<u8> = (0..500_000u32).map(|i| (i % 251) as u8).collect();
    let mut child = server.command(&["exec", "web", "--", "cat"]);
    let mut child = child.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut stdin, sent) = (child.stdin.take().unwrap(), data.clone());
    let writer = std::thread::spawn(move || stdin.write_all(&sent));
    let output = CliOutput::of(child.wait_with_output().unwrap());
    writer.join().unwrap().unwrap();
    assert_eq!(output.code, Some(0), "{}", output.stderr);
    assert!(output.stdout == data);
}

fn waiting(server: &Server, arguments: &[&str]) -> Child {
    let mut child = server.command(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = [0; 8];
    child.stdout.as_mut().unwrap().read_exact(&mut line).unwrap();
    assert_eq!(&line, b"waiting\n");
    child
}

fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

#[test]
fn signals_are_forwarded_to_the_command() {
    let server = server();
    for (sent, code) in [(Signal::INT, 130), (Signal::TERM, 143), (Signal::HUP, 129)] {
        let mut child = waiting(&server, &["exec", "web", "--", "wait"]);
        signal(&child, sent);
        assert_eq!(child.wait().unwrap().code(), Some(code));
    }
}

#[test]
fn lost_connection_is_a_failure_of_rig_itself() {
    let server = server();
    let mut command = server.command(&["exec", "web", "--", "hang-up"]);
    let output = CliOutput::of(command.stdin(Stdio::piped()).output().unwrap());
    assert_eq!(output.code, Some(125));
    assert!(output.stderr.contains("lost the connection to the command"), "{output:?}");
    let mut command = server.command(&["exec", "nobody", "--", "true"]);
    let output = CliOutput::of(command.stdin(Stdio::piped()).output().unwrap());
    assert!(output.stderr.contains("not found"), "{output:?}");
}

#[test]
fn broken_pipe_ends_rig_as_other_programs() {
    let server = server();
    let mut child = server.command(&["exec", "web", "--", "big"]).stdout(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(128 + 13));
}

/// Returns both ends of a new terminal: its controller and the terminal.
fn open_terminal() -> (File, File) {
    let controller = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&controller).unwrap();
    unlockpt(&controller).unwrap();
    let name = ptsname(&controller, Vec::new()).unwrap().into_string().unwrap();
    tcsetwinsize(&controller, Winsize { ws_row: 11, ws_col: 22, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
    let terminal = File::options().read(true).write(true).open(name).unwrap();
    (File::from(controller), terminal)
}

fn at_terminal(server: &Server, line: &[&str], terminal: &File) -> Child {
    let end = || Stdio::from(terminal.try_clone().unwrap());
    server.command(line).env("TERM", "xterm").stdin(end()).stdout(end()).stderr(end()).spawn().unwrap()
}

fn read_until(controller: &mut File, wanted: &str) -> String {
    let mut seen = Vec::new();
    let mut chunk = [0; 256];
    while !String::from_utf8_lossy(&seen).contains(wanted) {
        let length = controller.read(&mut chunk).unwrap();
        seen.extend_from_slice(&chunk[..length]);
    }
    String::from_utf8_lossy(&seen).into_owned()
}

#[test]
fn terminal_is_raw_during_the_command_and_restored_after_it() {
    let server = server();
    let (mut controller, terminal) = open_terminal();
    let before = tcgetattr(&terminal).unwrap().local_modes;
    assert!(before.contains(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG));
    let mut child = at_terminal(&server, &["exec", "-it", "web", "--", "cat"], &terminal);
    // In raw mode Ctrl-C is an ordinary key, and only the command echoes.
    while tcgetattr(&terminal).unwrap().local_modes.contains(LocalModes::ICANON) {
        std::thread::yield_now();
    }
    controller.write_all(b"x\x03y").unwrap();
    assert_eq!(read_until(&mut controller, "y"), "x\x03y");
    controller.write_all(&[4]).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert_eq!(tcgetattr(&terminal).unwrap().local_modes, before);
    let request = server.state.with(|state| state.received[0].clone());
    let wanted = json!({"command": ["cat"], "tty": true, "rows": 11, "cols": 22, "env": {"TERM": "xterm"}});
    assert_eq!(request, wanted);
}

#[test]
fn terminal_resize_is_forwarded() {
    let server = server();
    let (mut controller, terminal) = open_terminal();
    let mut child = at_terminal(&server, &["exec", "-it", "web", "--", "wait"], &terminal);
    read_until(&mut controller, "waiting");
    tcsetwinsize(&controller, Winsize { ws_row: 33, ws_col: 44, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
    signal(&child, Signal::WINCH);
    read_until(&mut controller, r#"{"cols":44,"rows":33}"#);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn terminal_stays_ours_without_a_tty_option() {
    let server = server();
    let (mut controller, terminal) = open_terminal();
    let mut child = at_terminal(&server, &["exec", "web", "--", "wait"], &terminal);
    read_until(&mut controller, "waiting");
    assert!(tcgetattr(&terminal).unwrap().local_modes.contains(LocalModes::ICANON));
    // As Ctrl-C does.
    signal(&child, Signal::INT);
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let received = server.state.with(|state| state.received.clone());
    assert_eq!(received[1..], [json!({"eof": true}), json!({"signal": "INT"})]);
}

#[test]
fn rm_asks_for_confirmation_at_a_terminal() {
    let server = server();
    for (reply, code, left) in [("n\n", 1, 1), ("y\n", 0, 0)] {
        let (mut controller, terminal) = open_terminal();
        let mut child = at_terminal(&server, &["workspace", "rm", "web"], &terminal);
        read_until(&mut controller, "[y/N]");
        controller.write_all(reply.as_bytes()).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(code));
        assert_eq!(server.state.with(|state| state.workspaces.len()), left);
    }
}
