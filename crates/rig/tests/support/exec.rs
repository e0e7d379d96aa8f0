//! Commands of the small server's workspaces. There are few, and they do what their names say.

use axum::Json;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::Shared;
use super::routes::{not_found, refusal};

fn piece(stream: &str, data: &[u8]) -> Value {
    json!({"stream": stream, "data_b64": STANDARD.encode(data)})
}

fn exit(code: i32) -> Value {
    json!({"exit_code": code, "duration_us": 5})
}

/// What a command says that wants no input.
fn lines(request: &Value) -> Vec<Value> {
    let words: Vec<_> =
        request["command"].as_array().unwrap().iter().map(|word| word.as_str().unwrap()).collect();
    match words[..] {
        ["echo", text] => vec![piece("stdout", format!("{text}\n").as_bytes()), exit(0)],
        ["both"] => vec![piece("stdout", b"out"), piece("stderr", b"err\x1b[0m"), exit(3)],
        ["killed"] => vec![json!({"signal": "KILL", "duration_us": 5})],
        ["torn"] => {
            vec![piece("stdout", b"a\xc3"), piece("stdout", b"\xa4b"), piece("stdout", b"\xff"), exit(0)]
        }
        ["missing"] => vec![json!({"error": {"code": "not_found", "message": "`missing` was not found"}})],
        ["big"] => {
            let mut lines: Vec<_> = (0..200u8).map(|i| piece("stdout", &[i; 60_000])).collect();
            lines.push(exit(0));
            lines
        }
        ["endless"] => Vec::new(),
        _ => vec![exit(0)],
    }
}

pub(crate) async fn plain(
    State(world): State<Shared>,
    Path(id): Path<String>,
    Json(request): Json<Value>,
) -> Response {
    match world.with(|world| {
        world.said.push(request.clone());
        world.workspaces.get(&id).map(|workspace| workspace.status)
    }) {
        None => return not_found(),
        Some("running") => {}
        Some(status) => {
            let message = format!("it is `{status}`");
            return refusal(StatusCode::CONFLICT, "invalid_state", &message, Value::Null);
        }
    }
    let body: String = lines(&request).iter().map(|line| format!("{line}\n")).collect();
    ([("content-type", "application/x-ndjson")], body).into_response()
}

pub(crate) async fn socket(
    State(world): State<Shared>,
    Path(id): Path<String>,
    upgrade: WebSocketUpgrade,
) -> Response {
    if !world.with(|world| world.workspaces.contains_key(&id)) {
        return not_found();
    }
    upgrade.on_upgrade(|socket| converse(world, socket))
}

async fn converse(world: Shared, mut socket: WebSocket) {
    let Some(request) = hear(&world, &mut socket).await else { return };
    match request["command"][0].as_str().unwrap() {
        "cat" => {
            while let Some(said) = hear(&world, &mut socket).await {
                if let Some(data) = said["stdin_b64"].as_str() {
                    say(&mut socket, json!({"stream": "stdout", "data_b64": data})).await;
                    // What a person types in raw mode: Ctrl-D.
                    if request["tty"] == true && data == STANDARD.encode([4]) {
                        break;
                    }
                } else if said["eof"] == true {
                    break;
                }
            }
            say(&mut socket, exit(0)).await;
        }
        "wait" => {
            say(&mut socket, piece("stdout", b"waiting\n")).await;
            while let Some(said) = hear(&world, &mut socket).await {
                if let Some(signal) = said["signal"].as_str() {
                    say(&mut socket, json!({"signal": signal, "duration_us": 5})).await;
                    break;
                }
                if said["resize"].is_object() {
                    say(&mut socket, piece("stdout", said["resize"].to_string().as_bytes())).await;
                    say(&mut socket, exit(0)).await;
                    break;
                }
            }
        }
        "hang-up" => {}
        _ => {
            for line in lines(&request) {
                say(&mut socket, line).await;
            }
        }
    }
    let _ = socket.send(Message::Close(None)).await;
}

async fn hear(world: &Shared, socket: &mut WebSocket) -> Option<Value> {
    loop {
        if let Message::Text(text) = socket.recv().await?.ok()? {
            let said: Value = serde_json::from_str(&text).unwrap();
            world.with(|world| world.said.push(said.clone()));
            return Some(said);
        }
    }
}

async fn say(socket: &mut WebSocket, value: Value) {
    let _ = socket.send(Message::text(value.to_string())).await;
}
