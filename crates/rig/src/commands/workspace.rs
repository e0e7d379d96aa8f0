//! `rig workspace`: lists, starts, stops and restarts workspaces. The other commands have files of their own.

mod ai;
mod create;
mod env;
mod network;
mod remove;
mod wait;

use std::cell::Cell;

use serde_json::{Map, Value, json};

use crate::api::{Api, ApiError, GetWorkspace, Vm};
use crate::args::{Wait, WorkspaceCommand, WorkspacesArgument};
use crate::failure::Failure;
use crate::output::{Output, Progress, escape, fields_of};
use wait::{Waiter, unless_interrupted};

pub(super) async fn run(api: &Api, out: &Output, command: WorkspaceCommand) -> Result<(), Failure> {
    match command {
        WorkspaceCommand::Spawn { new, wait } => create::spawn(api, out, &new, wait.wait).await,
        WorkspaceCommand::New(arguments) => create::new(api, out, &arguments).await,
        WorkspaceCommand::Ls => ls(api, out).await,
        WorkspaceCommand::Show(workspace) => show(api, out, workspace.name_or_id()).await,
        WorkspaceCommand::Start { workspaces, wait } => {
            each(out, &workspaces, async |name| start(api, out, name, wait.wait).await).await
        }
        WorkspaceCommand::Stop(workspaces) => {
            each(out, &workspaces, async |name| stop(api, out, name).await).await
        }
        WorkspaceCommand::Restart { workspaces, wait } => {
            each(out, &workspaces, async |name| restart(api, out, name, wait.wait).await).await
        }
        WorkspaceCommand::Logs { workspace, lines, follow } => {
            let vm = api.find(workspace.name_or_id()).await?;
            super::logs::print(api, out, &["workspaces", &vm.id, "logs"], lines, follow).await
        }
        WorkspaceCommand::SshInfo(arguments) => super::ssh::info(api, out, &arguments).await,
        WorkspaceCommand::Env(command) => env::run(api, out, &command).await,
        WorkspaceCommand::Ai(command) => ai::run(api, out, &command).await,
        WorkspaceCommand::Network(arguments) => network::run(api, out, &arguments).await,
        WorkspaceCommand::Rm { workspaces, force } => {
            each(out, &workspaces, async |name| remove::rm(api, out, name, force).await).await
        }
    }
}

/// Acts on one workspace after the other. A failure does not keep the others from their turn.
async fn each(
    out: &Output,
    workspaces: &WorkspacesArgument,
    act: impl AsyncFn(&str) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut failed = None;
    for name in workspaces.names_or_ids() {
        if let Err(failure) = act(name).await {
            if matches!(failure, Failure::Interrupted { .. }) {
                return Err(failure);
            }
            // The last line of output is a failure's, so an earlier one is a warning.
            if let Some((name, earlier)) = failed.replace((name, failure))
                && let Some((_, message)) = earlier.report()
            {
                out.warn(&format!("{}: {message}", escape(name)));
            }
        }
    }
    failed.map_or(Ok(()), |(_, failure)| Err(failure))
}

async fn ls(api: &Api, out: &Output) -> Result<(), Failure> {
    let all = api.workspaces().await?;
    out.response("workspace_ls", [("vms".to_owned(), json!(all))].into_iter().collect())?;
    if all.is_empty() {
        return out.line("No workspaces. Create one with `rig workspace spawn`.");
    }
    let rows = all.iter().map(|vm| {
        vec![
            vm.name.clone(),
            vm.id.clone(),
            status_text(vm),
            vm.template_id.clone(),
            vm.ram_mb.to_string(),
            vm.vcpu_count.to_string(),
            vm.disk_size_mb.to_string(),
        ]
    });
    out.table(&["NAME", "ID", "STATUS", "TEMPLATE", "RAM MiB", "VCPUS", "DISK MiB"], rows)
}

