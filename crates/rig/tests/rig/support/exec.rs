//! Exec of the simulated server, with a few commands that do what their names say.

use axum::Json;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::SharedState;
use super::routes::{not_found, refusal};

fn chunk(stream: &str, data: &[u8]) -> Value {
    json!({"stream": stream, "data_b64": STANDARD.encode(data)})
}

fn failed(code: &str) -> Value {
    json!({"error": {"code": code, "message": "it did not run"}})
}

fn exit(code: i32) -> Value {
    json!({"exit_code": code, "duration_us": 5})
}

/// Returns the messages of a command without input.
fn lines(request: &Value) -> Vec<Value> {
    let Some(words) = request["command"].as_array() else { return vec![exit(0)] };
    let words: Vec<_> = words.iter().map(|word| word.as_str().unwrap()).collect();
    match words[..] {
        ["echo", text] => vec![chunk("stdout", format!("{text}\n").as_bytes()), exit(0)],
        ["both"] => vec![chunk("stdout", b"out"), chunk("stderr", b"err\x1b[0m"), exit(3)],
        ["killed"] => vec![json!({"signal": "KILL", "duration_us": 5})],
        ["torn"] => {
            vec![chunk("stdout", b"a\xc3"), chunk("stdout", b"\xa4b"), chunk("stdout", b"\xff"), exit(0)]
        }
        ["missing" | "missing | head"] => vec![failed("not_found")],
        ["forbidden"] => vec![failed("permission_denied")],
        ["slow"] => vec![failed("timeout")],
        ["big"] => {
            let mut lines: Vec<_> = (0..200u8).map(|i| chunk("stdout", &[i; 60_000])).collect();
            lines.push(exit(0));
            lines
        }
        ["endless"] => Vec::new(),
        _ => vec![exit(0)],
    }
}

pub(crate) async fn request(
    State(state): State<SharedState>,
    Path(id): Path<String>,
    Json(request): Json<Value>,
) -> Response {
    match state.with(|state| {
        state.received.push(request.clone());
        state.workspaces.get(&id).map(|workspace| workspace.status)
    }) {
        None => return not_found(),
        Some("running") => {}
        Some(status) => {
            let message = format!("it is `{status}`");
            return refusal(StatusCode::CONFLICT, "invalid_state", &message, Value::Null);
        }
    }
    let body: String = lines(&request).iter().map(|line| format!("{line}\n")).collect();
    ([("content-type", "application/x-ndjson"), PROCESS], body).into_response()
}

/// Response header with the id of every command.
const PROCESS: (&str, &str) = ("rigbox-process", "pr-aaaaaaaa");

pub(crate) async fn start_process(Json(request): Json<Value>) -> Response {
    if request["command"][0] == "missing" {
        return refusal(StatusCode::NOT_FOUND, "not_found", "`missing` was not found", Value::Null);
    }
    (StatusCode::CREATED, Json(json!({"process": {"id": PROCESS.1}}))).into_response()
}

pub(crate) async fn processes() -> Json<Value> {
    Json(json!({"processes": [{"id": PROCESS.1, "pid": 7, "command": "sleep 9", "user": "developer",
        "detached": true, "status": "ended", "exit_code": 3, "started_at": "2027-01-31T12:00:00Z"}]}))
}

pub(crate) async fn process_output() -> Response {
    let body = format!("{}\n{}\n", chunk("stdout", b"kept\n"), exit(3));
    ([("content-type", "application/x-ndjson")], body).into_response()
}

pub(crate) async fn signal(State(state): State<SharedState>, Json(request): Json<Value>) -> StatusCode {
    state.with(|state| state.received.push(request.clone()));
    let _ = state.signals().send(request["signal"].as_str().unwrap().to_owned());
    StatusCode::NO_CONTENT
}

pub(crate) async fn socket(
    State(state): State<SharedState>,
    Path(id): Path<String>,
    upgrade: WebSocketUpgrade,
) -> Response {
    if !state.with(|state| state.workspaces.contains_key(&id)) {
        return not_found();
    }
    ([PROCESS], upgrade.on_upgrade(|socket| run(state, socket))).into_response()
}

async fn run(state: SharedState, mut socket: WebSocket) {
    let Some(request) = receive(&state, &mut socket).await else { return };
    match request["command"][0].as_str().unwrap() {
        "cat" => {
            while let Some(message) = receive(&state, &mut socket).await {
                if let Some(data) = message["stdin_b64"].as_str() {
                    send(&mut socket, json!({"stream": "stdout", "data_b64": data})).await;
                    // Ctrl-D, as typed in raw mode.
                    if request["tty"] == true && data == STANDARD.encode([4]) {
                        break;
                    }
                } else if message["eof"] == true {
                    break;
                }
            }
            send(&mut socket, exit(0)).await;
        }
        "wait" => {
            let mut signals = state.signals().subscribe();
            send(&mut socket, chunk("stdout", b"waiting\n")).await;
            loop {
                let message = tokio::select! {
                    message = receive(&state, &mut socket) => message,
                    Ok(signal) = signals.recv() => {
                        send(&mut socket, json!({"signal": signal, "duration_us": 5})).await;
                        break;
                    }
                };
                let Some(message) = message else { break };
                if message["resize"].is_object() {
                    send(&mut socket, chunk("stdout", message["resize"].to_string().as_bytes())).await;
                    send(&mut socket, exit(0)).await;
                    break;
                }
            }
        }
        "deaf" => {
            send(&mut socket, chunk("stdout", b"waiting\n")).await;
            while receive(&state, &mut socket).await.is_some() {}
        }
        "hang-up" => {}
        _ => {
            for line in lines(&request) {
                send(&mut socket, line).await;
            }
        }
    }
    let _ = socket.send(Message::Close(None)).await;
}

async fn receive(state: &SharedState, socket: &mut WebSocket) -> Option<Value> {
    loop {
        if let Message::Text(text) = socket.recv().await?.ok()? {
            let message: Value = serde_json::from_str(&text).unwrap();
            state.with(|state| state.received.push(message.clone()));
            return Some(message);
        }
    }
}

async fn send(socket: &mut WebSocket, value: Value) {
    let _ = socket.send(Message::text(value.to_string())).await;
}
