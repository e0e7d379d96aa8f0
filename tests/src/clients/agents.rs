//! Coding agents in a workspace, as their users install them: each does a task through the proxy or with the user's own key, and stops where
//! it must. The suite runs Codex; `cargo xtask agents` runs all of them, and writes down what holds.

mod agent;
mod cases;
pub(crate) mod matrix;
mod place;
mod run;

use anyhow::Result;

use crate::TestResult;
use crate::harness::installation::Installation;
use agent::{Agent, CODEX};
use place::Place;

tests![
    codex_does_a_task_through_the_proxy,
    codex_at_a_lowered_limit_runs_no_half_of_a_call,
    codex_without_credits_stops_at_once,
    codex_with_a_model_that_is_not_allowed_stops_at_once,
];

fn with_codex(installation: &Installation, case: fn(&Place<'_>, &Agent) -> Result<usize>) -> TestResult {
    let place = Place::open(installation)?;
    place.install(&CODEX)?;
    case(&place, &CODEX).map(drop)
}

fn codex_does_a_task_through_the_proxy(installation: &Installation) -> TestResult {
    with_codex(installation, cases::managed)
}

fn codex_at_a_lowered_limit_runs_no_half_of_a_call(installation: &Installation) -> TestResult {
    with_codex(installation, cases::lowered_limit)
}

fn codex_without_credits_stops_at_once(installation: &Installation) -> TestResult {
    with_codex(installation, cases::no_credits)
}

fn codex_with_a_model_that_is_not_allowed_stops_at_once(installation: &Installation) -> TestResult {
    with_codex(installation, cases::model_not_allowed)?;
    Place::open(installation)?.close()
}
