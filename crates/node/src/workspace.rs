//! One task per workspace, which owns all of its resources on this node: record, disk, VM. Requests and reports reach it as messages, so
//! no two operations on a workspace ever run at the same time.

mod boot;
mod end;
mod launch;
mod report;
mod state;

use std::sync::Arc;
use std::time::Duration;

use rigbox_proto::node::{
    ProvisionRequest, StartRequest, StartResponse, State, StopRequest, WorkspaceReport,
};
use tokio::sync::{mpsc, oneshot};

use crate::error::Error;
use crate::journal::Phase;
use crate::net::policy::Policy;
use end::{cleanup_due, next_event};
pub(crate) use state::Workspace;
use state::{Flow, blocking};

const RECOVERY_RETRY_DELAY: Duration = Duration::from_secs(1);

/// Request to a workspace's task, with the sender for its response.
pub(crate) enum Request {
    Provision(ProvisionRequest, oneshot::Sender<Result<String, Error>>),
    Start(StartRequest, oneshot::Sender<Result<StartResponse, Error>>),
    Stop(StopRequest, oneshot::Sender<Result<(), Error>>),
    SetNetwork(Policy, u64, oneshot::Sender<Result<u64, Error>>),
    Delete(u64, oneshot::Sender<Result<(), Error>>),
}

impl Workspace {
    /// Runs the task until the workspace is deleted.
    pub(crate) async fn run(mut self, mut requests: mpsc::Receiver<Request>) {
        if self.record.phase == Phase::Deleting && self.delete().await.is_ok() {
            return;
        }
        while let Err(error) = self.recover() {
            tracing::error!(workspace = %self.id, %error, "failed to look for the VM's process; retrying");
            tokio::time::sleep(RECOVERY_RETRY_DELAY).await;
        }
        self.publish();
        loop {
            let flow = tokio::select! {
                request = requests.recv() => match request {
                    Some(request) => self.handle_request(request).await,
                    // The node stops. VMs keep running.
                    None => return,
                },
                event = next_event(&mut self.vm) => {
                    self.handle_event(event).await;
                    Flow::Continue
                }
                end = cleanup_due(&mut self.cleanup) => {
                    self.clean_up(end);
                    Flow::Continue
                }
            };
            match flow {
                Flow::Continue => self.publish(),
                Flow::Deleted => return,
            }
        }
    }

    async fn handle_request(&mut self, request: Request) -> Flow {
        // A caller that has stopped waiting is fine: requests are repeated.
        match request {
            Request::Provision(request, reply) => {
                let _ = reply.send(self.provision(&request).await);
            }
            Request::Start(request, reply) => {
                let started = self.start(&request).await;
                let network_revision = self.record.network_revision;
                let response = |outcome| StartResponse { outcome: Some(outcome), network_revision };
                let _ = reply.send(started.map(response));
            }
            Request::Stop(request, reply) => {
                let _ = reply.send(self.stop(&request));
            }
            Request::SetNetwork(policy, revision, reply) => {
                let _ = reply.send(self.set_network(policy, revision).await);
            }
            Request::Delete(generation, reply) => {
                let result = match self.check_generation(generation) {
                    Ok(()) => self.delete().await,
                    Err(error) => Err(error),
                };
                let deleted = result.is_ok();
                let _ = reply.send(result);
                if deleted {
                    return Flow::Deleted;
                }
            }
        }
        Flow::Continue
    }

    async fn provision(&mut self, request: &ProvisionRequest) -> Result<String, Error> {
        self.check_generation(request.generation)?;
        let is_provisioned = self.record.phase == Phase::Provisioned;
        if is_provisioned && self.record.disk_size_mb == request.disk_size_mb {
            return Ok(self.record.image_version.clone());
        }
        if is_provisioned {
            let message = format!("{} already has a disk of {} MiB", self.id, self.record.disk_size_mb);
            return Err(Error::Refused("disk_exists", message));
        }
        let image = self.node.images.newest(&request.image)?.clone();
        if request.disk_size_mb < image.min_disk_mb {
            let message = format!(
                "a disk of {} MiB is too small for the image {}, which needs {} MiB",
                request.disk_size_mb, image.version, image.min_disk_mb
            );
            return Err(Error::Refused("disk_too_small", message));
        }
        self.update(|record| {
            record.generation = request.generation;
            record.image_version = image.version.clone();
            record.disk_size_mb = request.disk_size_mb;
        })?;
        let (node, id, size_mb) = (Arc::clone(&self.node), self.id.clone(), request.disk_size_mb);
        blocking(move || node.disks.create(&id, &image.rootfs, size_mb)).await?;
        self.update(|record| record.phase = Phase::Provisioned)?;
        Ok(image.version)
    }

    /// Replaces the network policy, unless a later one is recorded. Returns the revision of the one that is in force.
    async fn set_network(&mut self, policy: Policy, revision: u64) -> Result<u64, Error> {
        self.update(|record| record.set_network(policy, revision))?;
        self.apply_network().await?;
        Ok(self.record.network_revision)
    }

    /// Puts the recorded network policy in force, if there is a VM.
    async fn apply_network(&self) -> Result<(), Error> {
        let (Some(boot), Some(_)) = (&self.record.boot, &self.vm) else { return Ok(()) };
        let policy = self.record.network.clone();
        let netns = self.node.config.netns(&self.id);
        // Updated first, so that nothing is dialed or resolved that is about to be closed.
        self.node.dial_targets.insert(&self.id, &boot.boot_id, netns.clone(), policy.clone());
        let Some(names) = self.node.attached_vms.set_policy(&boot.boot_id, self.egress(), self.dns_limits())
        else {
            return Ok(());
        };
        let (node, slot) = (Arc::clone(&self.node), self.record.slot);
        blocking(move || crate::net::set_policy(&node.config, &netns, &policy, &names, node.uplink_for(slot)))
            .await
    }

    async fn delete(&mut self) -> Result<(), Error> {
        self.node.boot_queue.leave(&self.id);
        self.update(|record| record.phase = Phase::Deleting)?;
        if let Some(boot) = &self.record.boot {
            self.node.attached_vms.remove(&boot.boot_id);
        }
        self.kill().await?;
        self.cleanup = None;
        let (node, id) = (Arc::clone(&self.node), self.id.clone());
        blocking(move || {
            node.tear_down(&id)?;
            node.disks.remove(&id)?;
            node.journal.remove(&id)
        })
        .await?;
        tracing::info!(workspace = %self.id, "workspace deleted");
        self.node.reports.publish(WorkspaceReport { state: State::Absent.into(), ..self.report() });
        Ok(())
    }
}
