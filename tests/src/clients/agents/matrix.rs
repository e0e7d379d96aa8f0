//! All agents in all cases: `rigbox-tests agent-matrix [NAME [CASE]]` prints a table of what holds, in which the rest is `not run`.

use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Result, ensure};

use super::agent::{ALL, Agent};
use super::cases;
use super::place::Place;
use crate::harness::installation::Installation;

type Case = fn(&Place<'_>, &Agent) -> Result<usize>;

/// Head of the table, for the documents.
const HEAD: &str = "| agent | version | task through the proxy | task with an own key | own key outside | limit that was lowered | no credits | model that is not allowed |\n\
                    | --- | --- | --- | --- | --- | --- | --- | --- |";
/// Cases in the order of the table, each with its word for success.
const CASES: [(&str, Case, Success); 6] = [
    ("through the proxy", cases::managed, Success::Done),
    ("own key", cases::own_key, Success::Done),
    ("key outside", cases::key_outside, Success::Done),
    ("lowered limit", cases::lowered_limit, Success::Ends),
    ("no credits", cases::no_credits, Success::Stops),
    ("model not allowed", cases::model_not_allowed, Success::Stops),
];

/// Cell of what was not run, which `cargo xtask agents` takes from an earlier run.
const NOT_RUN: &str = "not run";

/// End of an agent's run where a case holds.
#[derive(Clone, Copy)]
enum Success {
    Done,
    Ends,
    Stops,
}

/// Argument that asks for the matrix. It is the name of no module.
const ARGUMENT: &str = "agent-matrix";

/// Runs the matrix if the arguments ask for it.
pub(crate) fn main() -> Option<ExitCode> {
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() != Some(ARGUMENT) {
        return None;
    }
    let filters = [arguments.next().unwrap_or_default(), arguments.next().unwrap_or_default()];
    Some(match run(&filters) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("the agents cannot run: {error:#}");
            ExitCode::FAILURE
        }
    })
}

/// Runs the agents whose id contains the first filter in the cases whose name contains the second, and returns true if all hold.
fn run([name, case]: &[String; 2]) -> Result<bool> {
    ensure!(ALL.iter().any(|agent| agent.id.contains(name)), "no agent has `{name}` in its name");
    ensure!(CASES.iter().any(|(name, ..)| name.contains(case)), "no case has `{case}` in its name");
    let installation = Installation::open()?;
    let place = Place::open(&installation)?;
    let (mut rows, mut all_hold) = (Vec::new(), true);
    for agent in &ALL {
        let wanted = agent.id.contains(name);
        if wanted {
            let began = Instant::now();
            place.install(agent)?;
            eprintln!("{}: copied in {:.0} s", agent.name, began.elapsed().as_secs_f64());
        }
        let mut cells = vec![agent.name.to_owned(), agent.version()?];
        for (name, holds, success) in CASES {
            if !wanted || !name.contains(case) {
                cells.push(NOT_RUN.to_owned());
                continue;
            }
            let began = Instant::now();
            let outcome = holds(&place, agent);
            let seconds = began.elapsed().as_secs_f64();
            cells.push(match outcome {
                Ok(calls) => {
                    eprintln!("{}, {name}: {calls} calls, {seconds:.0} s", agent.name);
                    success.cell(calls)
                }
                Err(error) => {
                    eprintln!("{}, {name}: FAILED after {seconds:.0} s: {error:#}", agent.name);
                    all_hold = false;
                    "fails".to_owned()
                }
            });
        }
        rows.push(format!("| {} |", cells.join(" | ")));
        if wanted {
            place.uninstall(agent)?;
        }
    }
    place.close()?;
    println!("{HEAD}\n{}", rows.join("\n"));
    Ok(all_hold)
}

impl Success {
    fn cell(self, calls: usize) -> String {
        let calls = if calls == 1 { "1 call".to_owned() } else { format!("{calls} calls") };
        match self {
            Self::Done => format!("done, {calls}"),
            Self::Ends => format!("ends, {calls}"),
            Self::Stops => format!("stops, {calls}"),
        }
    }
}
