//! One task per workspace, which owns everything that this node has of it: record, disk, VM. Requests and reports reach it as messages,
//! so nothing of a workspace ever happens twice at a time.

use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use rigbox_core::egress::Egress;
use rigbox_core::ids::WorkspaceId;
use rigbox_proto::guestio::{EgressRefused as Refused, Report, guest_ended, report};
use rigbox_proto::node::{
    Cause, EgressRefused, End, ProvisionRequest, StartRequest, State, StopRequest, WorkspaceReport,
};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use crate::attend::Attendee;
use crate::error::Error;
use crate::journal::{Boot, Ended, Phase, Record};
use crate::launch;
use crate::net::policy::Policy;
use crate::node::Node;
use crate::process::Handle;

/// What a workspace's task is asked.
pub(crate) enum Request {
    Provision(ProvisionRequest, oneshot::Sender<Result<String, Error>>),
    Start(StartRequest, oneshot::Sender<Result<String, Error>>),
    Stop(StopRequest, oneshot::Sender<Result<(), Error>>),
    SetNetwork(Policy, oneshot::Sender<Result<(), Error>>),
    Delete(u64, oneshot::Sender<Result<(), Error>>),
}

/// After the guest has powered off or the process was killed: how long the process may take to be gone.
const GONE_WITHIN: Duration = Duration::from_secs(20);

/// From a try to clean up to the next.
const TRY_AGAIN: Duration = Duration::from_secs(5);

/// A VM that runs.
struct Vm {
    handle: Handle,
    reports: mpsc::UnboundedReceiver<Report>,
    /// What the VMM says before it can be asked; none for one that was taken over from an earlier node.
    stderr: Option<File>,
    /// When the boot, or the stop, has taken too long.
    deadline: Option<Instant>,
    agent_lost: bool,
    /// Listens for the VM while it runs.
    _bridge: AbortOnDropHandle<()>,
}

/// A boot that has ended, of which something is left that could not be removed yet.
struct Remains {
    end: Option<Ended>,
    try_again: Instant,
}

/// The task's state.
pub(crate) struct Workspace {
    node: Arc<Node>,
    id: WorkspaceId,
    record: Record,
    vm: Option<Vm>,
    remains: Option<Remains>,
}

/// Why the task goes on or ends.
enum Step {
    Next,
    Gone,
}

impl Workspace {
    /// A workspace that the node has not heard of.
    pub(crate) fn new(node: Arc<Node>, id: WorkspaceId, slot: u32) -> Self {
        let record = Record {
            workspace: id.to_string(),
            generation: 0,
            slot,
            image_version: String::new(),
            disk_size_mb: 0,
            phase: Phase::Provisioning,
            boot: None,
            last_end: None,
            network: Policy::default(),
        };
        Self { node, id, record, vm: None, remains: None }
    }

    /// A workspace on record. Its disk counts and control hears of it at once; all else waits for the task.
    pub(crate) fn on_record(node: Arc<Node>, id: WorkspaceId, record: Record) -> Self {
        if record.phase == Phase::Provisioned {
            node.disks.adopt(&id, record.disk_size_mb);
        }
        let workspace = Self { node, id, record, vm: None, remains: None };
        workspace.tell();
        workspace
    }

    /// Takes a VM on record over if it runs; otherwise notes how it ended and cleans up.
    fn recover(&mut self) {
        let Some(boot) = self.record.boot.clone() else { return };
        let same_host = boot.host_boot_id == self.node.host_boot_id;
        let handle = boot.process.filter(|_| same_host).and_then(Handle::reopen);
        if let Some(handle) = handle {
            tracing::info!(workspace = %self.id, boot = %boot.boot_id, "taking over a running VM");
            let out = self.node.way_out(self.record.slot);
            if let Err(error) =
                crate::net::renew(&self.node.config.netns(&self.id), &self.record.network, out)
            {
                tracing::error!(workspace = %self.id, %error, "the VM's network is as it was");
            }
            self.attend(handle, None, &boot);
            return;
        }
        let (cause, detail) = match (boot.stopping, same_host, boot.process) {
            (true, ..) => (Cause::Requested, "the VM ended while the node was away"),
            (_, false, _) => (Cause::HostWentDown, "the host went down while the VM ran"),
            // Never answered to control, which asks again.
            (_, _, None) => return self.clean_up(None),
            _ => (Cause::EndedUnobserved, "the VM ended while the node was away"),
        };
        self.clean_up(Some(Ended::new(&boot.boot_id, cause, detail)));
    }

