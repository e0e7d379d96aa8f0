//! Targets as control sets them, and the network policy, which counts at once.

use tokio::time::Instant;

use super::state::{RETRY_DELAY, Workspace};
use crate::error::Error;
use crate::host::Host;
use crate::record::TargetRequest;

impl<H: Host> Workspace<H> {
    /// Takes over what is later than the record, and puts the network policy in force.
    pub(super) async fn set_target(&mut self, request: TargetRequest) -> Result<(), Error> {
        let TargetRequest { target, spec, network, memory_key } = request;
        let mut record = self.record.clone();
        record.set_target(target, spec);
        if let Some((policy, revision)) = network {
            record.set_network(policy, revision);
        }
        let is_new_target = record.target.generation != self.record.target.generation;
        let is_new_policy = record.network != self.record.network;
        if record != self.record || !self.is_recorded {
            let id = &self.id;
            let unwritten = |error| Error::Retry(format!("failed to record the target of {id}: {error}"));
            self.host.save(&record).await.map_err(unwritten)?;
            (self.record, self.is_recorded) = (record, true);
        }
        if is_new_target {
            self.retry_at = None;
            self.memory_key = memory_key;
        }
        if is_new_policy && self.vm.is_some() {
            self.network_due = Some(Instant::now());
        }
        let id = self.id.clone();
        let unapplied = |error| Error::Retry(format!("failed to set the network policy of {id}: {error}"));
        self.apply_network().await.map_err(unapplied)
    }

    /// Applies the recorded network policy again, after that has failed.
    pub(super) async fn retry_network(&mut self) {
        if let Err(error) = self.apply_network().await {
            tracing::error!(workspace = %self.id, %error, "failed to set the VM's network policy; retrying");
        }
    }

    /// Puts the recorded network policy in force, if there is a VM with another one. Tries again later if that fails.
    async fn apply_network(&mut self) -> Result<(), Error> {
        if self.network_due.is_none() || self.is_deleted() {
            return Ok(());
        }
        let (Some(boot), Some(vm)) = (&self.record.boot, &mut self.vm) else { return Ok(()) };
        self.network_due = Some(Instant::now() + RETRY_DELAY);
        if !vm.is_network_restored {
            self.host.restore_network(&self.id, &self.record).await?;
            vm.is_network_restored = true;
        }
        self.host.set_policy(&self.id, &self.record, boot).await?;
        // Also if that has failed when the agent answered.
        if boot.is_closed && vm.is_acknowledged {
            self.open_link().await?;
        }
        self.network_due = None;
        Ok(())
    }
}
