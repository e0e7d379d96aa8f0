//! `cargo xtask down`: stops what `up` started; with `--purge`, removes every trace of it.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::build::run;
use crate::place::{Place, cli_config, field_of, program};
use crate::steps::step;

const END_WITHIN: Duration = Duration::from_secs(30);

/// Stops the VMs in order, then Rigbox.
pub(crate) fn down(place: &Place, purge: bool) -> Result<()> {
    if !place.config().exists() {
        eprintln!("there is no installation in {}", place.state.display());
        return Ok(());
    }
    if place.supervisor()?.is_some() {
        if !purge {
            // Best effort: what does not stop in order is ended below.
            let stopped = step("stop the workspaces", "", || stop_workspaces(place));
            if let Err(error) = stopped {
                eprintln!("    {error:#}; going on");
            }
        }
        step("stop Rigbox", "end the process named in the message", || stop_supervisor(place))?;
    }
    step("end what is left of VMs", "run it again; a mount may have been in use", || {
        let mut command = Command::new(program("rigboxd"));
        command.arg("purge").arg("--config").arg(place.config());
        run(if purge { command.arg("--everything") } else { &mut command })
    })?;
    if purge {
        // Not one for another server, nor one that this key is not in.
        let key = field_of(&place.admin(), "api_key");
        if let Some(config) =
            cli_config().filter(|config| key.is_some() && field_of(config, "api_key") == key)
        {
            fs::remove_file(config)?;
        }
        fs::remove_dir_all(&place.state).with_context(|| place.state.display().to_string())?;
    }
    Ok(())
}

fn stop_workspaces(place: &Place) -> Result<()> {
    let output = place.rig()?.args(["workspace", "ls", "--output", "json"]).output()?;
    let listed: serde_json::Value = serde_json::from_slice(&output.stdout).context("rig workspace ls")?;
    for vm in listed.get("vms").and_then(|vms| vms.as_array()).into_iter().flatten() {
        let field = |name: &str| vm.get(name).and_then(|value| value.as_str()).unwrap_or_default();
        if field("status") == "running" {
            run(place.rig()?.args(["workspace", "stop", "-n", field("id")]))?;
        }
    }
    Ok(())
}

/// Ends the supervisor and its roles; VMs stay.
pub(crate) fn stop_supervisor(place: &Place) -> Result<()> {
    let Some(pid) = place.supervisor()? else { return Ok(()) };
    let process = rustix::process::Pid::from_raw(pid.cast_signed()).context("the supervisor's pid")?;
    rustix::process::kill_process(process, rustix::process::Signal::TERM)?;
    let deadline = Instant::now() + END_WITHIN;
    while place.supervisor()?.is_some() {
        anyhow::ensure!(Instant::now() < deadline, "rigboxd (pid {pid}) does not end");
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}
