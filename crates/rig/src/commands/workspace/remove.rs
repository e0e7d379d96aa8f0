//! `rig workspace rm`: asks for confirmation, removes a workspace, and waits until it is gone.

use serde_json::Value;

use super::wait::{Waiter, unexpected_status};
use crate::api::{Api, ApiError, Vm};
use crate::failure::Failure;
use crate::output::{Event, Output, Progress, escape};
use crate::terminal;

pub(super) async fn rm(api: &Api, out: &Output, text: &str, force: bool) -> Result<(), Failure> {
    let vm = api.find(text).await?;
    if !force {
        let (name, id) = (escape(&vm.name), escape(&vm.id));
        terminal::confirm(&vm.name, &format!("Remove {name} ({id}) and everything in it?"))?;
    }
    let progress = out.progress();
    progress.set_message(&format!("removing {}", vm.name));
    let waiter = Waiter::new(api, out, &progress);
    if let Some(vm) = request_removal(api, &waiter, vm.clone()).await? {
        wait_until_gone(&waiter, &progress, vm).await?;
    }
    drop(progress);
    out.event(&Event::Removed { workspace: &vm.name, workspace_id: &vm.id })?;
    out.line(&format!("{} ({}) removed", escape(&vm.name), escape(&vm.id)))
}

/// Requests the removal until the server accepts it: a transitional state has to be canceled or waited for first. Returns `None` if the
/// workspace is gone already.
async fn request_removal(api: &Api, waiter: &Waiter<'_>, mut vm: Vm) -> Result<Option<Vm>, Failure> {
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
        if !vm.is_transitional() {
            return Err(refusal.into());
        }
        if allows(details, "cancel") {
            // The transition may have finished; then the removal is requested again.
            let _ = api.operate(&vm.id, "cancel").await;
        }
        match waiter.change(&vm).await? {
            Some(changed) => vm = changed.vm,
            None => return Ok(None),
        }
    }
}

fn allows(details: &Value, request: &str) -> bool {
    let allowed = details.get("allowed").and_then(Value::as_array);
    allowed.is_some_and(|allowed| allowed.iter().any(|one| one == request))
}

async fn wait_until_gone(waiter: &Waiter<'_>, progress: &Progress, mut vm: Vm) -> Result<(), Failure> {
    loop {
        progress.set_message(&format!("{} is {}", vm.name, vm.status));
        match waiter.change(&vm).await? {
            Some(changed) if changed.vm.status == "failed" => {
                return Err(unexpected_status(&changed.vm, "deleting"));
            }
            Some(changed) => vm = changed.vm,
            None => return Ok(()),
        }
    }
}
