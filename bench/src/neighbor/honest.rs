//! Honest tenant of the benchmark: the calls that are measured.

use std::fmt;
use std::io::Read;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::json;

use super::hostile::Terminal;
use crate::http::Connection;
use crate::installation::Installation;
use crate::report::median;
use crate::workspaces::Workspaces;

/// Calls of a kind in one round, of which the median counts.
const CALLS: usize = 9;
const APP: &str = "bench-honest";
const LISTEN_TIMEOUT: Duration = Duration::from_secs(60);

/// Times of one round.
pub(super) struct Times {
    pub(super) exec_ms: f64,
    pub(super) app_ms: f64,
    pub(super) echo_ms: f64,
    pub(super) spawn_s: f64,
}

impl fmt::Display for Times {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { exec_ms, app_ms, echo_ms, spawn_s } = self;
        write!(
            formatter,
            "exec {exec_ms:.1} ms, app {app_ms:.1} ms, echo {echo_ms:.1} ms, spawn {spawn_s:.2} s"
        )
    }
}

/// A workspace with an app.
pub(super) struct Honest<'a> {
    installation: &'a Installation,
    key: String,
    api: Workspaces,
    id: String,
    spawned: usize,
}

impl<'a> Honest<'a> {
    pub(super) fn new(installation: &'a Installation, key: &str) -> Result<Self> {
        let mut api = Workspaces::connect(installation.port(), key)?;
        let id = api.spawn(&format!("bench-honest-{}", std::process::id()))?;
        let serve = "mkdir -p site && cd site && echo hello > index.html && \
                     setsid nohup python3 -m http.server 8000 > /dev/null 2>&1 < /dev/null &";
        api.text_of(&id, &json!(serve))?;
        api.create_app(&id, APP, 8000)?;
        let honest = Self { installation, key: key.to_owned(), api, id, spawned: 0 };
        let deadline = Instant::now() + LISTEN_TIMEOUT;
        while let Err(error) = honest.request_app() {
            anyhow::ensure!(Instant::now() < deadline, "the app does not answer: {error:#}");
            std::thread::sleep(Duration::from_millis(200));
        }
        Ok(honest)
    }

    /// Measures each kind of call.
    pub(super) fn measure(&mut self) -> Result<Times> {
        // The API closes a connection that was idle while the neighbor started.
        self.api = Workspaces::connect(self.installation.port(), &self.key)?;
        let mut terminal = Terminal::open(self.installation.port(), &self.key, &self.id, &json!(["cat"]))?;
        terminal.echo("first")?;
        let (mut execs, mut requests, mut echoes) = (Vec::new(), Vec::new(), Vec::new());
        for call in 0..CALLS {
            execs.push(milliseconds(|| self.api.exec(&self.id, &json!(["true"]), |_| {}).map(drop))?);
            requests.push(milliseconds(|| self.request_app())?);
            echoes.push(milliseconds(|| terminal.echo(&format!("word-{call}-")))?);
        }
        let spawn_s = self.spawn()?;
        Ok(Times {
            exec_ms: median(&mut execs),
            app_ms: median(&mut requests),
            echo_ms: median(&mut echoes),
            spawn_s,
        })
    }

    /// Requests the app's page over a new connection.
    fn request_app(&self) -> Result<()> {
        let mut edge = Connection::to_app(self.installation.apps_port(), APP, &self.key)?;
        let (status, mut body) = edge.send("GET", "/", b"")?;
        let mut page = String::new();
        body.read_to_string(&mut page)?;
        anyhow::ensure!(status == 200 && page == "hello\n", "{status}: {page}");
        Ok(())
    }

    /// Returns the time until a new workspace has output, in seconds. The workspace is deleted.
    fn spawn(&mut self) -> Result<f64> {
        self.spawned += 1;
        let name = format!("bench-beside-{}-{}", std::process::id(), self.spawned);
        let started = Instant::now();
        let id = self.api.spawn(&name)?;
        self.api.text_of(&id, &json!(["echo", "hello"]))?;
        let seconds = started.elapsed().as_secs_f64();
        self.api.delete(&id)?;
        Ok(seconds)
    }
}

fn milliseconds(call: impl FnOnce() -> Result<()>) -> Result<f64> {
    let started = Instant::now();
    call()?;
    Ok(started.elapsed().as_secs_f64() * 1e3)
}
