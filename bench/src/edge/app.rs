//! App behind both proxies: nginx for requests and the large file, and a small server of idle WebSockets.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::process::free_port;
use crate::host;
use crate::nginx::Process;

/// Limit for the head of a request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(50);

pub(super) struct App {
    _nginx: Process,
    _runtime: tokio::runtime::Runtime,
    port: u16,
    websockets: u16,
}

impl App {
    /// Starts it, with a file of `size` bytes at `/large`.
    pub(super) fn start(folder: &Path, size: u64) -> Result<Self> {
        let root = folder.join("root");
        fs::create_dir_all(&root)?;
        // Sparse, so that reads return pages of zeros.
        fs::File::create(root.join("large"))?.set_len(size)?;
        let address = free_port()?;
        let servers = format!(
            "server {{ listen {} reuseport; root {};\n\
             location = / {{ default_type text/plain; return 200 \"0123456789abcdef0123456789abcdef\"; }}\n\
             location = /auth {{ add_header X-User bench; return 204; }} }}\n",
            address.port(),
            root.display()
        );
        let nginx = Process::start(&folder.join("app"), &servers)?;
        host::wait_listening(address, "the app")?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
        let websockets = listener.local_addr()?.port();
        runtime.spawn(async move {
            loop {
                match listener.accept().await {
                    Ok((stream, _)) => drop(tokio::spawn(websocket(stream))),
                    // Descriptors of the last measurement are still being closed.
                    Err(_) => tokio::time::sleep(ACCEPT_RETRY_DELAY).await,
                }
            }
        });
        Ok(Self { _nginx: nginx, _runtime: runtime, port: address.port(), websockets })
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    pub(super) fn websockets(&self) -> u16 {
        self.websockets
    }
}

/// Accepts a WebSocket and keeps it open until the client closes it.
async fn websocket(mut stream: TcpStream) -> std::io::Result<()> {
    {
        let mut head = Vec::new();
        let whole = async {
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await?);
            }
            Ok::<_, std::io::Error>(())
        };
        tokio::time::timeout(HEAD_TIMEOUT, whole).await??;
    }
    let response = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
    stream.write_all(response).await?;
    let mut rest = [0; 16];
    while stream.read(&mut rest).await? > 0 {}
    Ok(())
}