    /// Runs until the workspace is deleted.
    pub(crate) async fn run(mut self, mut requests: mpsc::Receiver<Request>) {
        if self.record.phase == Phase::Deleting && self.delete().await.is_ok() {
            return;
        }
        self.recover();
        self.tell();
        loop {
            let step = tokio::select! {
                request = requests.recv() => match request {
                    Some(request) => self.carry_out(request).await,
                    // The node ends; VMs stay.
                    None => return,
                },
                event = next_event(&mut self.vm) => {
                    self.react(event).await;
                    Step::Next
                }
                end = removable(&mut self.remains) => {
                    self.clean_up(end);
                    Step::Next
                }
            };
            match step {
                Step::Next => self.tell(),
                Step::Gone => return,
            }
        }
    }

    async fn carry_out(&mut self, request: Request) -> Step {
        // An answer that nobody waits for any more is fine: requests are repeated.
        match request {
            Request::Provision(request, answer) => {
                let _ = answer.send(self.provision(&request).await);
            }
            Request::Start(request, answer) => {
                let _ = answer.send(self.start(&request).await);
            }
            Request::Stop(request, answer) => {
                let _ = answer.send(self.stop(&request));
            }
            Request::SetNetwork(policy, answer) => {
                let _ = answer.send(self.set_network(policy).await);
            }
            Request::Delete(generation, answer) => {
                let result = match self.accept(generation) {
                    Ok(()) => self.delete().await,
                    Err(error) => Err(error),
                };
                let gone = result.is_ok();
                let _ = answer.send(result);
                if gone {
                    return Step::Gone;
                }
            }
        }
        Step::Next
    }

    fn accept(&self, generation: u64) -> Result<(), Error> {
        if generation < self.record.generation {
            let (id, newer) = (&self.id, self.record.generation);
            let message =
                format!("{id}: generation {generation} is older than {newer}, which was carried out");
            return Err(Error::Refused("stale_generation", message));
        }
        Ok(())
    }

    async fn provision(&mut self, request: &ProvisionRequest) -> Result<String, Error> {
        self.accept(request.generation)?;
        let whole = self.record.phase == Phase::Provisioned;
        if whole && self.record.disk_size_mb == request.disk_size_mb {
            return Ok(self.record.image_version.clone());
        }
        if whole {
            let message = format!("{} has a disk of {} MiB already", self.id, self.record.disk_size_mb);
            return Err(Error::Refused("disk_exists", message));
        }
        let image = self.node.images.newest(&request.image)?.clone();
        if request.disk_size_mb < image.min_disk_mb {
            let message = format!(
                "a disk of {} MiB is too small for the image {}: at least {} MiB",
                request.disk_size_mb, image.version, image.min_disk_mb
            );
            return Err(Error::Refused("disk_too_small", message));
        }
        self.record.generation = request.generation;
        self.record.image_version = image.version.clone();
        self.record.disk_size_mb = request.disk_size_mb;
        self.save()?;
        let (node, id, size_mb) = (Arc::clone(&self.node), self.id.clone(), request.disk_size_mb);
        blocking(move || node.disks.create(&id, &image.rootfs, size_mb)).await?;
        self.record.phase = Phase::Provisioned;
        self.save()?;
        Ok(image.version)
    }

