//! Neighbor of the benchmark: a VM that computes, or does every kind of harm at once that leaves it able to go on.

use std::io::Read;
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::{self, ClientRequestBuilder, Message, WebSocket};

use crate::http::Connection;

/// The program of the suite's hostile tenant.
const PROGRAM: &str = include_str!("../../../tests/src/security/neighbors/hostile.py");
/// Floods, from inside the VM.
const FLOODS: [&str; 3] = ["dns", "conntrack", "refusals"];
/// Time after which a neighbor is quiet by itself.
const MAX_SECONDS: u32 = 180;
// Together one workspace's share of commands, 64.
const STALLED: usize = 41;
const UNREAD: usize = 12;
const TERMINALS: usize = 8;
/// Below one address's share of the API's connections with all the others.
const LOGS: usize = 120;
/// More than all windows between a caller and a command that does not read.
const STDIN_BYTES: usize = 1 << 20;
const READ_TIMEOUT: Duration = Duration::from_secs(60);

/// The neighbor's workspace.
pub(super) struct Neighbor {
    port: u16,
    key: String,
    id: String,
}

/// Connections on which a load depends; it ends when this is dropped.
pub(super) struct Load {
    _requests: Vec<Connection>,
    _terminals: Vec<Terminal>,
}

impl Neighbor {
    pub(super) fn new(port: u16, key: &str, id: String) -> Result<Self> {
        let neighbor = Self { port, key: key.to_owned(), id };
        let program = STANDARD.encode(PROGRAM);
        let write = format!("echo {program} | base64 -d > /root/hostile.py && echo begun");
        neighbor.exec(&json!({"command": write, "user": "root"}), true)?;
        Ok(neighbor)
    }

    /// Starts a loop without calls.
    pub(super) fn computes(&self) -> Result<Load> {
        let command = "echo begun; while :; do :; done";
        let request = json!({"command": command, "timeout_s": MAX_SECONDS});
        Ok(Load { _requests: vec![self.exec(&request, true)?], _terminals: Vec::new() })
    }

    /// Starts all harm.
    pub(super) fn harms(&self) -> Result<Load> {
        let stdin = STANDARD.encode(vec![0; STDIN_BYTES]);
        let stalled = json!({"command": ["sleep", "600"], "stdin_b64": stdin, "timeout_s": MAX_SECONDS});
        let unread = json!({"command": ["yes"], "timeout_s": MAX_SECONDS});
        let mut requests = Vec::new();
        for _ in 0..STALLED {
            requests.push(self.exec(&stalled, false)?);
        }
        for _ in 0..UNREAD {
            requests.push(self.exec(&unread, false)?);
        }
        for _ in 0..LOGS {
            requests.push(self.request("GET", "logs/stream", b"")?);
        }
        let yes = json!(["timeout", MAX_SECONDS.to_string(), "yes"]);
        let terminals = (0..TERMINALS).map(|_| Terminal::open(self.port, &self.key, &self.id, &yes));
        let terminals = terminals.collect::<Result<_>>()?;
        for kind in FLOODS {
            let command = format!("exec python3 /root/hostile.py {kind} {MAX_SECONDS}");
            let request = json!({"command": command, "user": "root", "timeout_s": MAX_SECONDS});
            requests.push(self.exec(&request, true)?);
        }
        Ok(Load { _requests: requests, _terminals: terminals })
    }

    /// Starts a command, and waits for its first output if it says that it has begun.
    fn exec(&self, request: &Value, says_begun: bool) -> Result<Connection> {
        let mut connection = Connection::open(self.port, &self.key)?;
        let path = format!("/api/v1/workspaces/{}/exec", self.id);
        let (status, mut body) = connection.send("POST", &path, request.to_string().as_bytes())?;
        anyhow::ensure!(status == 200, "exec: {status}");
        if says_begun {
            let mut first = [0; 4096];
            let count = body.read(&mut first)?;
            let output = String::from_utf8_lossy(first.get(..count).unwrap_or_default()).into_owned();
            anyhow::ensure!(output.contains("stdout"), "the neighbor does not begin: {output}");
        }
        Ok(connection)
    }

    /// Sends a request, whose response is not read.
    fn request(&self, method: &str, route: &str, body: &[u8]) -> Result<Connection> {
        let mut connection = Connection::open(self.port, &self.key)?;
        let (status, _) =
            connection.send(method, &format!("/api/v1/workspaces/{}/{route}", self.id), body)?;
        anyhow::ensure!(status == 200, "{route}: {status}");
        Ok(connection)
    }
}

/// Terminal in a workspace, read only by [`Self::echo`].
pub(super) struct Terminal(WebSocket<TcpStream>);

impl Terminal {
    pub(super) fn open(port: u16, key: &str, id: &str, command: &Value) -> Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(READ_TIMEOUT))?;
        let url = format!("ws://localhost:{port}/api/v1/workspaces/{id}/exec");
        let request =
            ClientRequestBuilder::new(url.parse()?).with_header("Authorization", format!("Bearer {key}"));
        let (mut socket, _) =
            tungstenite::client(request, stream).map_err(|error| anyhow::anyhow!("{error}"))?;
        socket.send(Message::text(json!({"command": command, "tty": true}).to_string()))?;
        Ok(Self(socket))
    }

    /// Types a line, and waits until the terminal shows it.
    pub(super) fn echo(&mut self, word: &str) -> Result<()> {
        let typed = STANDARD.encode(format!("{word}\n"));
        self.0.send(Message::text(json!({"stdin_b64": typed}).to_string()))?;
        let mut shown = Vec::new();
        loop {
            let Message::Text(event) = self.0.read()? else { continue };
            let event: Value = serde_json::from_str(&event)?;
            let Some(data) = event.get("data_b64").and_then(Value::as_str) else {
                bail!("the terminal ended: {event}")
            };
            shown.extend(STANDARD.decode(data).context("not base64")?);
            // Twice: by the terminal, and by the program in it.
            if String::from_utf8_lossy(&shown).matches(word).count() == 2 {
                return Ok(());
            }
        }
    }
}
