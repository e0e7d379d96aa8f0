//! Commands, one file per noun. Each sends requests and prints the result.

mod ai;
mod api_key;
mod app;
mod audit;
mod completion;
mod cp;
mod doctor;
mod exec;
mod hidden_value;
mod limits;
mod login;
mod logs;
mod names;
mod proxy;
mod secret;
mod ssh;
mod ssh_key;
mod status;
mod template;
mod whoami;
mod workspace;

use crate::api::Api;
use crate::args::Command;
use crate::config::Config;
use crate::failure::Failure;
use crate::output::Output;

/// Runs a command, and returns its exit code.
pub(crate) async fn run(command: Command, out: &Output) -> Result<u8, Failure> {
    if let Command::Completion { shell } = command {
        return completion::run(shell, out).map(|()| 0);
    }
    let config = Config::load()?;
    if let Some(warning) = &config.warning {
        out.warn(warning);
    }
    let api = Api::new(&config)?;
    match command {
        Command::Exec(arguments) => return exec::run(&api, out, arguments).await,
        Command::Attach { workspace, id } => {
            return exec::background::attach(&api, out, &workspace, &id).await;
        }
        Command::Cp { source, target, user } => cp::run(&api, out, &source, &target, user).await?,
        Command::Ps { workspace } => exec::background::ps(&api, out, &workspace).await?,
        Command::Kill { workspace, id, signal } => {
            exec::background::kill(&api, out, &workspace, &id, &signal).await?;
        }
        Command::Workspace(command) => workspace::run(&api, out, command).await?,
        Command::Login => login::login(&api, out).await?,
        Command::Logout => login::logout(&api, out).await?,
        Command::Whoami => whoami::run(&api, out).await?,
        Command::Status => status::run(&api, out).await?,
        Command::Limits => limits::run(&api, out).await?,
        Command::Ai(command) => ai::run(&api, out, &command).await?,
        Command::Proxy(command) => proxy::run(&api, out, command).await?,
        Command::Secret(command) => secret::run(&api, out, command).await?,
        Command::ApiKey(command) => api_key::run(&api, out, command).await?,
        Command::SshKey(command) => ssh_key::run(&api, out, command).await?,
        Command::Ssh(arguments) => return ssh::run(&api, out, arguments).await,
        Command::App(command) => app::run(&api, out, command).await?,
        Command::Audit { limit } => audit::run(&api, out, limit).await?,
        Command::Template(command) => template::run(&api, out, &command).await?,
        Command::Doctor => doctor::run(&api, out).await?,
        Command::Completion { .. } => {}
    }
    Ok(0)
}
