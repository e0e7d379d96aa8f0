//! `rig workspace rm`: asks, removes, and says so only once every trace is gone.

use std::io::{BufRead, IsTerminal, Write, stderr, stdin};

use serde_json::Value;

use super::wait::{Watch, ended_otherwise};
use crate::api::{Api, ApiError, Vm};
use crate::failure::Failure;
use crate::output::{Event, Output, Progress, plain};

pub(super) async fn rm(api: &Api, out: &Output, text: &str, force: bool) -> Result<(), Failure> {
    let vm = api.find(text).await?;
    if !force {
        confirm(&vm)?;
    }
    let progress = out.progress();
    progress.now(&format!("removing {}", vm.name));
    let watch = Watch::new(api, out, &progress);
    if let Some(going) = ask_for_removal(api, &watch, vm.clone()).await? {
        wait_until_gone(&watch, &progress, going).await?;
    }
    drop(progress);
    out.event(&Event::Removed { workspace: &vm.name, workspace_id: &vm.id })?;
    out.say(&format!("{} ({}) is removed", plain(&vm.name), plain(&vm.id)))
}

fn confirm(vm: &Vm) -> Result<(), Failure> {
    let refused = |code, text: &str| Err(Failure::new(code, format!("{} was not removed: {text}", vm.name)));
    if !stdin().is_terminal() {
        return refused("confirmation_required", "nobody can be asked here; --force removes without asking");
    }
    let (name, id) = (plain(&vm.name), plain(&vm.id));
    let _ = write!(stderr(), "Remove {name} ({id}) and everything in it? [y/N] ");
    let _ = stderr().flush();
    let mut answer = String::new();
    let _ = stdin().lock().read_line(&mut answer);
    match answer.trim().to_ascii_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => refused("cancelled", "you did not say yes"),
    }
}

/// Until the server agrees: what moves cannot be removed, only given up or waited for. Nothing when it is gone already.
async fn ask_for_removal(api: &Api, watch: &Watch<'_>, mut vm: Vm) -> Result<Option<Vm>, Failure> {
    loop {
        let refusal = match api.delete(&vm.id).await {
            Ok(status) => {
                vm.status = status;
                return Ok(Some(vm));
            }
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => error,
        };
        let ApiError::Refused { code, details, .. } = &refusal else { return Err(refusal.into()) };
        if code != "invalid_state" {
            return Err(refusal.into());
        }
        if let Some(status) = details.get("status").and_then(Value::as_str) {
            vm.status = status.to_owned();
        }
        if vm.status == "deleting" {
            return Ok(Some(vm));
        }
        if !vm.is_in_motion() {
            return Err(refusal.into());
        }
        if allows(details, "cancel") {
            // It may have arrived where it was going: then the removal is asked for again.
            let _ = api.operate(&vm.id, "cancel").await;
        }
        match watch.change(&vm).await? {
            Some(changed) => vm = changed.vm,
            None => return Ok(None),
        }
    }
}

fn allows(details: &Value, request: &str) -> bool {
    let allowed = details.get("allowed").and_then(Value::as_array);
    allowed.is_some_and(|allowed| allowed.iter().any(|one| one == request))
}

async fn wait_until_gone(watch: &Watch<'_>, progress: &Progress, mut vm: Vm) -> Result<(), Failure> {
    loop {
        progress.now(&format!("{} is {}", vm.name, vm.status));
        match watch.change(&vm).await? {
            Some(changed) if changed.vm.status == "failed" => {
                return Err(ended_otherwise(&changed.vm, "deleting"));
            }
            Some(changed) => vm = changed.vm,
            None => return Ok(()),
        }
    }
}
