//! Guests that are taken out of time: paused, saved to a memory image, put back from one. Until its agent has acknowledged that it runs on, with
//! the right time and other random numbers, nothing reaches a guest and nothing leaves it.

use std::time::Duration;

use rigbox_core::lifecycle::EndCause;
use rigbox_proto::guestio::{RunState, StateReached};
use tokio::time::Instant;

use super::state::{RETRY_DELAY, Workspace};
use crate::error::Error;
use crate::host::Host;
use crate::memory::MemoryKey;
use crate::record::{Boot, BootEnd, BootMemory, shortened};

/// Time in which a memory has to be saved. A slow disk takes a minute for 8 GiB.
const SAVE_TIMEOUT: Duration = Duration::from_secs(180);

impl<H: Host> Workspace<H> {
    /// Lets the guest of a boot stand still, or run on.
    pub(super) async fn set_paused(&mut self, boot_id: &str, paused: bool) -> Result<(), Error> {
        let Some(boot) = self.record.boot.as_ref().filter(|boot| boot.boot_id == boot_id) else {
            let message = format!("{boot_id} is not the boot of {}", self.id);
            return Err(Error::Refused("other_boot", message));
        };
        if !boot.ready || boot.stopping || boot.memory != BootMemory::None || self.vm.is_none() {
            return Err(Error::Refused("not_running", format!("the VM of {} does not run", self.id)));
        }
        if boot.paused != paused {
            self.update_boot(|boot| {
                boot.paused = paused;
                if paused {
                    take_out_of_time(boot);
                }
            })
            .await?;
        }
        self.enforce_run_state().await
    }

    /// Closes the link of a guest that is out of time, and tells guestio what state it is to be in.
    async fn enforce_run_state(&mut self) -> Result<(), Error> {
        let Some(boot) = &self.record.boot else { return Ok(()) };
        if boot.is_closed {
            self.host.set_link(&self.id, &self.record, false).await?;
        }
        self.host.set_run_state(boot);
        if let Some(vm) = &mut self.vm {
            vm.is_acknowledged &= !boot.is_closed;
            vm.is_standing &= boot.run_state() != RunState::Running;
        }
        Ok(())
    }

    /// Changes the record of the boot, in the journal first.
    pub(super) async fn update_boot(&mut self, change: impl FnOnce(&mut Boot) + Send) -> Result<(), Error> {
        self.update(|record| {
            if let Some(boot) = &mut record.boot {
                change(boot);
            }
        })
        .await
    }

    /// Opens the link of a guest that runs on.
    pub(super) async fn open_link(&mut self) -> Result<(), Error> {
        self.host.set_link(&self.id, &self.record, true).await?;
        self.update_boot(|boot| boot.is_closed = false).await
    }

    /// Handles the answer of the agent in a guest that was out of time.
    pub(super) async fn run_on(&mut self) {
        if let Some(vm) = &mut self.vm {
            vm.is_acknowledged = true;
        }
        if self.record.boot.as_ref().is_some_and(|boot| boot.is_closed)
            && let Err(error) = self.open_link().await
        {
            tracing::error!(workspace = %self.id, %error, "failed to open the VM's link; retrying");
            self.network_due = Some(Instant::now() + RETRY_DELAY);
        }
    }

    /// Returns the key of the memory image from which the next boot goes on, or why there is none.
    pub(super) async fn key_to_restore(&mut self) -> Result<Option<MemoryKey>, String> {
        let key = self.memory_key.take();
        if self.record.memory.is_none() {
            return Ok(None);
        }
        let key = key.ok_or("it was discarded")?;
        self.host.check_memory(&self.id, &self.record).await.map_err(|error| error.to_string())?;
        Ok(Some(key))
    }

    /// Begins to save the memory, if the stop is to keep it. Returns false if the guest has to shut down instead.
    pub(super) async fn begin_save(&mut self) -> bool {
        // One that is being loaded shuts down once it is.
        let is_loading = self.record.boot.as_ref().is_some_and(|boot| boot.memory == BootMemory::Loading);
        let Some(key) = self.memory_key.clone().filter(|_| !is_loading) else { return false };
        match self.try_save(&key).await {
            Ok(()) => true,
            Err(error) => {
                self.give_up_save(&error.to_string()).await;
                false
            }
        }
    }

    async fn try_save(&mut self, key: &MemoryKey) -> Result<(), Error> {
        let lost = self.vm.as_ref().is_none_or(|vm| vm.agent_lost && !vm.is_standing);
        if lost || self.record.boot.as_ref().is_none_or(|boot| !boot.ready) {
            return Err(Error::Refused("not_running", "the agent in the VM does not answer".to_owned()));
        }
        self.host.begin_save(&self.id, &self.record, key).await?;
        self.update_boot(|boot| {
            boot.memory = BootMemory::Saving;
            boot.paused = false;
            take_out_of_time(boot);
        })
        .await?;
        self.enforce_run_state().await?;
        if let Some(vm) = &mut self.vm {
            vm.deadline = Some(Instant::now() + SAVE_TIMEOUT);
        }
        Ok(())
    }

