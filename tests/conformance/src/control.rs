//! Control's place: the node's and guestio's callers have its uid, so this program has it while it connects.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid, seteuid};
use rigbox_core::ids::WorkspaceId;
use rigbox_proto::guest::exec_exit::Outcome;
use rigbox_proto::guest::exec_input::Input;
use rigbox_proto::guest::exec_output::Output;
use rigbox_proto::guest::guest_client::GuestClient;
use rigbox_proto::guest::{DeliverSecretsRequest, ExecInput, ExecStart};
use rigbox_proto::node::node_client::NodeClient;
use rigbox_proto::node::{
    DescribeRequest, Desired, DiskState, MemoryKey, SetPausedRequest, SetTargetRequest, VmState,
    WorkspaceReport,
};
use rigbox_proto::transport::client::Channel;
use rigbox_proto::transport::unix;
use rigbox_proto::{DATABASE_HEADER, WORKSPACE_HEADER};
use rigbox_testkit::blocking::eventually;
use tokio::runtime::Runtime;
use tokio_stream::StreamExt;
use tonic::{Code, Request};

/// Limit for a boot in emulation.
pub(crate) const BOOT_TIMEOUT: Duration = Duration::from_secs(300);
/// Limit for a save, and for what a node does in a moment.
pub(crate) const SETTLE_TIMEOUT: Duration = Duration::from_secs(120);
/// Time for a guest to shut down by itself.
pub(crate) const GRACE: Duration = Duration::from_secs(60);
const RAM_MB: u32 = 512;
const DISK_MB: u32 = 4096;

/// Codes of a call whose connection broke, or was refused.
const BROKEN: [Code; 4] = [Code::Unavailable, Code::Unknown, Code::Cancelled, Code::Internal];

/// Installation whose control stands still.
#[derive(Debug, Clone)]
pub struct Place {
    /// Folder with the sockets of the roles.
    pub run_dir: PathBuf,
    /// Folder with what outlives the host's boot.
    pub state_dir: PathBuf,
    /// Number of operations at random.
    pub operations: u32,
}

/// Control of an installation, which stands still until this is dropped.
struct StandingStill(Pid);

impl StandingStill {
    fn new(uid: u32) -> Result<Self> {
        for (pid, path) in processes()? {
            let arguments = fs::read_to_string(path.join("cmdline")).unwrap_or_default();
            let is_its = fs::metadata(&path).is_ok_and(|found| found.uid() == uid);
            if is_its && arguments.starts_with("rigboxd\0role\0control\0") {
                kill(pid, Signal::SIGSTOP)?;
                return Ok(Self(pid));
            }
        }
        bail!("control does not run")
    }
}

impl Drop for StandingStill {
    fn drop(&mut self) {
        let _ = kill(self.0, Signal::SIGCONT);
    }
}

/// Caller in control's place, and its workspace.
pub struct Control {
    _standing_still: StandingStill,
    runtime: Runtime,
    place: Place,
    database: String,
    node: NodeClient<Channel>,
    guest: GuestClient<Channel>,
    pub(crate) id: WorkspaceId,
    pub(crate) grace: Duration,
    generation: u64,
}

impl Control {
    /// Connects to the node and to guestio.
    ///
    /// # Errors
    /// They do not answer.
    pub fn open(place: Place) -> Result<Self> {
        let uid = fs::metadata(place.run_dir.join("control"))?.uid();
        // It would stop what it does not know.
        let _standing_still = StandingStill::new(uid)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let database = place.state_dir.join("node/database");
        let database = fs::read_to_string(&database).with_context(|| database.display().to_string())?;
        let (node, guest) = runtime.block_on(connect(&place, database.trim()))?;
        let id = WorkspaceId::from_random([0xc0; 5]);
        Ok(Self {
            _standing_still,
            runtime,
            place,
            database: database.trim().to_owned(),
            node,
            guest,
            id,
            grace: GRACE,
            generation: 0,
        })
    }

    /// Returns the node's report of the workspace.
    fn report(&mut self) -> Result<WorkspaceReport> {
        // The target that it has, which changes nothing.
        self.send(SetTargetRequest {
            generation: 0,
            desired: Desired::Stopped.into(),
            ..SetTargetRequest::default()
        })
    }

