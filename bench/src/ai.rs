//! Benchmark `ai`: the AI proxy beside LiteLLM's and beside nginx as plain reverse proxy, in front of one fake provider. Ours is the role in a
//! process of its own, with the real control in another and its database on the disk: each call is reserved and settled durably. A thread
//! that hands connections over plays the node, and the provider, in a process too, has the same answers each time. All of it is on this
//! host, in namespaces of its own.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::ValueEnum;
use rigbox_testkit::report::{Measure, Target, median, progress};

mod addresses;
mod certificate;
mod connection;
mod control;
mod disk;
mod litellm;
mod load;
mod message;
mod nginx;
mod node;
mod process;
mod provider;
mod proxy;
mod response;
mod serve;
mod stream_client;

pub(crate) use serve::serve;

use crate::{host, memory, namespaces};
use addresses::{LITELLM, NGINX, NGINX_STREAMS, NODE, PROVIDER};
use litellm::LiteLlm;
use process::Role;
use stream_client::StreamClient;

/// Connections of the load generator at saturation.
const CONNECTIONS: usize = 64;
const LOAD_DURATION: Duration = Duration::from_secs(5);
const WARM_UP: Duration = Duration::from_secs(2);
/// Calls a second while latency is measured.
const CALLS_PER_SECOND: f64 = 500.0;
const SCHEDULE_DURATION: Duration = Duration::from_secs(10);
/// Streams of each side in a round, in turns.
const STREAMS: usize = 500;
/// Streams that are open at once.
const OPEN_STREAMS: usize = 1_000;
/// Open streams before the memory of more is measured.
const WARM_UP_STREAMS: usize = 20;

/// Part of the benchmark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// Calls at saturation.
    Calls,
    /// Latency at a rate.
    Latency,
    /// First token of a stream.
    FirstToken,
    /// Memory of open streams.
    Memory,
}

/// Proxy under load.
struct Side {
    name: &'static str,
    address: SocketAddr,
    proxy: Vec<u32>,
    /// Process that the proxy asks.
    control: Option<u32>,
    /// Calls per second of CPU time, that of control included.
    per_core: Vec<f64>,
    /// Calls per second of the proxy's own CPU time.
    per_core_alone: Vec<f64>,
}

impl Side {
    fn new(name: &'static str, address: SocketAddr, proxy: Vec<u32>, control: Option<u32>) -> Result<Self> {
        load::saturate(address, CONNECTIONS, WARM_UP).with_context(|| name.to_owned())?;
        Ok(Self { name, address, proxy, control, per_core: Vec::new(), per_core_alone: Vec::new() })
    }

    /// Returns the CPU time in seconds of the proxy and of control.
    fn cpu_time(&self) -> Result<[f64; 2]> {
        let proxy = self.proxy.iter().map(|pid| host::cpu_time(*pid)).sum::<Result<f64>>()?;
        Ok([proxy, self.control.map(host::cpu_time).transpose()?.unwrap_or(0.0)])
    }

    fn round(&mut self) -> Result<()> {
        let [proxy_before, control_before] = self.cpu_time()?;
        let calls = load::saturate(self.address, CONNECTIONS, LOAD_DURATION).context(self.name)?;
        let [proxy, control] = self.cpu_time()?;
        let (calls, proxy, control) = (f64::from(calls), proxy - proxy_before, control - control_before);
        progress(&format!(
            "{}: {:.0} calls/s, {:.0} us of the proxy's CPU time each, {:.0} us of control's",
            self.name,
            calls / LOAD_DURATION.as_secs_f64(),
            proxy * 1e6 / calls,
            control * 1e6 / calls
        ));
        self.per_core.push(calls / (proxy + control));
        self.per_core_alone.push(calls / proxy);
        Ok(())
    }
}

/// Runs the benchmark, or one part of it, with progress on standard error. Must run in namespaces of its own.
pub(crate) fn measure(rounds: u32, only: Option<Part>) -> Result<Vec<Measure>> {
    let folder = namespaces::prepare()?;
    // The other folder is in memory.
    let disk = tempfile::Builder::new().prefix("rigbox-bench-").tempdir_in("/var/tmp")?;
    progress(&format!("a durable write of the disk takes {:.2} ms", disk::sync_ms(disk.path())?));
    certificate::create(disk.path())?;
    let _provider = process::start(Role::Provider, disk.path())?;
    host::wait_listening(PROVIDER, "the provider")?;
    let workspaces = control::create_database(disk.path())?;
    node::start(NODE, proxy::bridge_socket(disk.path()), workspaces)?;
    let control = control::start(disk.path())?;
    let proxy = proxy::start(disk.path())?;
    let nginx = nginx::start(&folder)?;
    let is_wanted = |part| only.is_none_or(|only| only == part);
    let mut measures = Vec::new();
    if is_wanted(Part::Calls) {
        measures.extend(calls(&folder, [proxy.pid(), control.pid()], &nginx.workers()?, rounds)?);
    }
    if is_wanted(Part::Latency) {
        measures.extend(latency(rounds)?);
    }
    if is_wanted(Part::FirstToken) {
        measures.push(first_token(rounds)?);
    }
    drop(proxy);
    if is_wanted(Part::Memory) {
        measures.push(open_streams(disk.path(), &nginx.workers()?)?);
    }
    Ok(measures)
}

