//! `rig exec` against a server: bytes, exit codes, signals and terminals.

// clippy's exemption for tests does not reach helpers beside them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::fs::File;
use std::io::{Read, Write};
use std::process::{Child, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};
use serde_json::json;
use support::{Ended, Server};

const WEB: &str = "ws-aaaaaaaa";

fn server() -> Server {
    Server::start().with_workspace(WEB, "web", "running")
}

#[test]
fn output_comes_as_it_is_and_the_exit_code_is_the_commands() {
    let server = server();
    let ended = server.run(&["exec", "web", "--", "both"]);
    assert_eq!((ended.code, ended.text(), ended.stderr.as_str()), (Some(3), "out", "err\u{1b}[0m"));
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
    let ended = server.json(&["exec", "web", "--", "killed"]);
    assert_eq!((ended.code, ended.events()), (Some(137), vec![json!({"event": "exit", "code": 137})]));
}

#[test]
fn much_output_comes_whole() {
    let ended = server().run(&["exec", "web", "--", "big"]);
    assert_eq!(ended.stdout.len(), 200 * 60_000);
    assert!(
        ended.stdout.chunks(60_000).enumerate().all(|(i, part)| part.iter().all(|b| usize::from(*b) == i))
    );
}

#[test]
fn what_is_rigs_own_failure_is_255() {
    let server = server().with_workspace("ws-aaaaaaab", "off", "stopped");
    for (line, code) in [
        (["exec", "web", "--", "missing"], "not_found"),
        (["exec", "web", "--", "endless"], "connection_lost"),
        (["exec", "nobody", "--", "true"], "not_found"),
        (["exec", "off", "--", "true"], "invalid_state"),
    ] {
        let ended = server.json(&line);
        assert_eq!(ended.code, Some(255), "{line:?}");
        assert_eq!(ended.events().last().unwrap()["code"], code, "{line:?}");
    }
    let ended =
        Ended::of(server.command(&["exec", "web", "--", "true"]).env("RIG_API_KEY", "no").output().unwrap());
    assert_eq!(ended.code, Some(255));
}

#[test]
fn the_request_says_what_the_arguments_said() {
    let server = server();
    server
        .run(&["exec", "-u", "root", "--cwd", "/tmp", "-e", "A=1", "-e", "B=x=y", "web", "--", "echo", "-n"]);
    let wanted =
        json!({"command": ["echo", "-n"], "cwd": "/tmp", "env": {"A": "1", "B": "x=y"}, "user": "root"});
    assert_eq!(server.world.with(|world| world.said.clone()), [wanted]);
}

#[test]
fn an_id_costs_one_request() {
    let server = server();
    server.run(&["exec", WEB, "--", "true"]);
    assert_eq!(server.world.with(|world| world.seen.clone()), ["POST /api/v1/workspaces/ws-aaaaaaaa/exec"]);
}

#[test]
fn stdin_that_is_no_terminal_is_the_commands() {
    let server = server();
    let data: Vec<u8> = (0..500_000u32).map(|i| (i % 251) as u8).collect();
    let mut child = server.command(&["exec", "web", "--", "cat"]);
    let mut child = child.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut stdin, sent) = (child.stdin.take().unwrap(), data.clone());
    let writer = std::thread::spawn(move || stdin.write_all(&sent));
    let ended = Ended::of(child.wait_with_output().unwrap());
    writer.join().unwrap().unwrap();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(ended.stdout == data);
}

fn waiting(server: &Server, line: &[&str]) -> Child {
    let mut child = server.command(line).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut said = [0; 8];
    child.stdout.as_mut().unwrap().read_exact(&mut said).unwrap();
    assert_eq!(&said, b"waiting\n");
    child
}

fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

#[test]
fn a_signal_to_rig_is_the_commands() {
    let server = server();
    for (sent, code) in [(Signal::INT, 130), (Signal::TERM, 143), (Signal::HUP, 129)] {
        let mut child = waiting(&server, &["exec", "web", "--", "wait"]);
        signal(&child, sent);
        assert_eq!(child.wait().unwrap().code(), Some(code));
    }
}