    /// Lets the guest of a save that has failed run on, until it has shut down.
    pub(super) async fn give_up_save(&mut self, reason: &str) {
        tracing::warn!(workspace = %self.id, reason, "the VM's memory is not kept");
        self.memory_key = None;
        let lost = shortened(reason);
        let updated = self
            .update(|record| {
                record.memory_lost = lost;
                if let Some(boot) = &mut record.boot {
                    boot.memory = BootMemory::None;
                    boot.paused = false;
                }
            })
            .await;
        if let Err(error) = updated {
            return self.retry("write the journal", &error);
        }
        if let Err(error) = self.host.forget_memory(&self.id).await {
            tracing::error!(workspace = %self.id, %error, "failed to remove a memory image");
        }
        if let Err(error) = self.enforce_run_state().await {
            tracing::error!(workspace = %self.id, %error, "failed to close the VM's link");
        }
    }

    /// Handles the report that the VMM is in a state in which the guest stands still, or cannot get to a state.
    pub(super) async fn handle_state(&mut self, reached: StateReached) {
        let Some(boot) = &self.record.boot else { return };
        let is_failure = !reached.error.is_empty();
        match (&boot.memory, reached.state()) {
            (BootMemory::Saving, RunState::Saved) if is_failure => self.give_up_save(&reached.error).await,
            (BootMemory::Saving, RunState::Saved) => self.finish_save().await,
            (BootMemory::Loading, RunState::Paused) if is_failure => self.boot_cold(&reached.error).await,
            (BootMemory::Loading, RunState::Paused) => self.finish_loading().await,
            (BootMemory::None, RunState::Paused) if boot.paused && is_failure => {
                tracing::warn!(workspace = %self.id, error = reached.error, "failed to pause the VM");
                let updated = self.update_boot(|boot| boot.paused = false).await;
                if let Err(error) = updated.and(self.enforce_run_state().await) {
                    tracing::error!(workspace = %self.id, %error, "failed to let the VM run on");
                }
            }
            (BootMemory::None, RunState::Paused) if boot.paused => {
                if let Some(vm) = &mut self.vm {
                    vm.is_standing = true;
                }
            }
            (BootMemory::None, RunState::Running) if is_failure && boot.is_restoring() => {
                self.boot_cold(&reached.error).await;
            }
            (BootMemory::None, RunState::Running) if is_failure => {
                tracing::warn!(workspace = %self.id, error = reached.error, "failed to let the VM run on");
            }
            // Of a state that it is not to be in any more.
            _ => {}
        }
    }

    /// Completes the image, and ends the VMM.
    async fn finish_save(&mut self) {
        let Some(key) = self.memory_key.take() else {
            return self.give_up_save("the node has no key for it").await;
        };
        let image = match self.host.finish_save(&self.id, &self.record, &key).await {
            Ok(image) => image,
            Err(error) => return self.give_up_save(&error.to_string()).await,
        };
        if let Err(error) = self.update_boot(|boot| boot.memory = BootMemory::Saved(image)).await {
            return self.give_up_save(&error.to_string()).await;
        }
        self.end_saved().await;
    }

    /// Ends the VMM of a guest whose memory is saved.
    pub(super) async fn end_saved(&mut self) {
        let Some(boot) = &self.record.boot else { return };
        tracing::info!(workspace = %self.id, boot = %boot.boot_id, "VM suspended");
        let end = BootEnd::of(boot, EndCause::Requested, "its memory was kept");
        if let Err(error) = self.kill().await {
            tracing::error!(workspace = %self.id, %error, "failed to end the VMM");
        }
        self.clean_up(Some(end)).await;
    }

    /// Lets a guest run that was loaded, once nobody can load it again.
    async fn finish_loading(&mut self) {
        if let Err(error) = self.host.forget_memory(&self.id).await {
            return self.boot_cold(&error.to_string()).await;
        }
        let updated = self.update_boot(|boot| boot.memory = BootMemory::None).await;
        if let Err(error) = updated.and(self.enforce_run_state().await) {
            self.boot_cold(&error.to_string()).await;
        }
    }

    /// Ends a VM that could not go on from its memory image, so that another one boots.
    pub(super) async fn boot_cold(&mut self, reason: &str) {
        tracing::warn!(workspace = %self.id, reason, "the VM cannot go on from its memory; booting it");
        let lost = if reason.is_empty() { "the guest did not run on".to_owned() } else { shortened(reason) };
        if let Err(error) = self.update(|record| record.memory_lost = lost).await {
            tracing::error!(workspace = %self.id, %error, "failed to write the journal");
        }
        if let Err(error) = self.kill().await {
            tracing::error!(workspace = %self.id, %error, "failed to end the VMM");
        }
        self.clean_up(None).await;
    }
}

/// Begins another epoch: the agent has to acknowledge it before anything reaches the guest.
fn take_out_of_time(boot: &mut Boot) {
    boot.epoch += 1;
    boot.is_closed = true;
}