    async fn start(&mut self, request: &StartRequest) -> Result<String, Error> {
        self.accept(request.generation)?;
        if self.record.phase != Phase::Provisioned {
            return Err(Error::Refused("not_provisioned", format!("{} has no disk yet", self.id)));
        }
        if let Some(boot) = &self.record.boot {
            if self.record.generation == request.generation && !boot.stopping {
                return Ok(boot.boot_id.clone());
            }
            return Err(Error::NotNow(format!("{}'s last boot has not ended yet", self.id)));
        }
        let boot = Boot {
            boot_id: random_uuid().map_err(Error::system("the kernel's random UUID"))?,
            host_boot_id: self.node.host_boot_id.clone(),
            process: None,
            metadata_json: request.metadata_json.clone(),
            ready: false,
            stopping: false,
        };
        if let Some(network) = request.network.clone() {
            self.record.network = network.try_into()?;
        }
        self.record.generation = request.generation;
        self.record.last_end = None;
        self.record.boot = Some(boot.clone());
        self.save()?;
        let (node, id, record, machine) =
            (Arc::clone(&self.node), self.id.clone(), self.record.clone(), request.clone());
        let launched =
            blocking(move || launch::launch(&node, &id, &record, &machine)).await.and_then(|launched| {
                let (handle, process) = Handle::open(launched.pid).map_err(|_| {
                    let mut stderr = launched.stderr.try_clone();
                    let said = stderr.as_mut().map(crate::jail::said).unwrap_or_default();
                    Error::Launch(format!("the VMM ended at once: {said}"))
                })?;
                Ok((handle, process, launched.stderr))
            });
        match launched {
            Ok((handle, process, stderr)) => {
                let boot = Boot { process: Some(process), ..boot };
                self.record.boot = Some(boot.clone());
                self.save()?;
                tracing::info!(workspace = %self.id, boot = %boot.boot_id, pid = process.pid, "VM started");
                self.attend(handle, Some(stderr), &boot);
                Ok(boot.boot_id)
            }
            Err(error) => {
                tracing::warn!(workspace = %self.id, %error, "VM could not be started");
                self.clean_up(Some(Ended::new(&boot.boot_id, Cause::StartFailed, error.to_string())));
                Err(error)
            }
        }
    }

    fn stop(&mut self, request: &StopRequest) -> Result<(), Error> {
        self.accept(request.generation)?;
        self.record.generation = request.generation;
        if let (Some(boot), Some(vm)) = (&mut self.record.boot, &mut self.vm) {
            boot.stopping = true;
            let grace = Duration::from_millis(request.grace_ms.into());
            vm.deadline = Some(Instant::now() + grace);
            self.node.attendees.shut_down(&boot.boot_id, request.grace_ms);
        }
        self.save()
    }

    async fn set_network(&mut self, policy: Policy) -> Result<(), Error> {
        self.record.network = policy.clone();
        self.save()?;
        let (Some(boot), Some(_)) = (&self.record.boot, &self.vm) else { return Ok(()) };
        let netns = self.node.config.netns(&self.id);
        // First, so that nothing is dialled or looked up that is about to end.
        self.node.doors.open(&self.id, &boot.boot_id, netns.clone(), policy.clone());
        let names = self.node.attendees.set_egress(&boot.boot_id, self.egress()).unwrap_or_default();
        blocking(move || crate::net::set_policy(&netns, &policy, &names)).await
    }

    /// What the VM may reach: without a way out, nothing.
    fn egress(&self) -> Egress {
        if self.node.uplink.is_some() { self.record.network.egress().clone() } else { Egress::None }
    }

