//! The real binary, and a small server that speaks the documented API. A workspace moves on by one state each time it
//! is waited for, so that what a test sees does not depend on time.

#![allow(dead_code)] // Each test binary uses its part.

mod exec;
mod routes;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};

use serde_json::Value;
use tempfile::TempDir;

pub(crate) const KEY: &str = "rb_good";

/// What a test may look at and change.
#[derive(Default)]
pub(crate) struct World {
    pub(crate) workspaces: BTreeMap<String, Workspace>,
    /// Method and URL of each request.
    pub(crate) seen: Vec<String>,
    /// So many requests are refused with 429 first.
    pub(crate) busy: u32,
    /// Starts end in `failed`.
    pub(crate) broken: bool,
    /// Idempotency keys.
    pub(crate) once: Vec<String>,
    /// What clients said over WebSockets, and the request of the last exec.
    pub(crate) said: Vec<Value>,
    /// `GET /doctor`'s findings.
    pub(crate) findings: Vec<Value>,
    pub(crate) plan: &'static str,
}

pub(crate) struct Workspace {
    pub(crate) name: String,
    pub(crate) status: &'static str,
    pub(crate) deleted: bool,
    pub(crate) ram_mb: u64,
    pub(crate) vcpus: u64,
    pub(crate) disk_mb: u64,
    pub(crate) env: BTreeMap<String, String>,
}

#[derive(Clone, Default)]
pub(crate) struct Shared(Arc<Mutex<World>>);

impl Shared {
    pub(crate) fn with<T>(&self, look: impl FnOnce(&mut World) -> T) -> T {
        look(&mut self.0.lock().unwrap())
    }
}

pub(crate) struct Server {
    pub(crate) world: Shared,
    pub(crate) address: SocketAddr,
    pub(crate) home: TempDir,
    _runtime: tokio::runtime::Runtime,
}

impl Server {
    pub(crate) fn start() -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let world = Shared::default();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let router = routes::all(world.clone());
        runtime.spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { world, address, home: tempfile::tempdir().unwrap(), _runtime: runtime }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// With a workspace in a state.
    pub(crate) fn with_workspace(self, id: &str, name: &str, status: &'static str) -> Self {
        let (deleted, env) = (false, BTreeMap::new());
        let workspace =
            Workspace { name: name.into(), status, deleted, ram_mb: 512, vcpus: 1, disk_mb: 4096, env };
        self.world.with(|world| world.workspaces.insert(id.to_owned(), workspace));
        self
    }

    pub(crate) fn command(&self, line: &[&str]) -> Command {
        let mut command = rig(&self.home, line);
        command.env("RIG_API_URL", self.url()).env("RIG_API_KEY", KEY);
        command
    }

    pub(crate) fn run(&self, line: &[&str]) -> Ended {
        Ended::of(self.command(line).output().unwrap())
    }

    pub(crate) fn json(&self, line: &[&str]) -> Ended {
        self.run(&[&["--output", "json"], line].concat())
    }
}

/// The binary, with nobody at stdin and an environment of its own.
pub(crate) fn rig(home: &TempDir, line: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rig"));
    command.args(line).env_clear().env("HOME", home.path()).stdin(Stdio::null());
    command
}

/// How the binary ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl Ended {
    pub(crate) fn of(output: Output) -> Self {
        let stderr = String::from_utf8(output.stderr).unwrap();
        Self { code: output.status.code(), stdout: output.stdout, stderr }
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.stdout).unwrap()
    }

    /// Each line of stdout must be an event.
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
