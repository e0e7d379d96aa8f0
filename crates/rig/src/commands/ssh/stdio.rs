//! `rig ssh --stdio`: an SSH connection over the API, between this process's stdin and stdout, as a `ProxyCommand`.

use bytes::{Bytes, BytesMut};
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::tungstenite::protocol::Message;

use crate::api::Api;
use crate::failure::Failure;

const CHUNK_BYTES: usize = 64 * 1024;

pub(super) async fn run(api: &Api, workspace: &str) -> Result<u8, Failure> {
    let open = async |id: &str| api.websocket(&["workspaces", id, "ssh", "stream"]).await;
    let (socket, _) = api.with_id(workspace, open).await?;
    let (mut to_server, mut from_server) = socket.split();
    let sent = async {
        let (mut stdin, mut buffer) = (tokio::io::stdin(), BytesMut::new());
        loop {
            buffer.reserve(CHUNK_BYTES);
            match stdin.read_buf(&mut buffer).await {
                Ok(1..) => to_server.send(Message::Binary(buffer.split().freeze())).await.map_err(lost)?,
                Ok(0) | Err(_) => {
                    let _ = to_server.close().await;
                    return Ok::<_, Failure>(());
                }
            }
        }
    };
    let received = async {
        let mut stdout = tokio::io::stdout();
        while let Some(message) = from_server.next().await {
            let bytes: Bytes = match message.map_err(lost)? {
                Message::Binary(bytes) => bytes,
                Message::Close(Some(frame)) if !frame.reason.is_empty() => {
                    return Err(Failure::new("connection_lost", frame.reason.to_string()));
                }
                Message::Close(_) => break,
                _ => continue,
            };
            // Nobody reads any longer.
            if stdout.write_all(&bytes).await.is_err() || stdout.flush().await.is_err() {
                break;
            }
        }
        Ok(())
    };
    tokio::select! {
        sent = sent => sent?,
        received = received => received?,
    }
    Ok(0)
}

fn lost(error: tokio_tungstenite::tungstenite::Error) -> Failure {
    Failure::new("connection_lost", format!("lost the connection to the server: {error}"))
}