#[test]
fn a_server_that_hangs_up_is_rigs_failure() {
    let server = server();
    let mut command = server.command(&["exec", "web", "--", "hang-up"]);
    let ended = Ended::of(command.stdin(Stdio::piped()).output().unwrap());
    assert_eq!(ended.code, Some(255));
    assert!(ended.stderr.contains("the command's end was not seen"), "{ended:?}");
    let mut command = server.command(&["exec", "nobody", "--", "true"]);
    let ended = Ended::of(command.stdin(Stdio::piped()).output().unwrap());
    assert!(ended.stderr.contains("not found"), "{ended:?}");
}

#[test]
fn output_that_nobody_reads_ends_rig_as_it_ends_others() {
    let server = server();
    let mut child = server.command(&["exec", "web", "--", "big"]).stdout(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(128 + 13));
}

/// Our side of a terminal, and the side that programs have.
fn terminal() -> (File, File) {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
    tcsetwinsize(&master, Winsize { ws_row: 11, ws_col: 22, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
    let slave = File::options().read(true).write(true).open(name).unwrap();
    (File::from(master), slave)
}

fn at_terminal(server: &Server, line: &[&str], slave: &File) -> Child {
    let end = || Stdio::from(slave.try_clone().unwrap());
    server.command(line).env("TERM", "xterm").stdin(end()).stdout(end()).stderr(end()).spawn().unwrap()
}

fn read_until(master: &mut File, wanted: &str) -> String {
    let mut seen = Vec::new();
    let mut piece = [0; 256];
    while !String::from_utf8_lossy(&seen).contains(wanted) {
        let length = master.read(&mut piece).unwrap();
        seen.extend_from_slice(&piece[..length]);
    }
    String::from_utf8_lossy(&seen).into_owned()
}

#[test]
fn a_terminal_is_given_away_whole_and_comes_back_as_it_was() {
    let server = server();
    let (mut master, slave) = terminal();
    let before = tcgetattr(&slave).unwrap().local_modes;
    assert!(before.contains(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG));
    let mut child = at_terminal(&server, &["exec", "-it", "web", "--", "cat"], &slave);
    // Ctrl-C is a key like any other, and nothing but the command echoes.
    while tcgetattr(&slave).unwrap().local_modes.contains(LocalModes::ICANON) {
        std::thread::yield_now();
    }
    master.write_all(b"x\x03y").unwrap();
    assert_eq!(read_until(&mut master, "y"), "x\x03y");
    master.write_all(&[4]).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert_eq!(tcgetattr(&slave).unwrap().local_modes, before);
    let request = server.world.with(|world| world.said[0].clone());
    let wanted = json!({"command": ["cat"], "tty": true, "rows": 11, "cols": 22, "env": {"TERM": "xterm"}});
    assert_eq!(request, wanted);
}

#[test]
fn a_new_size_of_the_terminal_is_told() {
    let server = server();
    let (mut master, slave) = terminal();
    let mut child = at_terminal(&server, &["exec", "-it", "web", "--", "wait"], &slave);
    read_until(&mut master, "waiting");
    tcsetwinsize(&master, Winsize { ws_row: 33, ws_col: 44, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
    signal(&child, Signal::WINCH);
    read_until(&mut master, r#"{"cols":44,"rows":33}"#);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_terminal_that_is_not_asked_for_stays_ours() {
    let server = server();
    let (mut master, slave) = terminal();
    let mut child = at_terminal(&server, &["exec", "web", "--", "wait"], &slave);
    read_until(&mut master, "waiting");
    assert!(tcgetattr(&slave).unwrap().local_modes.contains(LocalModes::ICANON));
    // Ctrl-C would do this.
    signal(&child, Signal::INT);
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let said = server.world.with(|world| world.said.clone());
    assert_eq!(said[1..], [json!({"eof": true}), json!({"signal": "INT"})]);
}

#[test]
fn rm_asks_at_a_terminal() {
    let server = server();
    for (answer, code, left) in [("n\n", 1, 1), ("y\n", 0, 0)] {
        let (mut master, slave) = terminal();
        let mut child = at_terminal(&server, &["workspace", "rm", "web"], &slave);
        read_until(&mut master, "[y/N]");
        master.write_all(answer.as_bytes()).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(code));
        assert_eq!(server.world.with(|world| world.workspaces.len()), left);
    }
}
