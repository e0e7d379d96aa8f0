//! `cargo xtask down`: stops what `up` started. `--purge` also deletes all of it.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::command::run;
use crate::installation::{Installation, cli_config, field_of};
use crate::paths::program;
use crate::steps::step;

const STOP_TIMEOUT: Duration = Duration::from_secs(30);

/// Stops the workspaces, then Rigbox.
pub(crate) fn down(installation: &Installation, purge: bool) -> Result<()> {
    if !installation.config().exists() {
        eprintln!("No installation in {}.", installation.state.display());
        return Ok(());
    }
    if installation.supervisor()?.is_some() {
        if !purge {
            // Best effort: the last step ends what this one leaves.
            let stopped = step("stop the workspaces", "", || stop_workspaces(installation));
            if let Err(error) = stopped {
                eprintln!("    {error:#}; continuing");
            }
        }
        step("stop Rigbox", "end the process named in the message", || stop_supervisor(installation))?;
    }
    step("end remaining VMs", "run it again; a mount may have been in use", || {
        let mut command = Command::new(program("rigboxd"));
        command.arg("purge").arg("--config").arg(installation.config());
        run(if purge { command.arg("--everything") } else { &mut command })
    })?;
    if purge {
        // Keeps the CLI's configuration if it is for another server or has another key.
        let key = field_of(&installation.admin(), "api_key");
        if let Some(config) =
            cli_config().filter(|config| key.is_some() && field_of(config, "api_key") == key)
        {
            fs::remove_file(config)?;
        }
        let state = &installation.state;
        fs::remove_dir_all(state).with_context(|| state.display().to_string())?;
    }
    Ok(())
}

fn stop_workspaces(installation: &Installation) -> Result<()> {
    let output = installation.rig()?.args(["workspace", "ls", "--output", "json"]).output()?;
    let listed: serde_json::Value = serde_json::from_slice(&output.stdout).context("rig workspace ls")?;
    for vm in listed.get("vms").and_then(|vms| vms.as_array()).into_iter().flatten() {
        let field = |name: &str| vm.get(name).and_then(|value| value.as_str()).unwrap_or_default();
        if field("status") == "running" {
            run(installation.rig()?.args(["workspace", "stop", "-n", field("id")]))?;
        }
    }
    Ok(())
}

/// Stops the supervisor and its roles; VMs keep running.
pub(crate) fn stop_supervisor(installation: &Installation) -> Result<()> {
    let Some(pid) = installation.supervisor()? else { return Ok(()) };
    let process = rustix::process::Pid::from_raw(pid.cast_signed()).context("the supervisor's pid")?;
    rustix::process::kill_process(process, rustix::process::Signal::TERM)?;
    let deadline = Instant::now() + STOP_TIMEOUT;
    while installation.supervisor()?.is_some() {
        anyhow::ensure!(Instant::now() < deadline, "rigboxd (pid {pid}) does not stop");
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}
