//! Rigbox in the machine: installed as people do it, and used through `rig`.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rigbox_conformance::Place;
use rigbox_testkit::blocking::eventually;

use super::random;

/// Disk with the programs under test.
const PROGRAMS: &str = "/opt/rigbox";
const FOLDER: &str = "/usr/local/lib/rigbox";
const UNIT: &str = "/etc/systemd/system/rigboxd.service";
const CONFIG: &str = "/etc/rigbox/rigbox.toml";
const KEY: &str = "/etc/rigbox/owner.key";
const API: &str = "localhost:7070";
/// A start copies the image and probes KVM, and all of it is emulated.
const READY_TIMEOUT: Duration = Duration::from_secs(400);
/// Limit for what Rigbox or systemd does in a moment on a real machine.
pub(super) const SETTLE_TIMEOUT: Duration = Duration::from_secs(60);
/// A start in emulation, and twice as long as seen on a busy host.
pub(super) const START_TIMEOUT: Duration = Duration::from_secs(300);
/// The machine has no network. Boots take longer than on any real one.
const SETTINGS: &str = "[node]\nimage_cache = \"/opt/rigbox-image\"\nuplink = \"none\"\ndns = []\nkvm_probe_timeout_s = 120\nboot_timeout_s = 300\n";

/// Firecracker, if the VMs are to run in it.
const FIRECRACKER: &str = "/opt/rigbox/firecracker";

pub(crate) struct Installation;

/// Monitor that VMs run in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Driver {
    Qemu,
    Firecracker,
}

impl Installation {
    pub(super) fn new() -> Self {
        Self
    }

    /// Returns the monitor that VMs are to run in.
    pub(super) fn driver(&self) -> Driver {
        if Path::new(FIRECRACKER).exists() { Driver::Firecracker } else { Driver::Qemu }
    }

    /// Installs the programs and the unit, and creates the administrator.
    pub(super) fn install(&self) -> Result<()> {
        fs::create_dir_all(format!("{FOLDER}/guest"))?;
        fs::create_dir_all("/etc/rigbox")?;
        for program in ["rigboxd", "guest/init", "guest/rig"] {
            fs::copy(format!("{PROGRAMS}/{program}"), format!("{FOLDER}/{program}")).context(program)?;
        }
        fs::copy(format!("{PROGRAMS}/rig"), "/usr/local/bin/rig")?;
        std::os::unix::fs::symlink(format!("{FOLDER}/rigboxd"), "/usr/local/bin/rigboxd")?;
        fs::copy(format!("{PROGRAMS}/rigboxd.service"), UNIT)?;
        let firecracker = match self.driver() {
            Driver::Firecracker => format!("firecracker = {FIRECRACKER:?}\n"),
            Driver::Qemu => String::new(),
        };
        fs::write(CONFIG, format!("{SETTINGS}{firecracker}"))?;
        // Control wants a resolver, although nobody will answer.
        fs::write("/etc/resolv.conf", "nameserver 127.0.0.1\n")?;
        fs::write(KEY, run("rigboxd", &["bootstrap", "--email", "owner@example.org"])?)?;
        run("systemctl", &["enable", "--now", "rigboxd.service"]).map(drop)
    }

    /// Waits until the API answers and the node is there.
    pub(super) fn wait_ready(&self) -> Result<()> {
        eventually("Rigbox is ready", READY_TIMEOUT, || {
            // Without `rig`, which is not cheap in this machine.
            let mut api = TcpStream::connect(API)?;
            api.write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost:7070\r\nConnection: close\r\n\r\n")?;
            let mut response = String::new();
            api.read_to_string(&mut response)?;
            ensure!(response.starts_with("HTTP/1.1 200"), "{response}");
            Ok(Some(()))
        })
    }

    /// Does what ends the service, and waits until another one is ready.
    pub(super) fn wait_restarted(&self, disturb: impl FnOnce() -> Result<()>) -> Result<()> {
        let main = self.main_pid()?;
        disturb()?;
        eventually("another supervisor runs", SETTLE_TIMEOUT, || {
            Ok((!["0", &main].contains(&self.main_pid()?.as_str())).then_some(()))
        })?;
        self.wait_ready()
    }