    /// Sends a target until the node answers, which may be restarted meanwhile.
    fn send(&mut self, request: SetTargetRequest) -> Result<WorkspaceReport> {
        let request = SetTargetRequest { workspace_id: self.id.to_string(), ..request };
        let request = with_header(request, DATABASE_HEADER, &self.database)?;
        eventually("the node answers", SETTLE_TIMEOUT, || {
            match self.runtime.block_on(self.node.set_target(copy(&request)?)) {
                Err(status) if BROKEN.contains(&status.code()) => {
                    // A connection has the uid that this had when it was made, and the channel makes another one by itself.
                    (self.node, self.guest) = self.runtime.block_on(connect(&self.place, &self.database))?;
                    Ok(None)
                }
                answered => Ok(Some(answered?.into_inner())),
            }
        })
    }

    /// Sets another target.
    pub(crate) fn set(&mut self, desired: Desired, key: Option<[u8; 32]>) -> Result<()> {
        self.generation += 1;
        self.send(SetTargetRequest {
            generation: self.generation,
            desired: desired.into(),
            create: true,
            image: "base".to_owned(),
            disk_size_mb: DISK_MB,
            ram_mb: RAM_MB,
            vcpu_count: 1,
            name: "conformance".to_owned(),
            metadata_json: "{}".to_owned(),
            owner: "conformance".to_owned(),
            grace_ms: u32::try_from(self.grace.as_millis())?,
            memory_key: key.map(|key| MemoryKey { key: key.to_vec().into() }),
            ..SetTargetRequest::default()
        })
        .map(drop)
    }

    /// Lets the guest stand still, or run on.
    ///
    /// # Errors
    /// The node refuses.
    pub fn set_paused(&mut self, paused: bool) -> Result<()> {
        let boot_id = self.report()?.boot_id;
        let request = SetPausedRequest { workspace_id: self.id.to_string(), boot_id, paused };
        let request = with_header(request, DATABASE_HEADER, &self.database)?;
        self.runtime.block_on(self.node.set_paused(request))?;
        Ok(())
    }

    /// Lets the guest stand still, and waits until it does.
    pub(crate) fn pause(&mut self) -> Result<()> {
        self.set_paused(true)?;
        self.until("it stands still", SETTLE_TIMEOUT, |report| report.paused).map(drop)
    }

    /// Waits for a report.
    pub(crate) fn until(
        &mut self,
        what: &str,
        timeout: Duration,
        wanted: impl Fn(&WorkspaceReport) -> bool,
    ) -> Result<WorkspaceReport> {
        eventually(what, timeout, || {
            let report = self.report()?;
            ensure!(wanted(&report), "{report:?}");
            Ok(Some(report))
        })
    }

    /// Waits until the agent in a guest that runs on answers.
    ///
    /// # Errors
    /// It does not.
    pub fn wait_answering(&mut self) -> Result<()> {
        let answers = |report: &WorkspaceReport| !report.paused && !report.agent_lost;
        self.until("its agent answers", SETTLE_TIMEOUT, answers).map(drop)
    }

    /// Starts the workspace, and waits until it answers.
    ///
    /// # Errors
    /// It does not get there.
    pub fn start(&mut self, key: Option<[u8; 32]>) -> Result<WorkspaceReport> {
        self.set(Desired::Running, key)?;
        let generation = self.generation;
        let running = self.until("it runs", BOOT_TIMEOUT, |report| {
            report.vm() == VmState::VmRunning && report.boot_generation == generation && !report.agent_lost
        })?;
        let request = with_header(DeliverSecretsRequest::default(), WORKSPACE_HEADER, self.id.as_str())?;
        eventually("it takes its secrets", SETTLE_TIMEOUT, || {
            let delivered = self.runtime.block_on(self.guest.deliver_secrets(copy(&request)?));
            Ok(Some(delivered?))
        })?;
        Ok(running)
    }

    /// Stops the workspace.
    ///
    /// # Errors
    /// It does not get there.
    pub fn stop(&mut self, key: Option<[u8; 32]>) -> Result<WorkspaceReport> {
        self.set(Desired::Stopped, key)?;
        self.wait_ended()
    }

    /// Waits until the workspace has no VM.
    pub(crate) fn wait_ended(&mut self) -> Result<WorkspaceReport> {
        self.until("its VM has ended", SETTLE_TIMEOUT, |report| report.vm() == VmState::VmNone)
    }

    /// Deletes the workspace.
    ///
    /// # Errors
    /// It is still there.
    pub fn delete(&mut self) -> Result<()> {
        self.set(Desired::Deleted, None)?;
        let is_gone = |report: &WorkspaceReport| report.disk() == DiskState::DiskAbsent;
        self.until("it is deleted", SETTLE_TIMEOUT, is_gone)?;
        self.generation = 0;
        Ok(())
    }

