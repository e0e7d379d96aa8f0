//! Terminal in a workspace: the API's WebSocket for commands, with `tty`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::{TcpSocket, TcpStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{ClientRequestBuilder, Message};

use crate::harness::api::Api;

const OPEN_TIMEOUT: Duration = Duration::from_secs(30);

/// Terminal that is read only when [`Terminal::wait_for`] is called.
pub(crate) struct Terminal {
    socket: WebSocketStream<TcpStream>,
    runtime: tokio::runtime::Runtime,
}

impl Terminal {
    /// Opens a terminal with this command in it.
    pub(crate) fn open(api: &Api, id: &str, command: &Value) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let authority = api.url.strip_prefix("http://").context("the API's URL")?;
        let port = authority.rsplit(':').next().context("the API's port")?.parse()?;
        let from = api.from.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
        let url = format!("ws://{authority}/api/v1/workspaces/{id}/exec");
        let request = ClientRequestBuilder::new(url.parse()?)
            .with_header("Authorization", format!("Bearer {}", api.key));
        let opened = async {
            let socket = TcpSocket::new_v4()?;
            socket.bind(SocketAddr::new(from, 0))?;
            let stream = socket.connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await?;
            let (mut socket, _) = tokio_tungstenite::client_async(request, stream).await?;
            let first = json!({"command": command, "tty": true, "rows": 24, "cols": 80});
            socket.send(Message::text(first.to_string())).await?;
            anyhow::Ok(socket)
        };
        let socket = runtime.block_on(async { tokio::time::timeout(OPEN_TIMEOUT, opened).await })??;
        Ok(Self { socket, runtime })
    }

    /// Types a text.
    pub(crate) fn send(&mut self, text: &str) -> Result<()> {
        let message = Message::text(json!({"stdin_b64": BASE64.encode(text)}).to_string());
        Ok(self.runtime.block_on(self.socket.send(message))?)
    }

    /// Reads until the output has `text`.
    pub(crate) fn wait_for(&mut self, text: &str, limit: Duration) -> Result<()> {
        let mut output = Vec::new();
        let socket = &mut self.socket;
        let read = async {
            loop {
                let message = socket.next().await.context("the terminal was closed")??;
                let Message::Text(event) = message else { continue };
                let event: Value = serde_json::from_str(&event)?;
                match event.get("data_b64").and_then(Value::as_str) {
                    Some(data) => output.extend(BASE64.decode(data)?),
                    None => bail!("the terminal ended: {event}"),
                }
                if String::from_utf8_lossy(&output).contains(text) {
                    return Ok(());
                }
            }
        };
        let read = self.runtime.block_on(async { tokio::time::timeout(limit, read).await });
        read.with_context(|| format!("{text:?} is not shown within {limit:?}"))?
    }
}
