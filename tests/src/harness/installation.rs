//! Installation under test: a real `rigboxd` with its state in the scratch folder, and ways to break it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use rigbox_testkit::blocking::eventually;

use crate::harness::api::Api;
use crate::harness::internet::{CERTIFICATE, Internet, RESOLVER};

/// Port of the API.
pub(crate) const PORT: u16 = 7070;
/// Port of the SSH gateway.
pub(crate) const SSH_PORT: u16 = 7022;
/// Port of the AI provider of the tests.
pub(crate) const AI_PORT: u16 = 7044;
/// Limit of a workspace's disk traffic: below what emulated VMs reach.
pub(crate) const DISK_MB_PER_S: u32 = 100;
/// Fewer than some test boots at once.
const MAX_CONCURRENT_BOOTS: u32 = 3;
/// Port of the SMTP server that the installation uses.
pub(crate) const MAIL_PORT: u16 = 2525;
/// Generated requests come faster than people's; the administrator's rates are the defaults.
const RATES: &str = "[plans.free]\nauthentication_per_min = 100000\nworkspaces_per_min = 100000\n\
    [plans.anonymous]\nauthentication_per_min = 100000\nworkspaces_per_min = 100000\n";

/// Where a kept host has the owner's key, for the next run; not below the folders that are searched for secrets.
const KEPT_KEY: &str = "/run/owner.key";

/// Files in the scratch folder of a kept host that belong to the host and the installation, and not to a test.
const KEPT_FILES: [&str; 8] =
    ["home", "installation", CERTIFICATE, "mounts", "ready", "resolver.log", "rigbox.toml", "rigboxd.log"];

pub(crate) struct Installation {
    pub(crate) scratch: PathBuf,
    programs: PathBuf,
    supervisor: Mutex<Option<Child>>,
    pub(crate) key: String,
    /// Id, which is in the names of all its resources.
    pub(crate) id: String,
    pub(crate) api: Api,
    pub(crate) internet: Internet,
    /// Mounts before the installation started.
    pub(crate) mounts_before: String,
}

impl Installation {
    /// Starts it in a new host. In a kept one, removes what earlier runs have left in it.
    pub(crate) fn open() -> Result<Self> {
        let scratch = crate::harness::host::scratch()?;
        let programs = std::env::current_exe()?.parent().context("the programs' folder")?.to_owned();
        let mut installation = Self {
            internet: Internet::new(&scratch),
            api: Api::new(&format!("http://localhost:{PORT}"))?,
            scratch,
            programs,
            supervisor: Mutex::new(None),
            key: String::new(),
            id: String::new(),
            mounts_before: String::new(),
        };
        let mounts = installation.scratch.join("mounts");
        if installation.config().exists() {
            installation.clear().context("the kept host is of no use any more: try again with --fresh")?;
        } else {
            fs::copy("/proc/self/mountinfo", &mounts)?;
            installation.configure()?;
        }
        installation.mounts_before = fs::read_to_string(&mounts)?;
        installation.start_supervisor()?;
        installation.wait_ready()?;
        let run = fs::read_dir("/run/rigbox")?.next().context("/run/rigbox is empty")??;
        installation.id = run.file_name().to_string_lossy().into_owned();
        fs::write(installation.scratch.join("installation"), &installation.id)?;
        let mut bootstrap = installation.command("rigboxd");
        bootstrap.args(["bootstrap", "--email", "owner@example.org", "--config"]).arg(installation.config());
        let output = bootstrap.stderr(Stdio::inherit()).output()?;
        anyhow::ensure!(output.status.success(), "rigboxd bootstrap failed");
        installation.key = String::from_utf8(output.stdout)?.trim().to_owned();
        installation.api.key = installation.key.clone();
        if crate::harness::host::is_kept() {
            fs::write(KEPT_KEY, &installation.key)?;
        }
        Ok(installation)
    }

