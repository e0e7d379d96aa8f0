//! Commands and files, against simulated guests.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures_util::{SinkExt, Stream, StreamExt, stream};
use reqwest::{Body, Method};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::support::{TestControl, eventually};

async fn exec(rig: &TestControl, id: &str, body: Value) -> Vec<Value> {
    let request = rig.request(Method::POST, &format!("/workspaces/{id}/exec")).json(&body);
    let response = rig.send(request).await;
    assert_eq!(response.status, 200);
    assert_eq!(response.headers["content-type"], "application/x-ndjson");
    let text = String::from_utf8(response.body.to_vec()).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn output_and_exit_of_a_command_come_as_lines() {
    let rig = TestControl::new().await;
    let id = rig.running("one").await;
    assert_eq!(
        exec(&rig, &id, json!({"command": ["echo", "hi"]})).await,
        [json!({"stream": "stdout", "data_b64": "aGk="}), json!({"exit_code": 0, "duration_us": 7})]
    );
    assert_eq!(exec(&rig, &id, json!({"command": ["exit", "3"]})).await[0]["exit_code"], 3);
    let lines = exec(&rig, &id, json!({"command": ["cat"], "stdin_b64": STANDARD.encode("in")})).await;
    assert_eq!(lines[0]["data_b64"], STANDARD.encode("in"));
    assert_eq!(exec(&rig, &id, json!({"command": ["nothing"]})).await[0]["error"]["code"], "not_found");
    assert_eq!(exec(&rig, &id, json!({"command": ["crash"]})).await[0]["error"]["code"], "agent_lost");
}

#[tokio::test]
async fn command_in_the_background_is_listed_read_and_signaled_by_its_id() {
    let rig = TestControl::new().await;
    let id = rig.running("one").await;
    let path = format!("/workspaces/{id}/processes");
    let body = json!({"command": ["sleep", "9"], "user": "root"});
    let (status, started) = rig.call(Method::POST, &path, Some(body)).await;
    assert_eq!(status, 201, "{started}");
    let process = started["process"]["id"].as_str().unwrap().to_owned();
    let (_, listed) = rig.get(&path).await;
    assert_eq!(listed["processes"], json!([started["process"]]));
    assert_eq!(listed["processes"][0]["command"], "sleep 9");
    assert_eq!(listed["processes"][0]["status"], "running");

    let output = rig.send(rig.request(Method::GET, &format!("{path}/{process}/output"))).await;
    assert_eq!(output.headers["content-type"], "application/x-ndjson");
    let text = String::from_utf8(output.body.to_vec()).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(
        (&lines[0]["data_b64"], &lines[1]["exit_code"]),
        (&json!(STANDARD.encode("kept\n")), &json!(3))
    );

    let signal = async |process: &str, name: &str| {
        let path = format!("{path}/{process}/signal");
        rig.call(Method::POST, &path, Some(json!({"signal": name}))).await.0
    };
    assert_eq!(signal(&process, "TERM").await, 204);
    assert_eq!(*rig.guests.signals.lock().unwrap(), [(process.clone(), "TERM".to_owned())]);
    assert_eq!(signal(&process, "NONSENSE").await, 400);
    assert_eq!(signal("pr-aaaaaaaa", "TERM").await, 404);
    assert_eq!(signal("7", "TERM").await, 404);
    for (body, code) in [
        (json!({"command": ["nothing"]}), 404),
        (json!({"command": ["x"], "tty": true}), 400),
        (json!({"command": ["x"], "stdin_b64": "YQ=="}), 400),
    ] {
        assert_eq!(rig.call(Method::POST, &path, Some(body)).await.0, code);
    }
}

#[tokio::test]
async fn invalid_command_is_refused_before_it_runs() {
    let rig = TestControl::new().await;
    let id = rig.running("one").await;
    let stopped = rig.provisioned("two").await;
    for (id, body, code) in [
        (&id, json!({"command": []}), 400),
        (&id, json!({"command": " "}), 400),
        (&id, json!({"command": 5}), 400),
        (&id, json!({"command": ["x"], "user": "admin"}), 400),
        (&id, json!({"command": ["x"], "cwd": "here"}), 400),
        (&id, json!({"command": ["x"], "timeout_s": -1}), 400),
        (&id, json!({"command": ["x"], "stdin_b64": "?"}), 400),
        (&id, json!({"command": ["x"], "env": {"A=B": "c"}}), 400),
        (&id, json!({"command": ["x"], "tty": true}), 400),
        (&id, json!({"command": ["x"], "shell": "zsh"}), 400),
        (&id, json!({"command": ["echo", "x".repeat(100_000)]}), 400),
        (&id, json!({"command": ["x"], "stdin_b64": STANDARD.encode(vec![0; 1024 * 1024 + 3])}), 400),
        (&stopped, json!({"command": ["x"]}), 409),
        (&"ws-zzzzzzzz".to_owned(), json!({"command": ["x"]}), 404),
    ] {
        let (status, response) = rig.call(Method::POST, &format!("/workspaces/{id}/exec"), Some(body)).await;
        assert_eq!(status, code, "{response}");
    }
}

#[tokio::test]
async fn hundred_megabytes_of_output_arrive_complete_and_fast() {
    let rig = TestControl::new().await;
    let id = rig.running("one").await;
    let request = rig
        .request(Method::POST, &format!("/workspaces/{id}/exec"))
        .json(&json!({"command": ["flood", "100"]}));
    let started_at = Instant::now();
    let mut body = rig.send_streaming(request).await.bytes_stream();
    let (mut bytes, mut tail) = (0, Vec::new());
    while let Some(chunk) = body.next().await {
        let chunk = chunk.unwrap();
        bytes += chunk.len();
        tail.extend_from_slice(&chunk);
        tail.drain(..tail.len().saturating_sub(64));
    }
    let line =
        STANDARD.encode(vec![b'x'; 32 * 1024]).len() + "{\"stream\":\"stdout\",\"data_b64\":\"\"}\n".len();
    let end = b"{\"exit_code\":0,\"duration_us\":7}\n";
    assert_eq!(bytes, 3200 * line + end.len());
    assert!(tail.ends_with(end));
    println!("100 MiB in {:?}", started_at.elapsed());
    assert!(started_at.elapsed() < Duration::from_secs(20));
}

#[tokio::test]
async fn slow_client_blocks_only_its_own_command() {
    let rig = TestControl::new().await;
    let id = rig.running("one").await;
    let mut stalled = Vec::new();
    for _ in 0..8 {
        let request = rig
            .request(Method::POST, &format!("/workspaces/{id}/exec"))
            .json(&json!({"command": ["flood", "100"]}));
        stalled.push(rig.send_streaming(request).await);
    }
    let written = || rig.guests.written.load(Ordering::SeqCst);
    let mut last = usize::MAX;
    while last != written() {
        last = written();
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    assert!(last < 8 * 20 * 1024 * 1024, "{last} bytes were buffered for clients that do not read");
    assert_eq!(exec(&rig, &id, json!({"command": ["exit", "0"]})).await[0]["exit_code"], 0);
    drop(stalled);
    eventually("all commands have ended", || async { rig.guests.abandoned.load(Ordering::SeqCst) == 8 })
        .await;
}

#[tokio::test]
async fn command_ends_when_its_client_disconnects() {
    let rig = TestControl::new().await;
    let id = rig.running("one").await;
    let request =
        rig.request(Method::POST, &format!("/workspaces/{id}/exec")).json(&json!({"command": ["sleep"]}));
    drop(rig.send_streaming(request).await);
    eventually("the command has ended", || async { rig.guests.abandoned.load(Ordering::SeqCst) == 1 }).await;
}

/// Returns the next event, checked against the document.
async fn next_event(
    rig: &TestControl,
    socket: &mut (impl Stream<Item = Result<Message, tokio_tungstenite::tungstenite::Error>> + Unpin),
) -> Value {
    let text = socket.next().await.unwrap().unwrap().into_text().unwrap();
    let event = serde_json::from_str(&text).unwrap();
    rig.contract().check_value("ExecEvent", &event).unwrap();
    event
}

/// Returns the code with which the server closes the WebSocket.
async fn close_code(
    socket: &mut (impl Stream<Item = Result<Message, tokio_tungstenite::tungstenite::Error>> + Unpin),
) -> u16 {
    match socket.next().await.unwrap().unwrap() {
        Message::Close(Some(frame)) => frame.code.into(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn web_socket_carries_live_input() {
    let rig = TestControl::new().await;
    let id = rig.running("one").await;
    let request = rig.socket_request(&format!("/workspaces/{id}/exec"), &rig.key);
    let connect = || tokio_tungstenite::connect_async(request.clone());
    let text = |value: Value| Message::text(value.to_string());

    let (mut socket, _) = connect().await.unwrap();
    socket.send(text(json!({"command": ["cat"], "tty": true, "rows": 10, "cols": 20}))).await.unwrap();
    socket.send(text(json!({"stdin_b64": STANDARD.encode("one")}))).await.unwrap();
    assert_eq!(next_event(&rig, &mut socket).await["data_b64"], STANDARD.encode("one"));
    socket.send(text(json!({"resize": {"rows": 30, "cols": 40}}))).await.unwrap();
    eventually("resized", || async { *rig.guests.resized.lock().unwrap() == Some((30, 40)) }).await;
    socket.send(text(json!({"signal": "INT"}))).await.unwrap();
    assert_eq!(next_event(&rig, &mut socket).await["signal"], "INT");
    assert_eq!(close_code(&mut socket).await, 1000);

    let (mut socket, _) = connect().await.unwrap();
    socket.send(text(json!({"command": ["cat"]}))).await.unwrap();
    socket.send(text(json!({"bogus": 1}))).await.unwrap();
    assert_eq!(next_event(&rig, &mut socket).await["error"]["code"], "bad_request");
    assert_eq!(close_code(&mut socket).await, 1008);
    eventually("abandoned", || async { rig.guests.abandoned.load(Ordering::SeqCst) == 1 }).await;

    let (mut socket, _) = connect().await.unwrap();
    socket.send(text(json!({"command": ["cat"]}))).await.unwrap();
    socket.send(text(json!({"signal": "NONSENSE"}))).await.unwrap();
    let refused = next_event(&rig, &mut socket).await;
    assert!(refused["error"]["message"].as_str().unwrap().contains("NONSENSE"), "{refused}");
    eventually("abandoned", || async { rig.guests.abandoned.load(Ordering::SeqCst) == 2 }).await;

    let (mut socket, _) = connect().await.unwrap();
    socket.send(text(json!({"command": ["sleep"]}))).await.unwrap();
    drop(socket);
    eventually("ended", || async { rig.guests.abandoned.load(Ordering::SeqCst) == 3 }).await;
    assert_eq!(rig.get(&format!("/workspaces/{id}/exec")).await.0, 426);
}

#[tokio::test]
async fn commands_files_and_refusals_are_in_the_audit_log_without_their_arguments() {
    let rig = TestControl::new().await;
    let id = rig.running("one").await;
    exec(&rig, &id, json!({"command": ["echo", "secret"]})).await;
    let put = rig.request(Method::PUT, &format!("/workspaces/{id}/files?path=/tmp/a")).body("secret");
    assert_eq!(rig.send(put).await.status, 200);
    let body = json!({"name": "reader", "workspaces": [id], "role": "read"});
    let (_, created) = rig.call(Method::POST, "/api-keys", Some(body)).await;
    let url = rig.url(&format!("/api/v1/workspaces/{id}/exec"));
    let refused =
        rig.client.post(url).bearer_auth(created["key"].as_str().unwrap()).json(&json!({"command": ["id"]}));
    assert_eq!(rig.send(refused).await.status, 403);
    let reader = created["api_key"]["id"].as_str().unwrap();
    eventually("everything is recorded", || async {
        let (_, log) = rig.get("/audit-log").await;
        let entries = log["entries"].as_array().unwrap();
        let has = |action: &str, target: &str| {
            let entry = entries.iter().find(|entry| entry["action"] == action && entry["target"] == target);
            entry.is_some_and(|entry| entry["address"] == "127.0.0.1" && entry["key_id"].is_string())
        };
        assert!(!log.to_string().contains("secret"), "{log}");
        has("exec.open", &format!("{id} echo"))
            && has("exec.close", &format!("{id} echo"))
            && has("file.write", &format!("{id} /tmp/a"))
            && has("workspace.exec.refused", &id)
            && entries
                .iter()
                .any(|entry| entry["action"] == "workspace.exec.refused" && entry["key_id"] == reader)
    })
    .await;
}

#[tokio::test]
async fn silence_of_a_guest_in_the_middle_of_a_response_ends_the_call() {
    let rig = TestControl::new().await;
    let id = rig.running("one").await;
    let path = format!("/workspaces/{id}/files/list?path=/silent");
    let listing = rig.get(&path);
    let (status, body) = tokio::time::timeout(Duration::from_secs(30), listing).await.unwrap();
    assert_eq!((status.as_u16(), &body["error"]["code"]), (503, &json!("agent_lost")), "{body}");
}

#[tokio::test]
async fn command_may_write_before_it_has_read_all_of_its_first_input() {
    let rig = TestControl::new().await;
    let id = rig.running("one").await;
    let request = rig.socket_request(&format!("/workspaces/{id}/exec"), &rig.key);
    let (mut socket, _) = tokio_tungstenite::connect_async(request).await.unwrap();
    let stdin = STANDARD.encode(vec![b'x'; 1 << 20]);
    socket.send(Message::text(json!({"command": ["cat"], "stdin_b64": stdin}).to_string())).await.unwrap();
    socket.send(Message::text(json!({"eof": true}).to_string())).await.unwrap();
    let mut bytes = 0;
    let read = async {
        loop {
            let event = next_event(&rig, &mut socket).await;
            match event["data_b64"].as_str() {
                Some(data) => bytes += STANDARD.decode(data).unwrap().len(),
                None => return event,
            }
        }
    };
    let last = tokio::time::timeout(Duration::from_secs(30), read).await.unwrap();
    assert_eq!((bytes, &last["exit_code"]), (1 << 20, &json!(0)));
}

#[tokio::test]
async fn files_are_read_as_written() {
    let rig = TestControl::new().await;
    let id = rig.running("one").await;
    let content: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
    let url = format!("/workspaces/{id}/files?path=/tmp/a");
    let put = rig.request(Method::PUT, &format!("{url}&mode=600")).body(content.clone());
    let put = rig.send(put).await;
    assert_eq!((put.status.as_u16(), &put.json()["size"]), (200, &json!(3_000_000)));
    let got = rig.send(rig.request(Method::GET, &url)).await;
    assert_eq!(got.headers["x-rigbox-file-size"], "3000000");
    assert_eq!(got.body, content);

    assert_eq!(rig.get(&format!("/workspaces/{id}/files?path=/nothing")).await.0, 404);
    assert_eq!(rig.get(&format!("/workspaces/{id}/files")).await.0, 400);
    let denied = rig.request(Method::PUT, &format!("/workspaces/{id}/files?path=/forbidden/x")).body("x");
    assert_eq!(rig.send(denied).await.status, 403);
    let mode = rig.request(Method::PUT, &format!("{url}&mode=999")).body("x");
    assert_eq!(rig.send(mode).await.status, 400);
}

#[tokio::test]
async fn interrupted_upload_leaves_no_file() {
    let rig = TestControl::new().await;
    let id = rig.running("one").await;
    let guests = rig.guests.clone();
    let cut = stream::once(async move {
        eventually("the guest has part of the file", || async {
            guests.started_files.load(Ordering::SeqCst) > 0
        })
        .await;
        Err(std::io::Error::other("connection lost"))
    });
    let broken = stream::iter([Ok(vec![b'x'; 100_000])]).chain(cut);
    let put = rig
        .request(Method::PUT, &format!("/workspaces/{id}/files?path=/tmp/cut"))
        .body(Body::wrap_stream(broken));
    assert!(put.send().await.is_err());
    let whole = rig.request(Method::PUT, &format!("/workspaces/{id}/files?path=/tmp/whole")).body("x");
    assert_eq!(rig.send(whole).await.status, 200);
    eventually("the guest notices", || async { rig.guests.abandoned.load(Ordering::SeqCst) == 1 }).await;
    let files = rig.guests.files.lock().unwrap();
    assert!(files.contains_key("/tmp/whole") && !files.contains_key("/tmp/cut"));
}

#[tokio::test]
async fn command_that_reads_nothing_ends_when_its_caller_leaves() {
    let rig = TestControl::new().await;
    let id = rig.running("one").await;
    let body = json!({"command": ["deaf"], "stdin_b64": STANDARD.encode(vec![b'x'; 1 << 20])});
    let exec = rig.request(Method::POST, &format!("/workspaces/{id}/exec")).json(&body);
    let response = exec.send().await.unwrap();
    assert_eq!(response.status(), 200);
    drop(response);
    eventually("it has ended", || async { rig.guests.running.lock().unwrap().is_empty() }).await;
}
