//! Boot of a VM, and takeover of one that survived a restart of the node.

use std::fs::File;
use std::io::ErrorKind;
use std::sync::Arc;

use rigbox_core::system::SystemState;
use rigbox_proto::node::start_response::Outcome;
use rigbox_proto::node::{Cause, StartRequest};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::launch::launch;
use super::state::{RunningVm, Workspace, blocking};
use crate::boot_queue::BootPermit;
use crate::error::Error;
use crate::journal::{Boot, BootEnd, Phase};
use crate::limits;
use crate::net::admitted_names::AdmittedNames;
use crate::net::policy::Policy;
use crate::sandbox::jail;
use crate::sandbox::process::ProcessHandle;
use crate::sockets::guestio::AttachedVm;

/// Reports of guestio that a workspace's task has not handled yet. An honest guestio sends a few in a boot's life.
const MAX_PENDING_REPORTS: usize = 256;

impl Workspace {
    pub(super) async fn start(&mut self, request: &StartRequest) -> Result<Outcome, Error> {
        self.check_generation(request.generation)?;
        if self.record.phase != Phase::Provisioned {
            return Err(Error::Refused("not_provisioned", format!("{} has no disk yet", self.id)));
        }
        self.node.driver.check()?;
        if let Some(boot) = &self.record.boot {
            if self.record.generation == request.generation && !boot.stopping {
                return Ok(Outcome::BootId(boot.boot_id.clone()));
            }
            return Err(Error::Retry(format!("the last boot of {} has not ended yet", self.id)));
        }
        let permit = match self.node.boot_queue.ask(&self.id, &request.owner, std::time::Instant::now()) {
            Ok(permit) => permit,
            Err(position) => return Ok(Outcome::QueuePosition(position)),
        };
        let boot = Boot {
            boot_id: random_uuid().map_err(Error::system("read a random UUID from the kernel"))?,
            host_boot_id: self.node.host_boot_id.clone(),
            process: None,
            metadata_json: request.metadata_json.clone(),
            ready: false,
            stopping: false,
        };
        let disk_limits = self.node.config.vmm.disk.lowered(&limits::of_disk(request.disk)?);
        let network = request.network.clone().map(Policy::try_from).transpose()?;
        self.update(|record| {
            if let Some(network) = network {
                record.set_network(network, request.network_revision);
            }
            record.generation = request.generation;
            record.last_end = None;
            record.boot = Some(boot.clone());
        })?;
        let (node, id, record, request) =
            (Arc::clone(&self.node), self.id.clone(), self.record.clone(), request.clone());
        let launched =
            blocking(move || launch(&node, &id, &record, &request, disk_limits)).await.and_then(|launched| {
                let mut stderr = launched.stderr;
                match ProcessHandle::new(launched.pid, launched.pidfd) {
                    Ok((handle, process)) => Ok((handle, process, stderr)),
                    Err(error) if error.kind() == ErrorKind::NotFound => {
                        Err(Error::Launch(format!("it exited at once: {}", jail::read_stderr(&mut stderr))))
                    }
                    Err(error) => Err(Error::Launch(error.to_string())),
                }
            });
        // A VM that the journal does not know would be forgotten by the next node.
        let recorded = launched.and_then(|(handle, process, stderr)| {
            let boot = Boot { process: Some(process), ..boot.clone() };
            let saved = self.update(|record| record.boot = Some(boot.clone()));
            if saved.is_err() {
                handle.kill();
            }
            saved.map(|()| (handle, process, stderr, boot))
        });
        match recorded {
            Ok((handle, process, stderr, boot)) => {
                tracing::info!(workspace = %self.id, boot = %boot.boot_id, pid = process.pid, "VM started");
                self.attach(handle, Some(stderr), &boot, Some(permit));
                Ok(Outcome::BootId(boot.boot_id))
            }
            Err(error) => {
                tracing::warn!(workspace = %self.id, %error, "failed to start the VM");
                self.clean_up(Some(BootEnd::new(&boot.boot_id, Cause::StartFailed, error.to_string())));
                Err(error)
            }
        }
    }

    /// Takes over a recorded VM if it is still running. Otherwise records its end and cleans up. An error says nothing about the VM: the
    /// caller tries again.
    pub(super) fn recover(&mut self) -> std::io::Result<()> {
        let Some(boot) = self.record.boot.clone() else { return Ok(()) };
        let same_host_boot = boot.host_boot_id == self.node.host_boot_id;
        let handle = match boot.process.filter(|_| same_host_boot) {
            Some(process) => ProcessHandle::reopen(process)?,
            None => None,
        };
        if let Some(handle) = handle {
            tracing::info!(workspace = %self.id, boot = %boot.boot_id, "taking over a running VM");
            let uplink = self.node.uplink_for(self.record.slot);
            let netns = self.node.config.netns(&self.id);
            if let Err(error) = crate::net::restore(&self.node.config, &netns, &self.record.network, uplink) {
                tracing::error!(workspace = %self.id, %error, "failed to restore the VM's network policy");
            }
            let permit = (!boot.ready).then(|| self.node.boot_queue.admit(&self.id));
            self.attach(handle, None, &boot, permit);
            return Ok(());
        }
        let (cause, detail) = match (boot.stopping, same_host_boot, boot.process) {
            (true, ..) => (Cause::Requested, "the VM ended while the node was down"),
            (_, false, _) => (Cause::HostWentDown, "the host went down while the VM was running"),
            // The start request was never answered, so control repeats it.
            (_, _, None) => {
                self.clean_up(None);
                return Ok(());
            }
            _ => (Cause::EndedUnobserved, "the VM ended while the node was down"),
        };
        self.clean_up(Some(BootEnd::new(&boot.boot_id, cause, detail)));
        Ok(())
    }

    /// Makes a running VM reachable: for guestio, for gateways, and through its bridge.
    fn attach(
        &mut self,
        process: ProcessHandle,
        stderr: Option<File>,
        boot: &Boot,
        boot_permit: Option<BootPermit>,
    ) {
        #[expect(
            clippy::disallowed_methods,
            reason = "bound: each VM's own queue of reports; more are dropped"
        )]
        let (sender, reports) = mpsc::channel(MAX_PENDING_REPORTS);
        let netns = self.node.config.netns(&self.id);
        let attached_vm = AttachedVm {
            workspace: self.id.to_string(),
            metadata_json: boot.metadata_json.clone(),
            vm_dir: self.node.config.vm_dir(&self.id),
            netns: netns.clone(),
            egress: self.egress(),
            dns_limits: self.dns_limits(),
            admitted_names: Arc::new(AdmittedNames::new(self.node.config.network.blocked.clone())),
            reports: sender,
        };
        let bridge = self.node.bridge.listen(self.id.clone(), netns.clone());
        // A VM that was stopping when the node went down gets no second grace period.
        let deadline = match (boot.stopping, boot.ready) {
            (true, _) => Some(Instant::now()),
            (false, true) => None,
            (false, false) => Some(Instant::now() + self.node.config.boot_timeout),
        };
        self.vm = Some(RunningVm {
            process,
            reports,
            stderr,
            deadline,
            agent_lost: false,
            system: SystemState::Starting,
            boot_permit,
            _bridge: bridge,
        });
        self.node.attached_vms.insert(&boot.boot_id, attached_vm);
        self.node.dial_targets.insert(&self.id, &boot.boot_id, netns, self.record.network.clone());
    }
}

fn random_uuid() -> std::io::Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/random/uuid")?.trim().to_owned())
}