    /// Returns the administrator's key.
    pub(super) fn key(&self) -> Result<String> {
        Ok(fs::read_to_string(KEY)?.trim().to_owned())
    }

    /// Runs `rig` as the administrator, and returns its output.
    pub(super) fn rig(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new("rig");
        command.args(arguments).env("RIG_API_URL", format!("http://{API}")).env("RIG_API_KEY", self.key()?);
        output(command)
    }

    /// Runs a command line in a workspace.
    pub(super) fn exec(&self, workspace: &str, line: &str) -> Result<String> {
        self.rig(&["exec", workspace, "--shell", "--", line])
    }

    /// Returns a field of a workspace.
    pub(super) fn field(&self, workspace: &str, field: &str) -> Result<String> {
        let shown = self.rig(&["workspace", "show", workspace, "--output", "json"])?;
        let shown: serde_json::Value = serde_json::from_str(&shown).with_context(|| shown.clone())?;
        let value = shown.get("vm").and_then(|vm| vm.get(field));
        Ok(value
            .and_then(|value| value.as_str())
            .with_context(|| format!("no {field} in {shown}"))?
            .to_owned())
    }

    /// Waits until the node has seen what happened while it was away, and the workspace runs.
    pub(super) fn wait_status(&self, workspace: &str, status: &str, timeout: Duration) -> Result<()> {
        eventually(&format!("{workspace} is {status}"), timeout, || {
            let found = self.field(workspace, "status")?;
            ensure!(found == status, "it is {found}");
            Ok(Some(()))
        })
    }

    /// Returns where its roles are.
    pub(super) fn place(&self) -> Result<Place> {
        let run_dir = Path::new("/run/rigbox").join(self.id()?);
        Ok(Place { run_dir, state_dir: "/var/lib/rigbox".into(), operations: random::length() })
    }

    /// Returns the installation's id, which is in the names of all it makes.
    pub(super) fn id(&self) -> Result<String> {
        let entry = fs::read_dir("/run/rigbox")?.next().context("/run/rigbox is empty")??;
        Ok(entry.file_name().to_string_lossy().into_owned())
    }

    /// Returns the node's file with the places of control groups.
    pub(super) fn record_of_places(&self) -> Result<PathBuf> {
        Ok(Path::new("/run/rigbox").join(self.id()?).join("node/own/cgroups"))
    }

    /// Returns the file of a workspace's disk.
    pub(super) fn disk(&self, workspace: &str) -> Result<PathBuf> {
        let disks = Path::new("/run/rigbox").join(self.id()?).join("node/own/volume/disks");
        Ok(disks.join(format!("{}.ext4", self.field(workspace, "id")?)))
    }

    /// Replaces `rigboxd` by a new file of the same content, as an upgrade does.
    pub(super) fn upgrade(&self) -> Result<()> {
        let (program, new) = (format!("{FOLDER}/rigboxd"), format!("{FOLDER}/rigboxd.new"));
        fs::copy(&program, &new)?;
        Ok(fs::rename(new, program)?)
    }

    /// Returns whether the service runs the program that is installed.
    pub(super) fn is_current(&self) -> Result<bool> {
        let running = fs::metadata(format!("/proc/{}/exe", self.main_pid()?))?;
        Ok(running.ino() == fs::metadata(format!("{FOLDER}/rigboxd"))?.ino())
    }

    /// Returns the pid of the supervisor.
    pub(super) fn main_pid(&self) -> Result<String> {
        run("systemctl", &["show", "rigboxd.service", "--property=MainPID", "--value"])
    }
}

/// Runs a program, and returns its output without white space around it.
pub(super) fn run(program: &str, arguments: &[&str]) -> Result<String> {
    let mut command = Command::new(program);
    command.args(arguments);
    output(command)
}

fn output(mut command: Command) -> Result<String> {
    // For the tools' own output, and for `rigboxd bootstrap`, as in a shell of root.
    command.env("HOME", "/root").env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    let output = command.output().with_context(|| format!("{command:?}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    ensure!(
        output.status.success(),
        "{:?} {:?} ended with {}: {} {}",
        command.get_program(),
        command.get_args().collect::<Vec<_>>(),
        output.status,
        text(&output.stdout),
        text(&output.stderr)
    );
    Ok(text(&output.stdout))
}