    async fn delete(&mut self) -> Result<(), Error> {
        self.record.phase = Phase::Deleting;
        self.save()?;
        if let Some(boot) = &self.record.boot {
            self.node.attendees.remove(&boot.boot_id);
        }
        self.vm = None;
        self.remains = None;
        let (node, id) = (Arc::clone(&self.node), self.id.clone());
        blocking(move || {
            node.tear_down(&id)?;
            node.disks.remove(&id)?;
            node.journal.remove(&id)
        })
        .await?;
        tracing::info!(workspace = %self.id, "deleted");
        self.node.reports.tell(WorkspaceReport { state: State::Absent.into(), ..self.report() });
        Ok(())
    }

    fn attend(&mut self, handle: Handle, stderr: Option<File>, boot: &Boot) {
        let (sender, reports) = mpsc::unbounded_channel();
        let attendee = Attendee {
            workspace: self.id.to_string(),
            metadata_json: boot.metadata_json.clone(),
            vm_dir: self.node.config.vm_dir(&self.id),
            netns: self.node.config.netns(&self.id),
            egress: self.egress(),
            names: Arc::default(),
            reports: sender,
        };
        let bridge = self.node.bridge.attend(self.id.clone(), self.node.config.netns(&self.id));
        // A VM that was stopping when the node went away gets no second grace.
        let deadline = match (boot.stopping, boot.ready) {
            (true, _) => Some(Instant::now()),
            (false, true) => None,
            (false, false) => Some(Instant::now() + self.node.config.boot_timeout),
        };
        self.vm = Some(Vm { handle, reports, stderr, deadline, agent_lost: false, _bridge: bridge });
        self.node.attendees.add(&boot.boot_id, attendee);
        let netns = self.node.config.netns(&self.id);
        self.node.doors.open(&self.id, &boot.boot_id, netns, self.record.network.clone());
    }

    async fn react(&mut self, event: Event) {
        let (Some(boot), Some(vm)) = (&mut self.record.boot, &mut self.vm) else { return };
        let ended = match event {
            Event::Report(report::Report::AgentReady(_)) => {
                vm.agent_lost = false;
                if !boot.ready {
                    boot.ready = true;
                    if !boot.stopping {
                        vm.deadline = None;
                    }
                    // Not saved at once costs nothing: a node that comes back waits for the hello again.
                    if let Err(error) = self.save() {
                        tracing::error!(workspace = %self.id, %error, "journal");
                    }
                }
                return;
            }
            Event::Report(report::Report::AgentLost(lost)) => {
                tracing::warn!(workspace = %self.id, reason = lost.reason, "agent lost");
                vm.agent_lost = boot.ready;
                return;
            }
            Event::Report(report::Report::EgressRefused(refused)) => {
                return self.node.reports.tell_refused(refusal_of(&self.id, refused));
            }
            Event::Report(report::Report::GuestEnded(end)) => (cause_of(end.cause()), end.detail),
            Event::Died => {
                let said = vm.stderr.as_mut().map(crate::jail::said).unwrap_or_default();
                (
                    Cause::VmmDied,
                    format!("the VMM ended by itself{}{said}", if said.is_empty() { "" } else { ": " }),
                )
            }
            Event::TooLate if boot.stopping => {
                (Cause::Requested, "did not end in time and was killed".to_owned())
            }
            Event::TooLate => {
                let limit = self.node.config.boot_timeout.as_secs();
                (
                    Cause::AgentNeverAnswered,
                    format!("the agent did not say hello within {limit} s; the VM was killed"),
                )
            }
        };
        let (cause, detail) = if boot.stopping { (Cause::Requested, ended.1) } else { ended };
        tracing::info!(workspace = %self.id, boot = %boot.boot_id, ?cause, detail, "VM ended");
        let end = Ended::new(&boot.boot_id, cause, detail);
        vm.handle.kill();
        if tokio::time::timeout(GONE_WITHIN, vm.handle.ended()).await.is_err() {
            tracing::error!(workspace = %self.id, "the VMM's process does not go");
        }
        self.clean_up(Some(end));
    }

