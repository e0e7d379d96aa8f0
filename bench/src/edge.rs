//! Benchmark `edge`: the reverse proxy of apps beside nginx, alone for a public app and with `auth_request` for a private one. The app is a
//! server on this host behind both. A table plays control, and a socket that connects plays the node.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rigbox_testkit::report::{Measure, Target, median, progress};

use crate::host;

mod app;
mod apps;
mod client;
mod nginx;
mod process;

pub(crate) use process::serve;

use apps::{HOST, PRIVATE_HOST};
use client::Client;
use nginx::Nginx;
use process::Edge;

/// Connections of the load generator, which has as many threads as a proxy has workers.
const CONNECTIONS: u32 = 64;
const LOAD_DURATION: Duration = Duration::from_secs(5);
const WARM_UP: Duration = Duration::from_secs(1);
/// Sequential requests, to measure one more check.
const SEQUENTIAL_REQUESTS: usize = 10_000;
const FEW_APPS: u32 = 10;
const MANY_APPS: u32 = 100_000;
const DOWNLOAD_BYTES: u64 = 1 << 30;
const WEBSOCKETS: usize = 10_000;
/// File descriptors for everything but WebSockets.
const OTHER_DESCRIPTORS: u64 = 600;

/// Repeated request to one proxy.
struct Side {
    name: &'static str,
    port: u16,
    headers: Vec<String>,
    script: Option<String>,
    per_second: Vec<f64>,
    p99_ms: Vec<f64>,
    /// Processes of the proxy.
    pids: Vec<u32>,
}

impl Side {
    fn new(
        name: &'static str,
        (port, pids): (u16, Vec<u32>),
        headers: &[String],
        script: Option<String>,
    ) -> Result<Self> {
        let side = Self {
            name,
            port,
            pids,
            headers: headers.to_vec(),
            script,
            per_second: Vec::new(),
            p99_ms: Vec::new(),
        };
        side.load(WARM_UP)?;
        Ok(side)
    }

    fn load(&self, duration: Duration) -> Result<client::LoadResult> {
        client::load(self.port, CONNECTIONS, duration, &self.headers, self.script.as_deref())
            .with_context(|| self.name.to_owned())
    }

    fn round(&mut self) -> Result<()> {
        let used = || self.pids.iter().map(|pid| host::cpu_time(*pid)).sum::<Result<f64>>();
        let before = used()?;
        let result = self.load(LOAD_DURATION)?;
        let each = (used()? - before) * 1e6 / (result.per_second * LOAD_DURATION.as_secs_f64());
        progress(&format!(
            "{}: {:.0} requests/s, p99 {:.2} ms, {each:.1} us of the proxy's CPU time each",
            self.name, result.per_second, result.p99_ms
        ));
        self.per_second.push(result.per_second);
        self.p99_ms.push(result.p99_ms);
        Ok(())
    }
}

/// Runs the benchmark, with progress on standard error.
pub(crate) fn measure(rounds: u32) -> Result<Vec<Measure>> {
    let folder = tempfile::Builder::new().prefix("rigbox-bench-").tempdir()?;
    progress("starting an app with nginx and edge in front of it");
    let app = app::App::start(folder.path(), DOWNLOAD_BYTES)?;
    let nginx = Nginx::start(folder.path(), app.port(), app.websockets())?;
    let edge = Edge::start(folder.path(), app.port(), app.websockets())?;
    let mut measures = requests(&edge, &nginx, rounds)?;
    measures.push(check(&edge, rounds)?);
    measures.push(routing(&edge, rounds)?);
    measures.push(download(&edge, &nginx, rounds)?);
    measures.push(websockets(&edge, &nginx)?);
    Ok(measures)
}

fn requests(edge: &Edge, nginx: &Nginx, rounds: u32) -> Result<Vec<Measure>> {
    let host = |name: &str| format!("Host: {name}");
    let key = format!("X-Rigbox-Key: {}", apps::key());
    let public = [host(HOST)];
    let private = [host(PRIVATE_HOST), key];
    let (ours, theirs) = (vec![edge.pid()], nginx.workers()?);
    let mut sides = [
        Side::new("edge, public app", (edge.port(), ours.clone()), &public, None)?,
        Side::new("nginx", (nginx.public(), theirs.clone()), &public, None)?,
        Side::new("edge, private app", (edge.port(), ours), &private, None)?,
        Side::new("nginx with auth_request", (nginx.private(), theirs), &private, None)?,
    ];
    for round in 1..=rounds {
        progress(&format!("round {round} of {rounds}"));
        for side in &mut sides {
            side.round()?;
        }
    }
    let [public, nginx, private, auth] = &mut sides;
    let rate = |side: &mut Side| median(&mut side.per_second);
    let p99 = |side: &mut Side| median(&mut side.p99_ms);
    Ok(vec![
        Measure::new(
            "public app beside nginx",
            "requests/s",
            rate(public),
            Some(rate(nginx)),
            Target::AtLeastTimes(1.0),
        ),
        Measure::new(
            "p99 latency of a public app",
            "ms",
            p99(public),
            Some(p99(nginx)),
            Target::AtMostTimes(1.0),
        ),
        Measure::new(
            "private app beside nginx with auth_request",
            "requests/s",
            rate(private),
            Some(rate(auth)),
            Target::AtLeastTimes(1.3),
        ),
        Measure::new(
            "p99 latency of a private app",
            "ms",
            p99(private),
            Some(p99(auth)),
            Target::AtMostTimes(1.0),
        ),
    ])
}

