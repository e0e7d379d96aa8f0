//! Machine on which workspaces live, as far as their tasks know it: everything that a task does beyond its own state. The node is one; a
//! simulation is another, on which the very same tasks run.

use std::collections::BTreeSet;
use std::fs::File;
use std::future::ready;
use std::sync::Arc;
use std::time::Duration;

use rigbox_core::ids::WorkspaceId;
use rigbox_proto::guestio::Report;
use tokio::sync::mpsc;

use crate::boot_queue::BootQueue;
use crate::error::Error;
use crate::memory::{MemoryImage, MemoryKey};
use crate::record::{Boot, ProcessId, Record};
use crate::reports::Reports;
use crate::vmm::kind::VmmKind;

/// Process of a VMM. Dropping it does nothing to the process.
pub trait VmmProcess: Send + Sync + 'static {
    /// Kills the process. One that has exited is fine.
    fn kill(&self);
    /// Waits until the process has exited. Dropping the future and calling this again is fine.
    fn wait(&self) -> impl Future<Output = ()> + Send;
}

/// VMM that has been started.
pub struct Launched<P> {
    /// Process of the VMM.
    pub process: P,
    /// Its identity, for the journal.
    pub id: ProcessId,
    /// Standard error of the VMM or its jail, non-blocking, read once after the process has exited.
    pub stderr: Option<File>,
}