/// Measures calls at saturation, per second of CPU time.
fn calls(folder: &Path, [proxy, control]: [u32; 2], nginx: &[u32], rounds: u32) -> Result<Vec<Measure>> {
    progress("starting LiteLLM");
    let litellm = LiteLlm::start(folder)?;
    let mut sides = [
        Side::new("ai", NODE, vec![proxy], Some(control))?,
        Side::new("nginx", NGINX, nginx.to_vec(), None)?,
        Side::new("LiteLLM", LITELLM, litellm.pids()?, None)?,
    ];
    for round in 1..=rounds {
        progress(&format!("round {round} of {rounds}"));
        for side in &mut sides {
            side.round()?;
        }
    }
    let [ours, nginx, litellm] = &mut sides;
    let (nginx, litellm) = (median(&mut nginx.per_core), median(&mut litellm.per_core));
    let (whole, alone) = (median(&mut ours.per_core), median(&mut ours.per_core_alone));
    let unit = "calls/s per core";
    let measure = |name: &str, ours, theirs, target| Measure::new(name, unit, ours, Some(theirs), target);
    let (of_litellm, of_nginx) = (Target::AtLeastTimes(50.0), Target::AtLeastTimes(0.5));
    Ok(vec![
        measure("calls, with control's part, beside LiteLLM", whole, litellm, of_litellm),
        measure("calls, the proxy alone, beside LiteLLM", alone, litellm, of_litellm),
        measure("calls, with control's part, beside nginx", whole, nginx, of_nginx),
        measure("calls, the proxy alone, beside nginx", alone, nginx, of_nginx),
    ])
}

/// Measures latency while calls come by a schedule.
fn latency(rounds: u32) -> Result<[Measure; 2]> {
    progress(&format!("{CALLS_PER_SECOND} calls a second"));
    let mut quantiles = [[Vec::new(), Vec::new()], [Vec::new(), Vec::new()]];
    for _ in 0..rounds {
        for ((name, address), [p50s, p99s]) in
            [("ai", NODE), ("nginx", NGINX)].into_iter().zip(&mut quantiles)
        {
            let mut latencies = load::by_schedule(address, CALLS_PER_SECOND, SCHEDULE_DURATION)?;
            let p50 = median(&mut latencies);
            // In order since the median.
            let p99 = latencies.get(latencies.len() * 99 / 100).copied().unwrap_or(f64::NAN);
            progress(&format!("{name}: p50 {p50:.2} ms, p99 {p99:.2} ms"));
            p50s.push(p50);
            p99s.push(p99);
        }
    }
    let [[p50, p99], [nginx_p50, nginx_p99]] = &mut quantiles;
    let beside = |name: &str, ours: &mut [f64], theirs: &mut [f64], more| {
        let name = format!("latency at {CALLS_PER_SECOND} calls/s beside nginx, {name}");
        Measure::new(name, "ms", median(ours), Some(median(theirs)), Target::BelowTheirsPlus(more))
    };
    Ok([beside("p50", p50, nginx_p50, 1.0), beside("p99", p99, nginx_p99, 5.0)])
}

/// Measures the time until the first token of a stream, of both sides in turns.
fn first_token(rounds: u32) -> Result<Measure> {
    progress("first token of a stream");
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let mut sides =
            [(StreamClient::open(NODE)?, Vec::new()), (StreamClient::open(NGINX_STREAMS)?, Vec::new())];
        for _ in 0..STREAMS {
            for (client, times) in &mut sides {
                times.push(client.first_token()?.as_secs_f64() * 1e3);
            }
        }
        let [(_, our_times), (_, their_times)] = &mut sides;
        let (our, their) = (median(our_times), median(their_times));
        progress(&format!("ai {our:.2} ms, nginx {their:.2} ms"));
        ours.push(our);
        theirs.push(their);
    }
    Ok(Measure::new(
        "first token of a stream beside nginx, p50",
        "ms",
        median(&mut ours),
        Some(median(&mut theirs)),
        Target::BelowTheirsPlus(0.5),
    ))
}

/// Measures the memory of an open stream, in a proxy that has not used any yet.
fn open_streams(folder: &Path, nginx: &[u32]) -> Result<Measure> {
    progress(&format!("{OPEN_STREAMS} open streams"));
    let proxy = proxy::start(folder)?;
    let each = |address, pids: &[u32]| -> Result<f64> {
        let memory = || pids.iter().map(|pid| memory::rss_kb(*pid)).sum::<Result<u64>>();
        let warm_up = stream_client::hold(address, WARM_UP_STREAMS)?;
        let before = memory()?;
        let open = stream_client::hold(address, OPEN_STREAMS)?;
        let grown = memory()?.saturating_sub(before);
        drop((warm_up, open));
        Ok(grown as f64 / OPEN_STREAMS as f64)
    };
    let theirs = each(NGINX_STREAMS, nginx)?;
    let ours = each(NODE, &[proxy.pid()])?;
    let name = format!("memory of an open stream, of {OPEN_STREAMS}");
    Ok(Measure::new(name, "kB", ours, Some(theirs), Target::Below(30.0)))
}
