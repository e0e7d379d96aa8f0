//! Commands on a VM that runs: what one costs, and how fast their output comes.

use std::time::Instant;

use anyhow::Result;
use serde_json::json;

use crate::bare::Port;
use crate::report::{Measure, Target, median};
use crate::workspaces::Workspaces;

/// Runs of `true`.
const RUNS: usize = 1_000;
/// About what a call's frames have each way.
const CALL_BYTES: usize = 256;
const BLOCK: usize = 1_000_000;
const BLOCKS: usize = 100;
/// Each side's turns at the output.
const TURNS: usize = 3;
const BLOCK_FILE: &str = "/tmp/bench-block";

pub(crate) fn measure(api: &mut Workspaces, id: &str, bare: &mut Port) -> Result<Vec<Measure>> {
    let mut pings = Vec::new();
    let mut bytes = [7; CALL_BYTES];
    for _ in 0..RUNS {
        let asked = Instant::now();
        bare.echo(&mut bytes)?;
        pings.push(asked.elapsed().as_secs_f64() * 1e3);
    }
    let mut calls = Vec::new();
    for _ in 0..RUNS {
        let asked = Instant::now();
        let ended = api.exec(id, &json!(["true"]), |_| {})?;
        calls.push((ended.at - asked).saturating_sub(ended.ran).as_secs_f64() * 1e3);
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
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..TURNS {
        let (mut check, began) = (Check::new(&block), Instant::now());
        api.exec(id, &json!(command), |bytes| check.take(bytes))?;
        ours.push(check.rate(began)?);
        let (mut check, began) = (Check::new(&block), Instant::now());
        bare.bulk(BLOCKS, BLOCKS * BLOCK, |bytes| check.take(bytes))?;
        theirs.push(check.rate(began)?);
    }
    let (ours, theirs) = (median(&mut ours), median(&mut theirs));
    let bulk = Measure::new("100 MB of output", "MB/s", ours, Some(theirs), Target::AtLeastTimes(0.5));
    Ok(vec![cost, bulk])
}

/// Compares what comes with what was sent.
struct Check<'a> {
    block: &'a [u8],
    seen: usize,
    differs: bool,
}

impl<'a> Check<'a> {
    fn new(block: &'a [u8]) -> Self {
        Self { block, seen: 0, differs: false }
    }

    fn take(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let expected = self.block.get(self.seen % BLOCK..).unwrap_or_default();
            let count = expected.len().min(bytes.len());
            let (now, later) = bytes.split_at(count);
            self.differs |= expected.get(..count) != Some(now);
            self.seen += count;
            bytes = later;
        }
    }

    /// MB/s since `began`, if everything came.
    fn rate(&self, began: Instant) -> Result<f64> {
        let seconds = began.elapsed().as_secs_f64();
        let all = BLOCKS * BLOCK;
        anyhow::ensure!(self.seen == all, "{} of {all} bytes came", self.seen);
        anyhow::ensure!(!self.differs, "other bytes came than were sent");
        // Exact for this size.
        #[allow(clippy::cast_precision_loss)]
        Ok(all as f64 / 1e6 / seconds)
    }
}
