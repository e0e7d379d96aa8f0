//! Benchmark `api`: the list of the caller's workspaces, beside the same handler without authorization, and among many workspaces of other
//! users beside few.

use anyhow::{Context, Result};
use rigbox_testkit::report::{Measure, Target, median, progress};

use crate::host;

mod database;
mod load;
mod server;

pub(crate) use server::serve;

use database::Database;
use load::Load;
use server::Server;

/// Workspaces of other users.
const SMALL_DATABASE: u32 = 100;
const LARGE_DATABASE: u32 = 1_000_000;
/// Requests per server and round.
const REQUESTS: u32 = 40_000;
/// Requests before the measurement.
const WARM_UP: u32 = 10_000;

/// Server under load.
struct Side {
    server: Server,
    /// Requests, with a key unless the server is bare.
    load: Load,
    per_second: Vec<f64>,
    p99_ms: Vec<f64>,
    /// CPU time of the server per request.
    cpu_us: Vec<f64>,
}

impl Side {
    fn new(server: Server, key: Option<&str>) -> Result<Self> {
        let load = Load::new(server.port(), "/api/v1/workspaces", key);
        load.run(WARM_UP)?;
        Ok(Self { server, load, per_second: Vec::new(), p99_ms: Vec::new(), cpu_us: Vec::new() })
    }

    fn round(&mut self) -> Result<()> {
        let before = host::cpu_time(self.server.pid())?;
        let result = self.load.run(REQUESTS).with_context(|| self.server.name())?;
        let cpu_us = (host::cpu_time(self.server.pid())? - before) * 1e6 / f64::from(REQUESTS);
        self.cpu_us.push(cpu_us);
        self.per_second.push(result.per_second);
        self.p99_ms.push(result.p99_ms);
        progress(&format!(
            "{}: {:.0} requests/s, p50 {:.2} ms, p99 {:.2} ms, {cpu_us:.0} us of the server's CPU time each",
            self.server.name(),
            result.per_second,
            result.p50_ms,
            result.p99_ms
        ));
        Ok(())
    }
}

/// Runs the benchmark, with progress on standard error.
pub(crate) fn measure(rounds: u32) -> Result<Vec<Measure>> {
    let folder = tempfile::Builder::new().prefix("rigbox-bench-").tempdir()?;
    progress(&format!("databases with {SMALL_DATABASE} and {LARGE_DATABASE} workspaces of other users"));
    let few = Database::create(&folder.path().join("few"), SMALL_DATABASE)?;
    let many = Database::create(&folder.path().join("many"), LARGE_DATABASE)?;
    let mut whole = Side::new(Server::start("whole", &few, false)?, Some(&few.key))?;
    let mut bare = Side::new(Server::start("bare", &few, true)?, None)?;
    let mut among_many = Side::new(Server::start("among many", &many, false)?, Some(&many.key))?;
    for round in 1..=rounds {
        progress(&format!("round {round} of {rounds}"));
        for side in [&mut whole, &mut bare, &mut among_many] {
            side.round()?;
        }
    }
    let [ours, theirs, crowded] =
        [&mut whole, &mut bare, &mut among_many].map(|side| median(&mut side.per_second));
    let p99 = |side: &mut Side| median(&mut side.p99_ms);
    let each = |per_second: f64| 1e6 / per_second;
    Ok(vec![
        Measure::new("list of 10 workspaces", "requests/s", ours, None, Target::AtLeast(10_000.0)),
        Measure::new("beside the bare handler", "requests/s", ours, Some(theirs), Target::AtLeastTimes(0.5)),
        Measure::new("p99 latency", "ms", p99(&mut whole), Some(p99(&mut bare)), Target::Below(10.0)),
        Measure::new(
            "request among 1,000,000 workspaces of other users, beside 100",
            "us",
            each(crowded),
            Some(each(ours)),
            Target::AtMostTimes(1.3),
        ),
    ])
}
