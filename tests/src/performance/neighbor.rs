//! Benchmark `neighbor`: what an honest tenant waits for beside a hostile one or strangers, and beside one that merely computes, in turns.

use std::fmt;
use std::time::Instant;

use anyhow::{Result, ensure};
use rigbox_testkit::report::{Measure, Target, median, progress};
use serde_json::json;

use crate::harness::installation::Installation;
use crate::harness::terminal::Terminal;
use crate::security::neighbors::{Harm, Honest, Hostile, SHARE, TIMEOUT};
use crate::security::strangers;

/// How many times as long as beside a tenant that computes a call may take.
const MAX_RATIO: f64 = 3.0;
/// Calls of a kind in one round, of which the median counts.
const CALLS: usize = 9;
/// Workspace that is spawned in each round.
const SPAWNED: &str = "spawned-beside";

/// Work of the neighbor.
#[derive(Clone, Copy)]
enum Load {
    Computing,
    /// Calls, connections and packets, as many as it gets.
    Flooding,
    /// Disk, memory and processes, which leave its VM nothing for anything else.
    Exhausting,
    /// None; but strangers hold the API and edge.
    Strangers,
}

impl Load {
    const ALL: [Self; 4] = [Self::Computing, Self::Flooding, Self::Exhausting, Self::Strangers];

    fn name(self) -> &'static str {
        match self {
            Self::Computing => "computing",
            Self::Flooding => "flooding",
            Self::Exhausting => "exhausting",
            Self::Strangers => "strangers",
        }
    }

    /// Commands that run until the end of a round. The agent of an exhausted VM may not answer.
    fn commands(self) -> Option<usize> {
        match self {
            Self::Computing => Some(1),
            Self::Flooding => Some(SHARE),
            Self::Exhausting | Self::Strangers => None,
        }
    }

    fn start(self, neighbor: &Hostile) -> Result<Harm> {
        match self {
            Self::Computing => neighbor.computes(),
            Self::Flooding => neighbor.floods_with_everything(),
            Self::Exhausting => {
                let exhausts = [neighbor.fills_its_disk()?, neighbor.fills_its_memory()?, neighbor.forks()?];
                Ok(Harm::all(exhausts.into()))
            }
            Self::Strangers => strangers::hold_both(),
        }
    }
}

/// Times of one round.
#[derive(Clone, Copy)]
struct Times {
    exec_ms: f64,
    app_ms: f64,
    echo_ms: f64,
    spawn_s: f64,
}

/// Kind of a call: name, unit, and its time.
type Kind = (&'static str, &'static str, fn(&Times) -> f64);
const KINDS: [Kind; 4] = [
    ("exec", "ms", |times| times.exec_ms),
    ("request to an app", "ms", |times| times.app_ms),
    ("terminal's echo", "ms", |times| times.echo_ms),
    ("spawn to first output", "s", |times| times.spawn_s),
];

impl fmt::Display for Times {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { exec_ms, app_ms, echo_ms, spawn_s } = self;
        write!(
            formatter,
            "exec {exec_ms:.1} ms, app {app_ms:.1} ms, echo {echo_ms:.1} ms, spawn {spawn_s:.2} s"
        )
    }
}

/// Runs the benchmark, with progress on standard error.
pub(super) fn measure(installation: &Installation, rounds: u32) -> Result<Vec<Measure>> {
    progress("an honest tenant and its neighbor");
    let (honest, neighbor) = (Honest::shared(installation)?, Hostile::shared(installation)?);
    let mut results = Load::ALL.map(|load| (load, Vec::new()));
    for round in 1..=rounds {
        for (load, times) in &mut results {
            let harm = load.start(&neighbor)?;
            let measured = times_of(installation, &honest)?;
            if let Some(expected) = load.commands() {
                let commands = neighbor.commands()?.len();
                ensure!(commands == expected, "{}: {commands} commands are left of {expected}", load.name());
            }
            drop(harm);
            progress(&format!("round {round} of {rounds}, {}: {measured}", load.name()));
            times.push(measured);
            neighbor.recovers()?;
        }
    }
    let [computing, flooding, exhausting, strangers] = results.map(|(_, times)| times);
    let mut measures = Vec::new();
    for (beside, times) in
        [("floods", flooding), ("an exhausted VM", exhausting), ("10,000 strangers", strangers)]
    {
        for (call, unit, of) in KINDS {
            let [ours, theirs] =
                [&times, &computing].map(|times| median(&mut times.iter().map(of).collect::<Vec<_>>()));
            let (name, target) = (format!("{call} beside {beside}"), Target::AtMostTimes(MAX_RATIO));
            measures.push(Measure::new(name, unit, ours, Some(theirs), target));
        }
    }
    Ok(measures)
}

/// Measures each kind of call.
fn times_of(installation: &Installation, honest: &Honest<'_>) -> Result<Times> {
    let mut terminal = Terminal::open(&installation.api, &honest.id, &json!(["cat"]))?;
    let (mut execs, mut requests, mut echoes) = (Vec::new(), Vec::new(), Vec::new());
    for call in 0..CALLS {
        execs.push(milliseconds(|| honest.runs_a_command())?);
        requests.push(milliseconds(|| honest.app_answers())?);
        echoes.push(milliseconds(|| {
            let word = format!("word-{call}");
            terminal.send(&format!("{word}\n"))?;
            // By the terminal, and by the program in it.
            terminal.wait_for(&format!("{word}\r\n{word}"), TIMEOUT)
        })?);
    }
    let started = Instant::now();
    let id = installation.api.spawn(SPAWNED)?;
    installation.api.sh(&id, "echo hello")?;
    let spawn_s = started.elapsed().as_secs_f64();
    installation.api.remove(&id)?;
    Ok(Times {
        exec_ms: median(&mut execs),
        app_ms: median(&mut requests),
        echo_ms: median(&mut echoes),
        spawn_s,
    })
}

fn milliseconds(call: impl FnOnce() -> Result<()>) -> Result<f64> {
    let started = Instant::now();
    call()?;
    Ok(started.elapsed().as_secs_f64() * 1e3)
}