    /// Runs a command line in the workspace as root. Returns its output.
    ///
    /// # Errors
    /// It does not get there.
    pub fn exec(&mut self, line: &str) -> Result<String> {
        let start = ExecStart {
            argv: ["sh", "-c", line].map(str::to_owned).to_vec(),
            user: "root".to_owned(),
            timeout_ms: 60_000,
            ..ExecStart::default()
        };
        // Its end would be that of the command.
        let input = tokio_stream::once(ExecInput { input: Some(Input::Start(start)) });
        let input = input.chain(tokio_stream::pending());
        let request = with_header(input, WORKSPACE_HEADER, self.id.as_str())?;
        let (guest, mut text) = (&mut self.guest, Vec::new());
        self.runtime.block_on(async {
            let mut output = guest.exec(request).await?.into_inner();
            while let Some(message) = output.message().await? {
                match message.output {
                    Some(Output::Stdout(bytes) | Output::Stderr(bytes)) => text.extend_from_slice(&bytes),
                    Some(Output::Exit(exit)) => {
                        let text = String::from_utf8_lossy(&text).trim().to_owned();
                        ensure!(exit.outcome == Some(Outcome::ExitCode(0)), "{line}: {exit:?}: {text}");
                        return Ok(text);
                    }
                    None => {}
                }
            }
            bail!("{line}: it broke off")
        })
    }

    /// Returns the folder of disks and memory images.
    pub(crate) fn volume(&self) -> PathBuf {
        self.place.volume()
    }

    /// Returns the number of operations at random.
    pub(crate) fn operations(&self) -> u32 {
        self.place.operations
    }

    /// Returns the pid of the workspace's VMM.
    pub(crate) fn vmm(&self) -> Result<Option<Pid>> {
        for (pid, path) in processes()? {
            let read = |name: &str| fs::read_to_string(path.join(name)).unwrap_or_default();
            let is_vmm = ["qemu", "firecracker"].iter().any(|vmm| read("comm").starts_with(vmm));
            if is_vmm && read("cgroup").contains(self.id.as_str()) {
                return Ok(Some(pid));
            }
        }
        Ok(None)
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        // A test that failed has left it.
        if self.generation > 0 {
            let _ = self.delete();
        }
    }
}

impl Place {
    fn volume(&self) -> PathBuf {
        let mounted = self.run_dir.join("node/own/volume");
        // A file system that shares blocks needs no mount.
        if mounted.join("disks").exists() { mounted } else { self.state_dir.join("node/volume") }
    }
}

/// Returns all processes and their folders in `/proc`.
fn processes() -> Result<Vec<(Pid, PathBuf)>> {
    let folders = fs::read_dir("/proc")?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    let pid = |path: &PathBuf| path.file_name()?.to_str()?.parse().ok().map(Pid::from_raw);
    Ok(folders.into_iter().filter_map(|path| Some((pid(&path)?, path))).collect())
}

/// Connects with control's uid, which the roles ask the kernel for.
async fn connect(place: &Place, database: &str) -> Result<(NodeClient<Channel>, GuestClient<Channel>)> {
    let channel = |socket: &str| unix::channel(&place.run_dir.join(socket));
    let (mut node, guest) =
        (NodeClient::new(channel("node/control.sock")), GuestClient::new(channel("guestio/guest.sock")));
    seteuid(Uid::from_raw(fs::metadata(place.run_dir.join("control"))?.uid()))?;
    // The channels connect with their first call.
    let described = node.describe(with_header(DescribeRequest {}, DATABASE_HEADER, database)?).await;
    let mut probe = guest.clone();
    let probed = probe.list_ports(rigbox_proto::guest::ListPortsRequest::default()).await;
    seteuid(Uid::from_raw(0))?;
    described?;
    // It knows no workspace.
    ensure!(probed.is_err_and(|status| status.code() != Code::Unavailable), "guestio does not answer");
    Ok((node, guest))
}

fn with_header<T>(message: T, name: &'static str, value: &str) -> Result<Request<T>> {
    let mut request = Request::new(message);
    request.metadata_mut().insert(name, value.parse()?);
    Ok(request)
}

fn copy<T: Clone>(request: &Request<T>) -> Result<Request<T>> {
    let mut copy = Request::new(request.get_ref().clone());
    *copy.metadata_mut() = request.metadata().clone();
    Ok(copy)
}
