//! `rig ssh`: the system's own `ssh`, told where a workspace is and by which key the gateway is known.

mod config;
mod gateway;
mod settings;
mod stdio;

use std::ffi::OsString;
use std::process::Command;

use crate::api::{Api, Vm};
use crate::args::{SshArguments, SshCommand, SshInfoArguments};
use crate::failure::Failure;
use crate::output::{Event, Output, escape};
use gateway::Gateway;

/// Exit code of any failure of `rig` itself, as that of `ssh`.
const FAILED: u8 = 255;

pub(super) async fn run(api: &Api, out: &Output, arguments: SshArguments) -> Result<u8, Failure> {
    match arguments.command {
        Some(SshCommand::Keys(command)) => super::ssh_key::run(api, out, command).await.map(|()| 0),
        Some(SshCommand::Config { stdio }) => config::write(api, out, stdio).await.map(|()| 0),
        None => {
            let ended = match arguments.workspace {
                Some(workspace) if arguments.stdio => stdio::run(api, &workspace).await,
                workspace => log_in(api, workspace, &arguments.remote).await,
            };
            ended.or_else(|failure| {
                out.failure(&failure);
                Ok(FAILED)
            })
        }
    }
}

async fn log_in(api: &Api, workspace: Option<String>, remote: &[String]) -> Result<u8, Failure> {
    let vm = match workspace {
        Some(text) => api.find(&text).await?,
        None => only_running(api).await?,
    };
    let gateway = Gateway::find(api).await?;
    let known_hosts = gateway.save()?;
    let mut option = OsString::from("UserKnownHostsFile=");
    option.push(&known_hosts);
    let mut ssh = Command::new("ssh");
    ssh.args(["-p", &gateway.port.to_string(), "-o"]).arg(option);
    ssh.args(["-o", "StrictHostKeyChecking=yes", "-o", "UpdateHostKeys=no"]);
    ssh.arg(format!("{}@{}", user(&vm), gateway.host)).args(remote);
    let status = ssh.status().map_err(|error| {
        Failure::new(
            "ssh",
            format!("cannot run ssh: {error}. Install OpenSSH's client, or use `rig exec -it`"),
        )
    })?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(FAILED))
}

/// Prints where a workspace is.
pub(super) async fn info(api: &Api, out: &Output, arguments: &SshInfoArguments) -> Result<(), Failure> {
    let (vm, gateway) = (api.find(arguments.workspace.name_or_id()).await?, Gateway::find(api).await?);
    let start_on_connect = settings::start_on_connect(api, &vm.id, arguments.start_on_connect).await?;
    let (user, host, port) = (user(&vm), gateway.host.as_str(), gateway.port);
    let ssh_target = format!("{user}@{host}");
    out.event(&Event::SshInfo {
        workspace: &vm.name,
        workspace_id: &vm.id,
        status: &vm.status,
        user: &user,
        host,
        port,
        ssh_target: &ssh_target,
        start_on_connect,
    })?;
    out.line(&format!("ssh -p {port} {}", escape(&ssh_target)))?;
    if start_on_connect {
        out.line("It is started when you connect.")?;
    }
    out.line("")?;
    out.line("For ~/.ssh/config:")?;
    let stanza = config::stanza(&vm.name, &user, &gateway, None, None);
    stanza.lines().try_for_each(|line| out.line(&format!("  {}", escape(line))))?;
    out.line("")?;
    out.line("For ~/.ssh/known_hosts:")?;
    gateway.known_hosts.lines().try_for_each(|line| out.line(&format!("  {}", escape(line))))
}

/// Returns the user name by which the gateway knows a workspace.
fn user(vm: &Vm) -> String {
    format!("{}-{}", vm.name, crate::name::id_suffix(&vm.id))
}

async fn only_running(api: &Api) -> Result<Vm, Failure> {
    let mut running = api.workspaces().await?;
    running.retain(|vm| vm.status == "running");
    let names: Vec<&str> = running.iter().map(|vm| vm.name.as_str()).collect();
    let message = match names.as_slice() {
        [] => "no workspace is running; start one with `rig workspace start`".to_owned(),
        [_] => String::new(),
        several => format!("several workspaces are running; name one of {}", several.join(", ")),
    };
    running.pop().filter(|_| message.is_empty()).ok_or_else(|| Failure::new("usage", message))
}
