//! The cases of the matrix. Each runs an agent once, and returns how many calls it made.

use anyhow::{Result, ensure};
use rigbox_test_provider::{Billed, Seen};

use super::agent::Agent;
use super::place::{Place, public_provider};
use super::run::{Run, Task, run};
use crate::clients::ai::KEY;

/// Calls at a limit that was lowered: an agent may ask once more, and each costs what is left.
const MAX_CALLS_AT_LIMIT: usize = 4;

/// Does a task through the proxy, with the operator's key, and what it used is recorded.
pub(super) fn managed(place: &Place<'_>, agent: &Agent) -> Result<usize> {
    let (before, billed) = (place.used()?, place.provider.billed().len());
    let ran = run(place, agent, &Task::new("managed", ""), place.provider)?;
    ran.has_done_it()?;
    ensure!(has_key(&ran, KEY), "{ran}");
    let used = place.used()?;
    let (input, output) = tokens(&place.provider.billed().split_off(billed));
    ensure!((used.input - before.input, used.output - before.output) == (input, output), "{used:?} {ran}");
    ensure!(used.cost > before.cost, "it cost nothing: {ran}");
    Ok(ran.calls)
}

/// Does a task with the user's own key, at the provider itself, which costs no credits.
pub(super) fn own_key(place: &Place<'_>, agent: &Agent) -> Result<usize> {
    const OWN: &str = "sk-test-of-the-user-77d0";
    let (before, operators, public) = (place.used()?, place.provider.seen().len(), public_provider()?);
    let (environment, arguments) = agent.own;
    let url = format!("URL=http://{}; ", public.address);
    let task = Task { before: format!("{url}{environment}"), after: arguments, ..Task::new("own-key", "") };
    let ran = place.with_own_key(agent.provider, OWN, "env", || run(place, agent, &task, public))?;
    ran.has_done_it()?;
    ensure!(has_key(&ran, OWN), "{ran}");
    ensure!(place.provider.seen().len() == operators, "the operator's provider was called: {ran}");
    ensure!(place.used()? == before, "it cost credits: {ran}");
    Ok(calls(&ran).count())
}

/// Does a task with the user's own key, which stays outside: the agent finds an address of the proxy's and no key. What it used is recorded,
/// and costs no credits.
pub(super) fn key_outside(place: &Place<'_>, agent: &Agent) -> Result<usize> {
    const OUTSIDE: &str = "sk-test-of-the-user-outside-2c41";
    let (before, billed) = (place.used()?, place.provider.billed().len());
    let ran = place.with_own_key(agent.provider, OUTSIDE, "proxy", || {
        let ran = run(place, agent, &Task::new("key-outside", ""), place.provider)?;
        ensure!(!place.remembers(OUTSIDE)?, "the key is in the VM's memory: {ran}");
        Ok(ran)
    })?;
    ran.has_done_it()?;
    ensure!(has_key(&ran, OUTSIDE), "{ran}");
    ensure!(!ran.output.contains(OUTSIDE), "the agent has the key: {ran}");
    let used = place.used()?;
    let (input, output) = tokens(&place.provider.billed().split_off(billed));
    ensure!((used.input - before.input, used.output - before.output) == (input, output), "{used:?} {ran}");
    ensure!(used.cost == before.cost, "it cost credits: {ran}");
    Ok(ran.calls)
}

/// Meets a limit that was lowered for want of budget in the middle of a tool's call: it does not run what it has got of the call, and does
/// not ask again and again.
pub(super) fn lowered_limit(place: &Place<'_>, agent: &Agent) -> Result<usize> {
    let ran = place.with_budget(agent.tight_budget, || {
        run(place, agent, &Task::new("limit", "[endless]"), place.provider)
    })?;
    ensure!(ran.files.is_empty(), "half of a call was run: {ran}");
    ensure!(ran.calls <= MAX_CALLS_AT_LIMIT, "it asks again and again: {ran}");
    let limited = ran.seen.iter().filter(|seen| limit(seen).is_some_and(|limit| limit < 32_000)).count();
    ensure!(limited > 0, "no limit was lowered: {ran}");
    Ok(ran.calls)
}

/// Stops at once where there are no credits.
pub(super) fn no_credits(place: &Place<'_>, agent: &Agent) -> Result<usize> {
    let ran = place.without_credits(|| run(place, agent, &Task::new("credits", ""), place.provider))?;
    refused(&ran, agent, agent.says_no_credits)
}

/// Stops at once where its model is not allowed.
pub(super) fn model_not_allowed(place: &Place<'_>, agent: &Agent) -> Result<usize> {
    let ran = place.without_models(|| run(place, agent, &Task::new("model", ""), place.provider))?;
    refused(&ran, agent, "is not allowed")
}

fn refused(ran: &Run, agent: &Agent, reason: &str) -> Result<usize> {
    ran.has_stopped(agent.calls, reason)?;
    // A provider's count costs nothing.
    let is_count = |seen: &Seen| seen.path.contains("ount") || seen.path.ends_with("input_tokens");
    ensure!(ran.seen.iter().all(is_count), "a refused call has reached the provider: {ran}");
    Ok(ran.calls)
}

/// Returns the sums of what a provider billed: input, and output.
fn tokens(billed: &[Billed]) -> (u64, u64) {
    billed.iter().fold((0, 0), |(input, output), call| (input + call.input, output + call.output))
}

/// Returns the calls that a provider got, without what agents ask for to see if it is there.
fn calls(ran: &Run) -> impl Iterator<Item = &Seen> {
    ran.seen.iter().filter(|seen| seen.method == "POST")
}

/// Returns true if calls were made, all with this key.
fn has_key(ran: &Run, key: &str) -> bool {
    calls(ran).count() > 0 && calls(ran).all(|seen| seen.has_key(key))
}

/// Returns the limit of output in a request.
fn limit(seen: &Seen) -> Option<u64> {
    let body: serde_json::Value = serde_json::from_slice(&seen.body).ok()?;
    let names =
        ["/max_tokens", "/max_output_tokens", "/max_completion_tokens", "/generationConfig/maxOutputTokens"];
    names.iter().find_map(|name| body.pointer(name)?.as_u64())
}
