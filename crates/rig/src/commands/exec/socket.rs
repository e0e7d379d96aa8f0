//! The conversation over a WebSocket: stdin, signals and the terminal's size go there while output comes from there.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures_util::stream::SplitSink;
use futures_util::{SinkExt, StreamExt};
use reqwest::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE};
use reqwest::{Method, StatusCode, Upgraded};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Message, Role};

use super::end::End;
use super::sink::Sink;
use super::{Manner, Request};
use crate::api::{Api, ApiError};
use crate::failure::Failure;
use crate::terminal::{self, RawMode};

type Socket = WebSocketStream<Upgraded>;

/// As much of stdin as goes into one message.
const PIECE: usize = 64 * 1024;
/// Messages that wait to be sent: few, so that what we read from stdin is not far ahead of the command.
const WAITING: usize = 4;

pub(super) async fn run(
    api: &Api,
    workspace: &str,
    request: &Request,
    manner: Manner,
    sink: &mut Sink<'_>,
) -> Result<End, Failure> {
    let socket = api.with_id(workspace, async |id: &str| open(api, id).await).await?;
    let (mut to_server, mut from_server) = socket.split();
    // From here on signals are the command's, even one that comes before it runs.
    let (say, waiting) = channel(WAITING);
    say_signals(&say)
        .map_err(|error| Failure::new("internal", format!("no signals can be caught: {error}")))?;
    let first = serde_json::to_string(request).unwrap_or_default();
    to_server.send(Message::text(first)).await.map_err(|error| lost(&error))?;
    let _raw = manner.raw.then(RawMode::enter).transpose().map_err(|error| {
        Failure::new("no_terminal", format!("the terminal cannot be given to the command: {error}"))
    })?;
    tokio::spawn(carry(waiting, to_server));
    if manner.tty {
        say_sizes(say.clone());
    }
    if manner.forward {
        tokio::spawn(say_stdin(say));
    } else if !manner.tty {
        let _ = say.send(json!({"eof": true})).await;
    }
    while let Some(message) = from_server.next().await {
        if let Message::Text(text) = message.map_err(|error| lost(&error))?
            && let Some(end) = sink.take(text.as_bytes()).await?
        {
            return Ok(end);
        }
    }
    Err(lost(&"the server hung up"))
}

/// Opened by hand over the client that all requests go through, so that certificates, key and refusals are the same.
async fn open(api: &Api, id: &str) -> Result<Socket, ApiError> {
    let key = generate_key();
    let request = api
        .request(Method::GET, &["workspaces", id, "exec"], &[])?
        .header(CONNECTION, "Upgrade")
        .header(UPGRADE, "websocket")
        .header(SEC_WEBSOCKET_VERSION, "13")
        .header(SEC_WEBSOCKET_KEY, &key);
    let response = api.open(request).await?;
    let accepted = response.headers().get(SEC_WEBSOCKET_ACCEPT).map(|value| value.as_bytes());
    if response.status() != StatusCode::SWITCHING_PROTOCOLS
        || accepted != Some(derive_accept_key(key.as_bytes()).as_bytes())
    {
        let message = "the server, or something before it, does not do WebSockets".to_owned();
        return Err(ApiError::Strange { message });
    }
    let upgraded = response.upgrade().await.map_err(|error| api.unreachable(&error))?;
    Ok(WebSocketStream::from_raw_socket(upgraded, Role::Client, None).await)
}

fn lost(problem: &dyn std::fmt::Display) -> Failure {
    Failure::new("connection_lost", format!("the command's end was not seen: {problem}"))
}

/// Sends what is said, in its order. That the server is gone is seen by those who read from it.
async fn carry(mut waiting: Receiver<Value>, mut to_server: SplitSink<Socket, Message>) {
    while let Some(value) = waiting.recv().await {
        if to_server.send(Message::text(value.to_string())).await.is_err() {
            return;
        }
    }
}

async fn say_stdin(say: Sender<Value>) {
    let mut stdin = tokio::io::stdin();
    let mut piece = vec![0; PIECE];
    loop {
        let message = match stdin.read(&mut piece).await {
            Ok(length @ 1..) => {
                json!({"stdin_b64": STANDARD.encode(piece.get(..length).unwrap_or_default())})
            }
            Ok(0) | Err(_) => json!({"eof": true}),
        };
        let last = message.get("eof").is_some();
        if say.send(message).await.is_err() || last {
            return;
        }
    }
}

/// What is sent to us is meant for the command. `QUIT` is not passed on: it is the way out when the server hangs.
fn say_signals(say: &Sender<Value>) -> std::io::Result<()> {
    let kinds =
        [("INT", SignalKind::interrupt()), ("TERM", SignalKind::terminate()), ("HUP", SignalKind::hangup())];
    for (name, kind) in kinds {
        let (mut signals, say) = (signal(kind)?, say.clone());
        tokio::spawn(async move {
            while signals.recv().await.is_some() && say.send(json!({"signal": name})).await.is_ok() {}
        });
    }
    Ok(())
}

fn say_sizes(say: Sender<Value>) {
    tokio::spawn(async move {
        let Ok(mut changes) = signal(SignalKind::window_change()) else { return };
        while changes.recv().await.is_some() {
            let Some(size) = terminal::size() else { continue };
            if say.send(json!({"resize": {"rows": size.rows, "cols": size.cols}})).await.is_err() {
                return;
            }
        }
    });
}