    fn configure(&self) -> Result<()> {
        // A state folder that the roles' users cannot enter, as below a private home.
        let home = self.scratch.join("home");
        fs::create_dir(&home)?;
        fs::set_permissions(&home, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
        // At all addresses, so that clients may come from thousands of them.
        let config = format!(
            "state = {:?}\n[api]\nlisten = \"[::]:{PORT}\"\n[apps]\nlisten = \"[::]:{}\"\n\
             [ssh]\nlisten = \"[::]:{SSH_PORT}\"\n[node]\ndns = [\"{RESOLVER}\"]\n\
             allow_emulation = true\ndisk_mb_per_s = {DISK_MB_PER_S}\nmax_concurrent_boots = {MAX_CONCURRENT_BOOTS}\n[mail]\n\
             smtp_url = \"smtp://127.0.0.1:{MAIL_PORT}\"\nfrom = \"Rigbox <rigbox@example.org>\"\n{RATES}\
             [ai]\nauthorities = {:?}\n{}",
            self.state().display().to_string(),
            crate::harness::visitor::PORT,
            self.scratch.join(CERTIFICATE).display().to_string(),
            ["anthropic", "openai", "google"].map(ai_upstream).concat()
        );
        Ok(fs::write(self.config(), config)?)
    }

    /// Removes all workspaces of an earlier run, and then control's state: users, keys, apps.
    fn clear(&mut self) -> Result<()> {
        if self.supervisor_pid()?.is_none() {
            self.start_supervisor()?;
        }
        self.wait_ready()?;
        self.api.key = fs::read_to_string(KEPT_KEY)?;
        let listed = self.api.get("/workspaces?limit=1000")?.expect(200)?;
        let vms = listed.get("vms").and_then(|vms| vms.as_array()).context("no list")?;
        let ids: Vec<&str> = vms.iter().filter_map(|vm| vm.get("id")?.as_str()).collect();
        for id in &ids {
            self.api.delete(&format!("/workspaces/{id}"))?.expect(200)?;
        }
        for id in &ids {
            self.api.wait_gone(id)?;
        }
        self.kill_supervisor()?;
        fs::remove_dir_all(self.state().join("control"))?;
        for entry in fs::read_dir(&self.scratch)? {
            let entry = entry?;
            if KEPT_FILES.iter().any(|kept| entry.file_name() == *kept) {
                continue;
            }
            let is_folder = entry.file_type()?.is_dir();
            if is_folder { fs::remove_dir_all(entry.path())? } else { fs::remove_file(entry.path())? }
        }
        Ok(())
    }

    /// Returns the pid of the supervisor, which holds the lock that its pid is in.
    fn supervisor_pid(&self) -> Result<Option<i32>> {
        let path = self.state().join("lock");
        let Ok(lock) = fs::File::open(&path) else { return Ok(None) };
        if lock.try_lock_shared().is_ok() {
            return Ok(None);
        }
        Ok(Some(fs::read_to_string(&path)?.trim().parse()?))
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.scratch.join("home/state")
    }

    pub(crate) fn run_dir(&self) -> PathBuf {
        Path::new("/run/rigbox").join(&self.id)
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.scratch.join("rigbox.toml")
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.scratch.join("rigboxd.log")
    }

    pub(crate) fn log_tail(&self, lines: usize) -> String {
        let log = fs::read_to_string(self.log()).unwrap_or_default();
        let all: Vec<&str> = log.lines().collect();
        all.get(all.len().saturating_sub(lines)..).unwrap_or_default().join("\n")
    }

    /// Returns a command for a program that was built with this suite.
    pub(crate) fn command(&self, program: &str) -> Command {
        Command::new(self.programs.join(program))
    }

    /// Runs `rigboxd admin`, and returns its output.
    pub(crate) fn admin(&self, arguments: &[&str]) -> Result<String> {
        let mut command = self.command("rigboxd");
        let output = command.arg("admin").args(arguments).arg("--config").arg(self.config()).output()?;
        let message = String::from_utf8_lossy(&output.stderr);
        anyhow::ensure!(output.status.success(), "rigboxd admin {}: {message}", arguments.join(" "));
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    }

    /// Returns a command for the CLI as the owner.
    pub(crate) fn rig(&self, arguments: &[&str]) -> Command {
        let mut command = self.command("rig");
        command.args(arguments).env("RIG_API_URL", &self.api.url).env("RIG_API_KEY", &self.key);
        command.env("HOME", &self.scratch).stdin(Stdio::null());
        command
    }

    /// Copies `rigboxd`, with what belongs beside it, into a folder.
    pub(crate) fn copy_programs(&self, folder: &Path) -> Result<()> {
        fs::create_dir_all(folder.join("guest"))?;
        fs::copy(self.programs.join("rigboxd"), folder.join("rigboxd"))?;
        for entry in fs::read_dir(self.programs.join("guest"))? {
            let path = entry?.path();
            fs::copy(&path, folder.join("guest").join(path.file_name().context("no name")?))?;
        }
        Ok(())
    }

    pub(crate) fn start_supervisor(&self) -> Result<()> {
        self.start_supervisor_of(&self.programs)
    }

    /// Starts the `rigboxd` of a folder.
    pub(crate) fn start_supervisor_of(&self, programs: &Path) -> Result<()> {
        let log = fs::File::options().create(true).append(true).open(self.log())?;
        let child = Command::new(programs.join("rigboxd"))
            .args(["up", "--config"])
            .arg(self.config())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        *self.supervisor.lock().unwrap_or_else(PoisonError::into_inner) = Some(child);
        Ok(())
    }

    pub(crate) fn wait_ready(&self) -> Result<()> {
        eventually("the installation is ready", Duration::from_secs(90), || {
            Ok(self.api.get("/readyz").ok().filter(|response| response.status == 200).map(drop))
        })
    }

    /// Ends the supervisor as an operator does. It ends its roles first.
    pub(crate) fn stop_supervisor(&self) -> Result<()> {
        let pid = self.supervisor_pid()?.context("no supervisor")?;
        rigbox_sys::spawn::send_signal(pid, 15)?;
        let child = self.supervisor.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(mut child) = child {
            child.wait()?;
        }
        eventually("the supervisor has ended its roles", Duration::from_secs(30), || {
            Ok((self.supervisor_pid()?.is_none() && self.role_pids()?.is_empty()).then_some(()))
        })
    }

    /// Kills the supervisor; its roles end with it.
    pub(crate) fn kill_supervisor(&self) -> Result<()> {
        let mut supervisor = self.supervisor.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(mut child) = supervisor.take() {
            child.kill()?;
            child.wait()?;
        } else if let Some(pid) = self.supervisor_pid()? {
            // An earlier run started it, in a kept host.
            rigbox_sys::spawn::send_signal(pid, 9)?;
        }
        eventually("the roles end with their supervisor", Duration::from_secs(10), || {
            Ok((self.supervisor_pid()?.is_none() && self.role_pids()?.is_empty()).then_some(()))
        })
    }

    /// Returns names and pids of the roles.
    pub(crate) fn role_pids(&self) -> Result<Vec<(String, i32)>> {
        let mut found = Vec::new();
        for (pid, arguments) in processes()? {
            if let [program, first, second, ..] = arguments.as_slice()
                && program == "rigboxd"
                && first == "role"
            {
                found.push((second.clone(), pid));
            }
        }
        Ok(found)
    }

    /// Kills a role with SIGKILL.
    pub(crate) fn kill_role(&self, role: &str) -> Result<()> {
        let pids = self.role_pids()?;
        // A role that is being restarted is dead already.
        for (_, pid) in pids.iter().filter(|(name, _)| name == role) {
            let _ = rigbox_sys::spawn::send_signal(*pid, 9);
        }
        Ok(())
    }

    /// Runs `work` while a role is stopped by SIGSTOP.
    pub(crate) fn without_role(&self, role: &str, work: impl FnOnce() -> Result<()>) -> Result<()> {
        let mut pids = self.role_pids()?;
        pids.retain(|(name, _)| name == role);
        let send = |number| pids.iter().try_for_each(|(_, pid)| rigbox_sys::spawn::send_signal(*pid, number));
        // SIGSTOP and SIGCONT
        send(19)?;
        let done = work();
        send(18)?;
        done
    }

    /// Returns the pids of VMMs; this host has no others.
    pub(crate) fn vmm_pids(&self) -> Result<Vec<i32>> {
        let vmms = processes()?.into_iter().filter(|(_, arguments)| {
            arguments.first().is_some_and(|program| program.contains("qemu-system"))
        });
        Ok(vmms.map(|(pid, _)| pid).collect())
    }
}

/// Returns the configuration of an upstream of AI calls: the provider of the tests.
fn ai_upstream(provider: &str) -> String {
    format!(
        "[ai.upstreams.{provider}]\nprovider = \"{provider}\"\nbase_url = \"http://127.0.0.1:{AI_PORT}\"\n"
    )
}

/// Returns the memory of a process in KiB.
pub(crate) fn memory_kb(pid: i32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

/// Returns all processes of this host with their arguments.
pub(crate) fn processes() -> Result<Vec<(i32, Vec<String>)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
        // It may have ended.
        let Ok(line) = fs::read(format!("/proc/{pid}/cmdline")) else { continue };
        let arguments = line.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned());
        found.push((pid, arguments.collect()));
    }
    Ok(found)
}
