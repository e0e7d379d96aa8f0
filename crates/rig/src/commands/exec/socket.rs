//! Exec over a WebSocket, which carries stdin, signals and the terminal's size in one direction and output in the other.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures_util::stream::SplitSink;
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio_tungstenite::tungstenite::protocol::Message;

use super::end::End;
use super::request::{cannot_handle_signals, process_of};
use super::signals::Signals;
use super::sink::Sink;
use super::{Mode, Request};
use crate::api::{Api, Socket};
use crate::failure::Failure;
use crate::terminal::{self, RawMode};

/// Limit for stdin per message.
const MAX_CHUNK_BYTES: usize = 64 * 1024;
/// Length of the queue of messages to send; short, so that stdin is not read far ahead of the command.
const QUEUE_LEN: usize = 4;

pub(super) async fn run(
    api: &Api,
    workspace: &str,
    request: &Request,
    mode: Mode,
    input: impl AsyncRead + Send + Unpin + 'static,
    sink: &mut Sink<'_>,
) -> Result<End, Failure> {
    let signals = Signals::take().map_err(cannot_handle_signals)?;
    let open = async |id: &str| Ok((id.to_owned(), api.websocket(&["workspaces", id, "exec"]).await?));
    let (id, (socket, headers)) = api.with_id(workspace, open).await?;
    let process = process_of(&headers);
    let (mut to_server, mut from_server) = socket.split();
    #[expect(clippy::disallowed_methods, reason = "messages of one command")]
    let (messages, queue) = channel(QUEUE_LEN);
    let first = serde_json::to_string(request).unwrap_or_default();
    to_server.send(Message::text(first)).await.map_err(|error| lost(&error))?;
    let _raw = mode.raw.then(RawMode::enter).transpose().map_err(|error| {
        Failure::new("no_terminal", format!("cannot put the terminal into raw mode: {error}"))
    })?;
    tokio::spawn(send_queue(queue, to_server));
    if mode.tty {
        forward_sizes(messages.clone());
    }
    if mode.forward {
        tokio::spawn(forward_stdin(input, messages));
    } else if !mode.tty {
        let _ = messages.send(json!({"eof": true})).await;
    }
    let read = async {
        while let Some(message) = from_server.next().await {
            if let Message::Text(text) = message.map_err(|error| lost(&error))?
                && let Some(end) = sink.handle(text.as_bytes()).await?
            {
                return Ok(end);
            }
        }
        Err(lost(&"closed by the server"))
    };
    tokio::select! {
        end = read => end,
        end = signals.forward(api, &id, process.as_deref()) => Ok(end),
    }
}

fn lost(problem: &dyn std::fmt::Display) -> Failure {
    Failure::new("connection_lost", format!("lost the connection to the command: {problem}"))
}

/// Sends queued messages in order. The reader notices when the server has gone.
async fn send_queue(mut queue: Receiver<Value>, mut to_server: SplitSink<Socket, Message>) {
    while let Some(value) = queue.recv().await {
        if to_server.send(Message::text(value.to_string())).await.is_err() {
            return;
        }
    }
}

async fn forward_stdin(mut stdin: impl AsyncRead + Unpin, messages: Sender<Value>) {
    let mut chunk = vec![0; MAX_CHUNK_BYTES];
    loop {
        let message = match stdin.read(&mut chunk).await {
            Ok(length @ 1..) => {
                json!({"stdin_b64": STANDARD.encode(chunk.get(..length).unwrap_or_default())})
            }
            Ok(0) | Err(_) => json!({"eof": true}),
        };
        let last = message.get("eof").is_some();
        if messages.send(message).await.is_err() || last {
            return;
        }
    }
}

fn forward_sizes(messages: Sender<Value>) {
    tokio::spawn(async move {
        let Ok(mut changes) = signal(SignalKind::window_change()) else { return };
        while changes.recv().await.is_some() {
            let Some(size) = terminal::size() else { continue };
            if messages.send(json!({"resize": {"rows": size.rows, "cols": size.cols}})).await.is_err() {
                return;
            }
        }
    });
}
