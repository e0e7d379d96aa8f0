//! `rig workspace`: listing, and moving a workspace that exists between its states. Making one is in `make`, removing
//! one in `remove`, its environment in `env`, waiting in `wait`.

mod env;
mod make;
mod remove;
mod wait;

use serde_json::{Map, Value, json};

use crate::api::{Api, GetWorkspace, Vm};
use crate::args::WorkspaceCommand;
use crate::failure::Failure;
use crate::output::{Output, Progress, answer_of, plain};
use wait::Watch;

pub(super) async fn run(api: &Api, out: &Output, command: WorkspaceCommand) -> Result<(), Failure> {
    match command {
        WorkspaceCommand::Spawn(arguments) => make::spawn(api, out, &arguments).await,
        WorkspaceCommand::New(arguments) => make::new(api, out, &arguments).await,
        WorkspaceCommand::Ls => ls(api, out).await,
        WorkspaceCommand::Start(which) => start(api, out, which.text()).await,
        WorkspaceCommand::Stop(which) => stop(api, out, which.text()).await,
        WorkspaceCommand::Restart(which) => restart(api, out, which.text()).await,
        WorkspaceCommand::Logs { which, lines, follow } => {
            let vm = api.find(which.text()).await?;
            super::logs::print(api, out, &["workspaces", &vm.id, "logs"], lines, follow).await
        }
        WorkspaceCommand::Env(command) => env::run(api, out, &command).await,
        WorkspaceCommand::Rm { which, force } => remove::rm(api, out, which.text(), force).await,
    }
}

async fn ls(api: &Api, out: &Output) -> Result<(), Failure> {
    let all = api.workspaces().await?;
    out.answer("workspace_ls", [("vms".to_owned(), json!(all))].into_iter().collect())?;
    if all.is_empty() {
        return out.say("no workspaces: `rig workspace spawn` makes one");
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
    done(out, "workspace_start", &started)
}

async fn stop(api: &Api, out: &Output, text: &str) -> Result<(), Failure> {
    let vm = api.find(text).await?;
    let progress = out.progress();
    let stopped = shut_down(api, out, &progress, &vm).await?;
    drop(progress);
    done(out, "workspace_stop", &stopped)
}

async fn restart(api: &Api, out: &Output, text: &str) -> Result<(), Failure> {
    let mut vm = api.find(text).await?;
    let progress = out.progress();
    if vm.status == "running" {
        vm = shut_down(api, out, &progress, &vm).await?.vm;
    }
    let started = boot(api, out, &progress, &vm).await?;
    drop(progress);
    done(out, "workspace_restart", &started)
}

/// Starts a workspace and waits until it runs. One that failed is tried again.
async fn boot(api: &Api, out: &Output, progress: &Progress, vm: &Vm) -> Result<GetWorkspace, Failure> {
    let operation = if vm.status == "failed" { "retry" } else { "start" };
    progress.now(&format!("starting {}", vm.name));
    let starting = api.operate(&vm.id, operation).await?;
    Watch::new(api, out, progress).until(starting, "running").await
}

async fn shut_down(api: &Api, out: &Output, progress: &Progress, vm: &Vm) -> Result<GetWorkspace, Failure> {
    progress.now(&format!("stopping {}", vm.name));
    let stopping = api.operate(&vm.id, "stop").await?;
    Watch::new(api, out, progress).until(stopping, "stopped").await
}

/// The workspace as it is now: the answer for programs, a line for people.
fn done(out: &Output, event: &str, workspace: &GetWorkspace) -> Result<(), Failure> {
    let fields: Map<String, Value> = answer_of(workspace)?;
    out.answer(event, fields)?;
    let vm = &workspace.vm;
    out.say(&format!("{} ({}) is {}", plain(&vm.name), plain(&vm.id), plain(&vm.status)))
}
