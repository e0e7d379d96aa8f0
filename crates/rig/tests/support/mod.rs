//! The real binary, and a small server that speaks the documented API. A workspace moves on by one state each time it
//! is waited for, so that what a test sees does not depend on time.

#![allow(dead_code)]

mod exec;
mod routes;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};

use serde_json::Value;
use tempfile::TempDir;

pub const KEY: &str = "rb_good";

/// What a test may look at and change.
#[derive(Default)]
pub struct World {
    pub workspaces: BTreeMap<String, Workspace>,
    /// Method and URL of each request.
    pub seen: Vec<String>,
    /// So many requests are refused with 429 first.
    pub busy: u32,
    /// Starts end in `failed`.
    pub broken: bool,
    /// Idempotency keys.
    pub once: Vec<String>,
    /// What clients said over WebSockets, and the request of the last exec.
    pub said: Vec<Value>,
    /// `GET /doctor`'s findings.
    pub findings: Vec<Value>,
    pub plan: &'static str,
}

pub struct Workspace {
    pub name: String,
    pub status: &'static str,
    pub deleted: bool,
    pub ram_mb: u64,
    pub vcpus: u64,
    pub disk_mb: u64,
}

#[derive(Clone, Default)]
pub struct Shared(Arc<Mutex<World>>);

impl Shared {
    pub fn with<T>(&self, look: impl FnOnce(&mut World) -> T) -> T {
        look(&mut self.0.lock().unwrap())
    }
}

pub struct Server {
    pub world: Shared,
    pub address: SocketAddr,
    pub home: TempDir,
    _runtime: tokio::runtime::Runtime,
}

impl Server {
    pub fn start() -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let world = Shared::default();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let router = routes::all(world.clone());
        runtime.spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { world, address, home: tempfile::tempdir().unwrap(), _runtime: runtime }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// With a workspace in a state.
    pub fn with_workspace(self, id: &str, name: &str, status: &'static str) -> Self {
        let workspace =
            Workspace { name: name.into(), status, deleted: false, ram_mb: 512, vcpus: 1, disk_mb: 4096 };
        self.world.with(|world| world.workspaces.insert(id.to_owned(), workspace));
        self
    }

    pub fn command(&self, line: &[&str]) -> Command {
        let mut command = rig(&self.home, line);
        command.env("RIG_API_URL", self.url()).env("RIG_API_KEY", KEY);
        command
    }

    pub fn run(&self, line: &[&str]) -> Ended {
        Ended::of(self.command(line).output().unwrap())
    }

    pub fn json(&self, line: &[&str]) -> Ended {
        self.run(&[&["--output", "json"], line].concat())
    }
}

/// The binary, with nobody at stdin and an environment of its own.
pub fn rig(home: &TempDir, line: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rig"));
    command.args(line).env_clear().env("HOME", home.path()).stdin(Stdio::null());
    command
}

/// How the binary ended.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

impl Ended {
    pub fn of(output: Output) -> Self {
        let stderr = String::from_utf8(output.stderr).unwrap();
        Self { code: output.status.code(), stdout: output.stdout, stderr }
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.stdout).unwrap()
    }

    /// Each line of stdout must be an event.
    pub fn events(&self) -> Vec<Value> {
        let events: Vec<Value> = self
            .text()
            .lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{self:?}")))
            .collect();
        assert!(events.iter().all(|event| event["event"].is_string()), "{events:?}");
        events
    }

    pub fn event_names(&self) -> Vec<String> {
        self.events().iter().map(|event| event["event"].as_str().unwrap().to_owned()).collect()
    }
}