    /// Removes everything of the last boot and notes how it ended. While something does not go, the record keeps the boot, so that it
    /// is not forgotten and no other boot begins, and it is tried again.
    fn clean_up(&mut self, end: Option<Ended>) {
        if let Some(boot) = &self.record.boot {
            self.node.attendees.remove(&boot.boot_id);
        }
        self.vm = None;
        // The kernel may take a moment to end the processes.
        let removed = tokio::task::block_in_place(|| self.node.tear_down(&self.id)).and_then(|()| {
            let record = Record { boot: None, last_end: end.clone(), ..self.record.clone() };
            self.node.journal.save(&record)?;
            Ok(record)
        });
        match removed {
            Ok(record) => self.record = record,
            Err(error) => {
                tracing::error!(workspace = %self.id, %error, "cannot clean up after the VM yet");
                self.remains = Some(Remains { end, try_again: Instant::now() + TRY_AGAIN });
            }
        }
    }

    fn save(&self) -> Result<(), Error> {
        self.node.journal.save(&self.record)
    }

    fn tell(&self) {
        self.node.reports.tell(self.report());
    }

    fn report(&self) -> WorkspaceReport {
        let state = match (&self.record.boot, self.record.phase) {
            (_, Phase::Provisioning) => State::Unspecified,
            (None, _) => State::Stopped,
            (Some(boot), _) if boot.stopping => State::Stopping,
            (Some(boot), _) if boot.ready => State::Running,
            (Some(_), _) => State::Booting,
        };
        let end = self.record.last_end.as_ref();
        WorkspaceReport {
            workspace_id: self.id.to_string(),
            generation: self.record.generation,
            state: state.into(),
            boot_id: match (&self.record.boot, end) {
                (Some(boot), _) => boot.boot_id.clone(),
                (None, Some(end)) => end.boot_id.clone(),
                (None, None) => String::new(),
            },
            end: end.map(|end| End { cause: end.cause, detail: end.detail.clone() }),
            agent_lost: self.vm.as_ref().is_some_and(|vm| vm.agent_lost),
        }
    }
}

/// What may happen to a VM.
enum Event {
    Report(report::Report),
    Died,
    TooLate,
}

async fn next_event(vm: &mut Option<Vm>) -> Event {
    let Some(vm) = vm else { return std::future::pending().await };
    let deadline = vm.deadline;
    let too_late = async {
        match deadline {
            Some(deadline) => tokio::time::sleep_until(deadline).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        // In this order: a report says more than the end of the process does.
        biased;
        Some(Report { report: Some(report), .. }) = vm.reports.recv() => Event::Report(report),
        _ = vm.handle.ended() => Event::Died,
        () = too_late => Event::TooLate,
    }
}

/// Waits until what is left of a boot is to be removed once more.
async fn removable(remains: &mut Option<Remains>) -> Option<Ended> {
    let Some(waiting) = remains else { return std::future::pending().await };
    tokio::time::sleep_until(waiting.try_again).await;
    remains.take().and_then(|remains| remains.end)
}

fn cause_of(cause: guest_ended::Cause) -> Cause {
    match cause {
        guest_ended::Cause::Poweroff => Cause::Poweroff,
        guest_ended::Cause::Reboot => Cause::Reboot,
        guest_ended::Cause::Halt => Cause::Halt,
        guest_ended::Cause::KernelPanic => Cause::KernelPanic,
        guest_ended::Cause::Unobserved | guest_ended::Cause::Unspecified => Cause::EndedUnobserved,
    }
}

fn refusal_of(id: &WorkspaceId, refused: Refused) -> EgressRefused {
    let Refused { protocol, address, port, name, count, unix_ms } = refused;
    EgressRefused { workspace_id: id.to_string(), unix_ms, protocol, address, port, name, count }
}

fn random_uuid() -> std::io::Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/random/uuid")?.trim().to_owned())
}

/// Runs what may take a while beside the runtime.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(Error::System { what: "a task of the node", source: error.into() }))
}