fn status_text(vm: &Vm) -> String {
    match (&vm.failure_code, &vm.agent, vm.system.as_deref()) {
        (Some(code), _, _) => format!("{} ({code})", vm.status),
        (None, Some(agent), _) => format!("{} (agent {agent})", vm.status),
        (None, None, Some(system)) if system != "running" => format!("{} (system {system})", vm.status),
        (None, None, _) => vm.status.clone(),
    }
}

async fn show(api: &Api, out: &Output, text: &str) -> Result<(), Failure> {
    let fields = fields_of(&api.with_id(text, async |id| api.workspace(id).await).await?)?;
    let shown = fields.get("vm").and_then(Value::as_object).cloned().unwrap_or_default();
    out.response("workspace_show", fields)?;
    out.fields(&shown)
}

async fn start(api: &Api, out: &Output, text: &str, wait: Wait) -> Result<(), Failure> {
    let vm = api.find(text).await?;
    let progress = out.progress();
    let started = boot(api, out, &progress, &vm, wait).await?;
    drop(progress);
    print(out, "workspace_start", &started)
}

async fn stop(api: &Api, out: &Output, text: &str) -> Result<(), Failure> {
    let vm = api.find(text).await?;
    let progress = out.progress();
    let stopped = shut_down(api, out, &progress, &vm).await?;
    drop(progress);
    print(out, "workspace_stop", &stopped)
}

async fn restart(api: &Api, out: &Output, text: &str, wait: Wait) -> Result<(), Failure> {
    let mut vm = api.find(text).await?;
    let progress = out.progress();
    if vm.status == "running" {
        vm = shut_down(api, out, &progress, &vm).await?.vm;
    }
    let started = boot(api, out, &progress, &vm, wait).await?;
    drop(progress);
    print(out, "workspace_restart", &started)
}

/// Starts a workspace, or retries a failed one, and waits for it.
async fn boot(
    api: &Api,
    out: &Output,
    progress: &Progress,
    vm: &Vm,
    wait: Wait,
) -> Result<GetWorkspace, Failure> {
    let operation = if vm.status == "failed" { "retry" } else { "start" };
    progress.set_message(&format!("starting {}", vm.name));
    let is_starting = Cell::new(false);
    let start = async {
        let starting = operate(api, vm, operation, "running").await?;
        is_starting.set(true);
        let waiter = Waiter::new(api, out, progress);
        let running = waiter.until(starting, "running").await?;
        match wait {
            Wait::Running => Ok(running),
            Wait::System => waiter.until_system(running).await,
        }
    };
    unless_interrupted(start, || match is_starting.get() {
        true => format!("{} goes on starting in the background", vm.name),
        false => format!("interrupted; {} may not have been started", vm.name),
    })
    .await
}

/// Requests an operation. A workspace that is in the wanted status already needs none.
async fn operate(api: &Api, vm: &Vm, operation: &str, wanted: &str) -> Result<GetWorkspace, Failure> {
    match api.operate(&vm.id, operation).await {
        Err(ApiError::Refused { code, details, .. })
            if code == "invalid_state" && details.get("status").is_some_and(|status| status == wanted) =>
        {
            Ok(api.workspace(&vm.id).await?)
        }
        result => Ok(result?),
    }
}

async fn shut_down(api: &Api, out: &Output, progress: &Progress, vm: &Vm) -> Result<GetWorkspace, Failure> {
    progress.set_message(&format!("stopping {}", vm.name));
    let stopping = operate(api, vm, "stop", "stopped").await?;
    Waiter::new(api, out, progress).until(stopping, "stopped").await
}

/// Prints the workspace and its status.
fn print(out: &Output, event: &str, workspace: &GetWorkspace) -> Result<(), Failure> {
    let fields: Map<String, Value> = fields_of(workspace)?;
    out.response(event, fields)?;
    let vm = &workspace.vm;
    out.line(&format!("{} ({}) is {}", escape(&vm.name), escape(&vm.id), escape(&vm.status)))
}
