//! Commands in a running VM: latency, and throughput of output.

use std::io::Read;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result};
use rigbox_testkit::report::{Measure, Target, median};
use serde_json::json;

use crate::bare::Port;
use crate::workspaces::Workspaces;

/// Runs of `true`.
const RUNS: usize = 1_000;
/// Approximate bytes of a call in each direction.
const CALL_BYTES: usize = 256;
const BLOCK: usize = 1_000_000;
const BLOCKS: usize = 100;
/// Rounds of each side.
const ROUNDS: usize = 3;
const BLOCK_FILE: &str = "/tmp/bench-block";

pub(crate) fn measure(
    api: &mut Workspaces,
    id: &str,
    rig: impl Fn() -> Result<Command>,
    bare: &mut Port,
) -> Result<Vec<Measure>> {
    let mut pings = Vec::new();
    let mut bytes = [7; CALL_BYTES];
    for _ in 0..RUNS {
        let sent = Instant::now();
        bare.echo(&mut bytes)?;
        pings.push(sent.elapsed().as_secs_f64() * 1e3);
    }
    let mut calls = Vec::new();
    for _ in 0..RUNS {
        let sent = Instant::now();
        let ended = api.exec(id, &json!(["true"]), |_| {})?;
        calls.push((ended.at - sent).saturating_sub(ended.ran).as_secs_f64() * 1e3);
    }
    let ping = median(&mut pings);
    let cost = Measure::new(
        "exec of true, p50, less its run",
        "ms",
        median(&mut calls),
        Some(ping),
        Target::Below(5.0),
    );

    let mut block = vec![0; BLOCK];
    getrandom::fill(&mut block)?;
    api.write_file(id, BLOCK_FILE, &block)?;
    bare.write_file(&block)?;
    let command: Vec<&str> = std::iter::once("cat").chain(std::iter::repeat_n(BLOCK_FILE, BLOCKS)).collect();
    let (mut ours, mut theirs, mut by_rig) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let (mut check, started) = (Check::new(&block), Instant::now());
        api.exec(id, &json!(command), |bytes| check.update(bytes))?;
        ours.push(check.rate(started)?);
        let (mut check, started) = (Check::new(&block), Instant::now());
        bare.bulk(BLOCKS, BLOCKS * BLOCK, |bytes| check.update(bytes))?;
        theirs.push(check.rate(started)?);
        let (mut check, started) = (Check::new(&block), Instant::now());
        let mut exec = rig()?;
        exec.args(["exec", id, "--"]).args(&command).stdin(Stdio::null()).stdout(Stdio::piped());
        read_output(exec, |bytes| check.update(bytes))?;
        by_rig.push(check.rate(started)?);
    }
    let [ours, theirs, by_rig] = [&mut ours, &mut theirs, &mut by_rig].map(|rates| median(rates));
    let bulk = Measure::new("100 MB of output", "MB/s", ours, Some(theirs), Target::AtLeastTimes(0.5));
    let by_rig = Measure::new(
        "100 MB of output by rig, beside the API",
        "MB/s",
        by_rig,
        Some(ours),
        Target::AtLeastTimes(0.8),
    );
    Ok(vec![cost, bulk, by_rig])
}

/// Runs a program, which must succeed, and passes its output to `output`.
fn read_output(mut program: Command, mut output: impl FnMut(&[u8])) -> Result<()> {
    let mut child = program.spawn()?;
    let mut stdout = child.stdout.take().context("no output")?;
    let mut chunk = vec![0; 128 * 1024];
    loop {
        match stdout.read(&mut chunk)? {
            0 => break,
            count => output(chunk.get(..count).unwrap_or_default()),
        }
    }
    let status = child.wait()?;
    anyhow::ensure!(status.success(), "{program:?}: {status}");
    Ok(())
}

/// Compares received data with the original.
struct Check<'a> {
    block: &'a [u8],
    seen: usize,
    differs: bool,
}

impl<'a> Check<'a> {
    fn new(block: &'a [u8]) -> Self {
        Self { block, seen: 0, differs: false }
    }

    fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let expected = self.block.get(self.seen % BLOCK..).unwrap_or_default();
            let count = expected.len().min(bytes.len());
            let (now, later) = bytes.split_at(count);
            self.differs |= expected.get(..count) != Some(now);
            self.seen += count;
            bytes = later;
        }
    }

    /// Returns MB/s since `started`, if all data was received.
    fn rate(&self, started: Instant) -> Result<f64> {
        let seconds = started.elapsed().as_secs_f64();
        let all = BLOCKS * BLOCK;
        anyhow::ensure!(self.seen == all, "received {} of {all} bytes", self.seen);
        anyhow::ensure!(!self.differs, "received other bytes than were sent");
        // Exact for this size.
        #[allow(clippy::cast_precision_loss)]
        Ok(all as f64 / 1e6 / seconds)
    }
}