/// Measures the check of a key with sequential requests, in turns with those to a public app.
fn check(edge: &Edge, rounds: u32) -> Result<Measure> {
    progress("sequential requests, with a key and without");
    let mut differences = Vec::new();
    for _ in 0..rounds.max(3) {
        let mut public = Client::open(edge.port(), HOST, None)?;
        let mut private = Client::open(edge.port(), PRIVATE_HOST, Some(&apps::key()))?;
        let (mut without, mut with) = (Vec::new(), Vec::new());
        for _ in 0..SEQUENTIAL_REQUESTS {
            without.push(public.request()?.as_secs_f64() * 1e6);
            with.push(private.request()?.as_secs_f64() * 1e6);
        }
        differences.push(median(&mut with) - median(&mut without));
    }
    Ok(Measure::new("access check of an app, p50", "us", median(&mut differences), None, Target::Below(20.0)))
}

fn routing(edge: &Edge, rounds: u32) -> Result<Measure> {
    progress(&format!("every one of {MANY_APPS} apps is requested once"));
    client::request_each_app(edge.port(), MANY_APPS)?;
    let place = || (edge.port(), vec![edge.pid()]);
    let side = |name, count| Side::new(name, place(), &[], Some(client::random_apps_script(count)));
    let (mut few, mut many) = (side("among 10 apps", FEW_APPS)?, side("among 100,000 apps", MANY_APPS)?);
    for _ in 0..rounds {
        few.round()?;
        many.round()?;
    }
    let each = |side: &mut Side| 1e6 / median(&mut side.per_second);
    Ok(Measure::new(
        "request among 100,000 apps, beside 10",
        "us",
        each(&mut many),
        Some(each(&mut few)),
        Target::AtMostTimes(1.1),
    ))
}

fn download(edge: &Edge, nginx: &Nginx, rounds: u32) -> Result<Measure> {
    progress("download of 1 GiB");
    // Reads the file into the page cache.
    client::download(nginx.public(), HOST)?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        for (port, speeds) in [(edge.port(), &mut ours), (nginx.public(), &mut theirs)] {
            let started = Instant::now();
            let bytes = client::download(port, HOST)?;
            anyhow::ensure!(bytes == DOWNLOAD_BYTES, "received {bytes} bytes, not {DOWNLOAD_BYTES}");
            speeds.push(bytes as f64 / 1e6 / started.elapsed().as_secs_f64());
        }
        progress(&format!(
            "edge {:.0} MB/s, nginx {:.0} MB/s",
            ours.last().copied().unwrap_or(f64::NAN),
            theirs.last().copied().unwrap_or(f64::NAN)
        ));
    }
    Ok(Measure::new(
        "download of 1 GiB",
        "MB/s",
        median(&mut ours),
        Some(median(&mut theirs)),
        Target::AtLeastTimes(0.9),
    ))
}

fn websockets(edge: &Edge, nginx: &Nginx) -> Result<Measure> {
    // This process has two descriptors per WebSocket, as client and as app; edge has two as well.
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
    let possible = usize::try_from(limit.unwrap_or(u64::MAX).saturating_sub(OTHER_DESCRIPTORS) / 2)?;
    let count = WEBSOCKETS.min(possible);
    let all = rustix::process::Rlimit { current: limit, maximum: limit };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, all)?;
    progress(&format!("{count} idle WebSockets"));
    let each = |port: u16, pids: &[u32]| -> Result<f64> {
        let memory = || pids.iter().map(|pid| crate::memory::rss_kb(*pid)).sum::<Result<u64>>();
        let before = memory()?;
        let open = client::websockets(port, count)?;
        let grown = memory()?.saturating_sub(before);
        drop(open);
        Ok(grown as f64 / count as f64)
    };
    let ours = each(edge.port(), &[edge.pid()])?;
    let theirs = each(nginx.websockets(), &nginx.workers()?)?;
    Ok(Measure::new(
        "memory of an idle WebSocket, of 10,000",
        "kB",
        ours,
        Some(theirs),
        Target::AtMostTimes(1.5),
    ))
}
