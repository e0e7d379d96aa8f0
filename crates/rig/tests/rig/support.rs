//! The real binary, and a simulated server with the documented API. Each request that waits for a workspace moves it to its next state, so
//! that tests do not depend on time.

mod exec;
mod routes;

use std::collections::BTreeMap;
use std::io::Write;
use std::net::SocketAddr;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};

use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::broadcast;

pub(crate) const KEY: &str = "rb_good";

/// State that tests read and change.
#[derive(Default)]
pub(crate) struct ServerState {
    pub(crate) workspaces: BTreeMap<String, Workspace>,
    /// Method and URL of each request.
    pub(crate) requests: Vec<String>,
    /// Number of requests to refuse with 429 first.
    pub(crate) busy_responses: u32,
    pub(crate) emulated: bool,
    /// True if starts, and logins, fail.
    pub(crate) starts_fail: bool,
    /// Idempotency keys.
    pub(crate) idempotency_keys: Vec<String>,
    /// Request bodies and WebSocket messages of clients.
    pub(crate) received: Vec<Value>,
    /// Findings of `GET /doctor`.
    pub(crate) findings: Vec<Value>,
    pub(crate) plan: &'static str,
    /// True if starts take for ever.
    pub(crate) starts_hang: bool,
    /// Limit in `GET /users/me/limits`.
    pub(crate) max_ram_per_vm_mb: Option<u32>,
    /// SSH keys of the account.
    pub(crate) ssh_keys: Vec<Value>,
    /// API key in `GET /users/me`.
    pub(crate) api_key: Option<Value>,
}

pub(crate) struct Workspace {
    pub(crate) name: String,
    pub(crate) status: &'static str,
    pub(crate) deleted: bool,
    /// State of the system while it runs.
    pub(crate) system: &'static str,
    pub(crate) ram_mb: u64,
    pub(crate) vcpus: u64,
    pub(crate) disk_mb: u64,
    pub(crate) env: BTreeMap<String, String>,
}

#[derive(Clone)]
pub(crate) struct SharedState(Arc<Mutex<ServerState>>, broadcast::Sender<String>);

impl Default for SharedState {
    fn default() -> Self {
        Self(Arc::default(), broadcast::channel(16).0)
    }
}

impl SharedState {
    pub(crate) fn with<T>(&self, work: impl FnOnce(&mut ServerState) -> T) -> T {
        work(&mut self.0.lock().unwrap())
    }

    /// Signals that commands are sent.
    pub(crate) fn signals(&self) -> broadcast::Sender<String> {
        self.1.clone()
    }
}

pub(crate) struct Server {
    pub(crate) state: SharedState,
    pub(crate) address: SocketAddr,
    pub(crate) home: TempDir,
    _runtime: tokio::runtime::Runtime,
}

impl Server {
    pub(crate) fn start() -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let state = SharedState::default();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let router = routes::all(state.clone());
        runtime.spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { state, address, home: tempfile::tempdir().unwrap(), _runtime: runtime }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Adds a workspace.
    pub(crate) fn with_workspace(self, id: &str, name: &str, status: &'static str) -> Self {
        let (deleted, system, env) = (false, "running", BTreeMap::new());
        let workspace = Workspace {
            name: name.into(),
            status,
            deleted,
            system,
            ram_mb: 512,
            vcpus: 1,
            disk_mb: 4096,
            env,
        };
        self.state.with(|state| state.workspaces.insert(id.to_owned(), workspace));
        self
    }

    pub(crate) fn command(&self, line: &[&str]) -> Command {
        let mut command = rig(&self.home, line);
        command.env("RIG_API_URL", self.url()).env("RIG_API_KEY", KEY);
        command
    }

    pub(crate) fn run(&self, line: &[&str]) -> CliOutput {
        CliOutput::of(self.command(line).output().unwrap())
    }

    pub(crate) fn json(&self, line: &[&str]) -> CliOutput {
        self.run(&[&["--output", "json"], line].concat())
    }

    /// As [`Self::run`], with stdin.
    pub(crate) fn run_with_input(&self, line: &[&str], input: &str) -> CliOutput {
        let mut command = self.command(line);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // A command that fails may not read it.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        CliOutput::of(child.wait_with_output().unwrap())
    }

    /// As [`Self::json`], with stdin.
    pub(crate) fn json_with_input(&self, line: &[&str], input: &str) -> CliOutput {
        self.run_with_input(&[&["--output", "json"], line].concat(), input)
    }
}

/// Returns a command for the binary, with an empty environment and stdin.
pub(crate) fn rig(home: &TempDir, line: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rig"));
    command.args(line).env_clear().env("HOME", home.path()).stdin(Stdio::null());
    command
}

/// Output and exit code of the binary.
#[derive(Debug)]
pub(crate) struct CliOutput {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl CliOutput {
    pub(crate) fn of(output: Output) -> Self {
        let stderr = String::from_utf8(output.stderr).unwrap();
        Self { code: output.status.code(), stdout: output.stdout, stderr }
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.stdout).unwrap()
    }

    /// Parses stdout, each line of which must be an event.
    pub(crate) fn events(&self) -> Vec<Value> {
        let events: Vec<Value> = self
            .text()
            .lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{self:?}")))
            .collect();
        assert!(events.iter().all(|event| event["event"].is_string()), "{events:?}");
        events
    }

    pub(crate) fn event_names(&self) -> Vec<String> {
        self.events().iter().map(|event| event["event"].as_str().unwrap().to_owned()).collect()
    }
}
