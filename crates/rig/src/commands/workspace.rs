//! `rig workspace`: lists, starts, stops and restarts workspaces. The other commands have files of their own.

mod create;
mod env;
mod remove;
mod wait;

use serde_json::{Map, Value, json};

use crate::api::{Api, GetWorkspace, Vm};
use crate::args::WorkspaceCommand;
use crate::failure::Failure;
use crate::output::{Output, Progress, escape, fields_of};
use wait::Waiter;

pub(super) async fn run(api: &Api, out: &Output, command: WorkspaceCommand) -> Result<(), Failure> {
    match command {
        WorkspaceCommand::Spawn(arguments) => create::spawn(api, out, &arguments).await,
        WorkspaceCommand::New(arguments) => create::new(api, out, &arguments).await,
        WorkspaceCommand::Ls => ls(api, out).await,
        WorkspaceCommand::Start(workspace) => start(api, out, workspace.name_or_id()).await,
        WorkspaceCommand::Stop(workspace) => stop(api, out, workspace.name_or_id()).await,
        WorkspaceCommand::Restart(workspace) => restart(api, out, workspace.name_or_id()).await,
        WorkspaceCommand::Logs { workspace, lines, follow } => {
            let vm = api.find(workspace.name_or_id()).await?;
            super::logs::print(api, out, &["workspaces", &vm.id, "logs"], lines, follow).await
        }
        WorkspaceCommand::Env(command) => env::run(api, out, &command).await,
        WorkspaceCommand::Rm { workspace, force } => {
            remove::rm(api, out, workspace.name_or_id(), force).await
        }
    }
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
    out.table(&["NAME", "ID", "STATUS", "TEMPLATE", "RAM MB", "VCPUS", "DISK MB"], rows)
}

fn status_text(vm: &Vm) -> String {
    match (&vm.failure_code, &vm.agent) {
        (Some(code), _) => format!("{} ({code})", vm.status),
        (None, Some(agent)) => format!("{} (agent {agent})", vm.status),
        (None, None) => vm.status.clone(),
    }
}

async fn start(api: &Api, out: &Output, text: &str) -> Result<(), Failure> {
    let vm = api.find(text).await?;
    let progress = out.progress();
    let started = boot(api, out, &progress, &vm).await?;
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

async fn restart(api: &Api, out: &Output, text: &str) -> Result<(), Failure> {
    let mut vm = api.find(text).await?;
    let progress = out.progress();
    if vm.status == "running" {
        vm = shut_down(api, out, &progress, &vm).await?.vm;
    }
    let started = boot(api, out, &progress, &vm).await?;
    drop(progress);
    print(out, "workspace_restart", &started)
}

/// Starts a workspace, or retries a failed one, and waits until it is running.
async fn boot(api: &Api, out: &Output, progress: &Progress, vm: &Vm) -> Result<GetWorkspace, Failure> {
    let operation = if vm.status == "failed" { "retry" } else { "start" };
    progress.set_message(&format!("starting {}", vm.name));
    let starting = api.operate(&vm.id, operation).await?;
    Waiter::new(api, out, progress).until(starting, "running").await
}

async fn shut_down(api: &Api, out: &Output, progress: &Progress, vm: &Vm) -> Result<GetWorkspace, Failure> {
    progress.set_message(&format!("stopping {}", vm.name));
    let stopping = api.operate(&vm.id, "stop").await?;
    Waiter::new(api, out, progress).until(stopping, "stopped").await
}

/// Prints the workspace and its status.
fn print(out: &Output, event: &str, workspace: &GetWorkspace) -> Result<(), Failure> {
    let fields: Map<String, Value> = fields_of(workspace)?;
    out.response(event, fields)?;
    let vm = &workspace.vm;
    out.line(&format!("{} ({}) is {}", escape(&vm.name), escape(&vm.id), escape(&vm.status)))
}
