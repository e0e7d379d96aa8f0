//! LiteLLM's proxy beside ours. Its packages are a stranger's: it runs as nobody, with no secret in its environment, in a network that has
//! nothing but the benchmark.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use rigbox_sys::spawn::{ChildSetup, Credentials, configure_child};
use rigbox_testkit::blocking::eventually;

use super::addresses::{LITELLM, PROVIDER};
use super::load;
use super::message::{MODEL, PROVIDER_KEY};
use crate::{host, namespaces};

/// Folder of its virtual environment; `cargo xtask bench` sets it.
const FOLDER: &str = "RIGBOX_LITELLM";
/// `nobody` and `nogroup`.
const NOBODY: u32 = 65_534;
/// Time until calls are answered: its imports alone take long.
const READY_TIMEOUT: Duration = Duration::from_secs(180);

/// Running LiteLLM. Ends when dropped.
pub(super) struct LiteLlm(Child);

impl LiteLlm {
    /// Starts it with one worker, and waits until it answers a call.
    pub(super) fn start(folder: &Path) -> Result<Self> {
        let installed = std::env::var_os(FOLDER).context("no LiteLLM; use `cargo xtask bench ai`")?;
        // Where anyone can read it.
        let program = folder.join("litellm");
        fs::create_dir(&program)?;
        namespaces::bind(&PathBuf::from(installed), &program)?;
        let home = folder.join("litellm-home");
        fs::create_dir(&home)?;
        fs::set_permissions(&home, fs::Permissions::from_mode(0o777))?;
        let config = folder.join("litellm.yaml");
        fs::write(&config, configuration())?;
        let log = folder.join("litellm.log");
        let mut command = Command::new(program.join("bin/python"));
        command.arg(program.join("bin/litellm")).arg("--config").arg(&config);
        command.args(["--host", &LITELLM.ip().to_string(), "--port", &LITELLM.port().to_string()]);
        command.args(["--num_workers", "1", "--telemetry", "False"]);
        command.env_clear().env("PATH", "/usr/bin:/bin").env("HOME", &home).current_dir(&home);
        // It would fetch its table of prices.
        command.envs([("LITELLM_LOCAL_MODEL_COST_MAP", "True"), ("LITELLM_MODE", "PRODUCTION")]);
        command.env("LITELLM_LOG", "ERROR");
        let output = fs::File::create(&log)?;
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let credentials = Some(Credentials { uid: NOBODY, gid: NOBODY, groups: Vec::new() });
        configure_child(&mut command, ChildSetup { credentials, ..ChildSetup::default() });
        let process = Self(command.spawn().context("cannot run LiteLLM")?);
        eventually("LiteLLM answers a call", READY_TIMEOUT, || load::call_once(LITELLM).map(Some))
            .with_context(|| fs::read_to_string(&log).unwrap_or_default())?;
        Ok(process)
    }

    /// Returns its processes.
    pub(super) fn pids(&self) -> Result<Vec<u32>> {
        let mut pids = host::children(self.0.id())?;
        pids.push(self.0.id());
        Ok(pids)
    }
}

impl Drop for LiteLlm {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Returns its configuration: the one model, without keys for clients, callbacks or a database.
fn configuration() -> String {
    format!(
        "model_list:\n  - model_name: {MODEL}\n    litellm_params:\n      model: anthropic/{MODEL}\n      \
         api_base: https://{PROVIDER}\n      api_key: {PROVIDER_KEY}\n\
         litellm_settings:\n  telemetry: false\n  ssl_verify: false\n  num_retries: 0\n  set_verbose: false\n\
         general_settings:\n  disable_spend_logs: true\n  \
         dangerously_permit_weak_or_unset_master_key: true\n"
    )
}