/// Machine on which workspaces live. Every method may be repeated: after a failure, and after a restart that nobody remembers it from.
/// [`Error::Retry`] says that the call has to be repeated a little later.
pub trait Host: Send + Sync + 'static {
    /// Process of a VMM.
    type Process: VmmProcess;
    /// Service of a VM, until dropped.
    type Attachment: Send + Sync + 'static;

    /// Returns the id of the host's boot. VMs of another one are gone.
    fn host_boot_id(&self) -> &str;
    /// Returns the monitor that new VMs run in.
    fn vmm(&self) -> VmmKind;
    /// Returns the time from the VMM's start to the agent's hello.
    fn boot_timeout(&self) -> Duration;
    /// Returns a slot for another workspace.
    fn free_slot(&self, used: &BTreeSet<u32>) -> Option<u32>;
    /// Returns an id for a boot, a UUID.
    ///
    /// # Errors
    /// Fails if there is no randomness.
    fn new_boot_id(&self) -> Result<String, Error>;
    /// Returns the reports for control.
    fn reports(&self) -> &Reports;
    /// Returns the queue of boots.
    fn boot_queue(&self) -> &BootQueue;

    /// Writes a record durably.
    fn save(self: &Arc<Self>, record: &Record) -> impl Future<Output = Result<(), Error>> + Send;
    /// Removes a workspace's record durably, if there is one.
    fn remove_record(self: &Arc<Self>, id: &WorkspaceId) -> impl Future<Output = Result<(), Error>> + Send;

    /// Reserves the space of a disk that exists.
    fn adopt_disk(&self, id: &WorkspaceId, size_mb: u32);
    /// Keeps what others have of a VM that an earlier process of the node started, until it is attached or detached.
    fn recover_vm(&self, boot_id: &str);
    /// Creates a disk as a clone of the newest image of this name, in place of one that may be incomplete. Returns the image's version.
    fn create_disk(
        self: &Arc<Self>,
        id: &WorkspaceId,
        image: &str,
        size_mb: u32,
    ) -> impl Future<Output = Result<String, Error>> + Send;
    /// Removes a disk, if there is one.
    fn remove_disk(self: &Arc<Self>, id: &WorkspaceId) -> impl Future<Output = Result<(), Error>> + Send;

    /// Checks whether VMs may be booted here.
    ///
    /// # Errors
    /// The refusal.
    fn check_driver(&self) -> Result<(), Error>;
    /// Creates the resources of a VM, with the recorded network policy in force, and starts it. Leftovers of an earlier attempt are
    /// removed first, and the memory image, if there is one: with its key, the guest is loaded from it and stands still, behind a closed link.
    fn launch(
        self: &Arc<Self>,
        id: &WorkspaceId,
        record: &Record,
        memory_key: Option<MemoryKey>,
    ) -> impl Future<Output = Result<Launched<Self::Process>, Error>> + Send;
    /// Opens a recorded process. `None` if it has exited. An error says nothing about the process.
    fn reopen(
        self: &Arc<Self>,
        process: ProcessId,
    ) -> impl Future<Output = Result<Option<Self::Process>, Error>> + Send;
    /// Removes all resources that a boot may have but its record and disk, and ends its processes. None of them has to exist.
    fn tear_down(self: &Arc<Self>, id: &WorkspaceId) -> impl Future<Output = Result<(), Error>> + Send;

    /// Makes a running VM reachable: for guestio, whose reports go to `reports`, for gateways, and through its bridge.
    fn attach(
        self: &Arc<Self>,
        id: &WorkspaceId,
        record: &Record,
        boot: &Boot,
        reports: mpsc::Sender<Report>,
    ) -> Self::Attachment;
    /// Ends guestio's attachment to a VM, if there is one.
    fn detach(&self, boot_id: &str);
    /// Asks the guest to power off. It may not hear of it.
    fn shut_down(&self, boot_id: &str, grace_ms: u32);

    /// Tells guestio the state that a VM is to be in, and its epoch. It may not hear of it before it is back.
    fn set_run_state(&self, boot: &Boot);
    /// Opens or closes the link of a VM, and the way to dial it.
    fn set_link(
        self: &Arc<Self>,
        id: &WorkspaceId,
        record: &Record,
        is_open: bool,
    ) -> impl Future<Output = Result<(), Error>> + Send;

    /// Reserves the space of a memory image that exists.
    fn adopt_memory(&self, _id: &WorkspaceId, _size_mb: u32) {}
    /// Checks whether the image of a record is one of the VM that would be booted now. Here and below, a machine that keeps no memory refuses.
    ///
    /// # Errors
    /// Why not, for people.
    fn check_memory(
        self: &Arc<Self>,
        _id: &WorkspaceId,
        _record: &Record,
    ) -> impl Future<Output = Result<(), Error>> + Send {
        ready(Err(no_memory()))
    }
    /// Prepares an image of a VM's memory, before guestio hears that it is to be saved.
    fn begin_save(
        self: &Arc<Self>,
        _id: &WorkspaceId,
        _record: &Record,
        _key: &MemoryKey,
    ) -> impl Future<Output = Result<(), Error>> + Send {
        ready(Err(no_memory()))
    }
    /// Completes the image, durably, once guestio has told that the VM is saved.
    fn finish_save(
        self: &Arc<Self>,
        _id: &WorkspaceId,
        _record: &Record,
        _key: &MemoryKey,
    ) -> impl Future<Output = Result<MemoryImage, Error>> + Send {
        ready(Err(no_memory()))
    }
    /// Removes the memory image of a workspace and what there is of one that is being made or loaded.
    fn forget_memory(self: &Arc<Self>, _id: &WorkspaceId) -> impl Future<Output = Result<(), Error>> + Send {
        ready(Ok(()))
    }

    /// Puts the recorded network policy in force for a VM that an earlier process of the node started, before it is attached.
    fn restore_network(
        self: &Arc<Self>,
        id: &WorkspaceId,
        record: &Record,
    ) -> impl Future<Output = Result<(), Error>> + Send;
    /// Puts the recorded network policy in force for an attached VM, also for open connections.
    fn set_policy(
        self: &Arc<Self>,
        id: &WorkspaceId,
        record: &Record,
        boot: &Boot,
    ) -> impl Future<Output = Result<(), Error>> + Send;
}

fn no_memory() -> Error {
    Error::Refused("no_memory_images", "this machine keeps no memory of VMs".to_owned())
}
