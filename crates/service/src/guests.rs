//! Commands and files inside running workspaces. The permit names the workspace.

use bytes::Bytes;
use futures_util::Stream;
use rigbox_core::authz::{Action, Exec, Permit, ReadFiles, SyncAuthorizedKeys, WriteFiles};
use rigbox_core::ids::ProcessId;
use rigbox_core::status::Status;
use rigbox_proto::guest::change_file_request::Change;
use rigbox_proto::guest::{
    ChangeFileRequest, ExecOutput, ExecStart, FileEntry, FileEvent, FileRequest, Process, ReadFileOutput,
    ReadFileRequest, WriteFileOpen,
};

use crate::audit::{AuditRecorder, first_word};
use crate::guests::client::{Guest, GuestClient, GuestError, Output, RunningCommand, WriteError};
use crate::transitions::WorkspaceTransitions;

pub mod client;
pub mod deliver;
mod hang_up;
pub mod request_stream;
pub mod secret_delivery;

/// Service for commands and files.
#[derive(Clone)]
pub struct Guests {
    transitions: WorkspaceTransitions,
    guests: GuestClient,
    audit: AuditRecorder,
}

/// Error of a call on a workspace's guest.
#[derive(Debug, thiserror::Error)]
pub enum GuestAccessError {
    /// The workspace does not exist.
    #[error("Workspace `{0}` not found.")]
    NotFound(String),
    /// The workspace is not running.
    #[error("The workspace is `{status}`, not `running`. Allowed: {}.", allowed.join(" or "))]
    NotRunning {
        /// Current status.
        status: Status,
        /// Requests allowed in that status.
        allowed: Vec<&'static str>,
    },
    /// The workspace's agent has stopped responding.
    #[error("The workspace's agent does not answer. Restart the workspace.")]
    AgentLost,
    /// The call to the guest failed.
    #[error(transparent)]
    Guest(#[from] GuestError),
    /// The content of a file ended early.
    #[error("The upload was interrupted: {0}.")]
    Content(String),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] rigbox_store::Error),
}

impl<E: std::fmt::Display> From<WriteError<E>> for GuestAccessError {
    fn from(error: WriteError<E>) -> Self {
        match error {
            WriteError::Content(error) => Self::Content(error.to_string()),
            WriteError::Guest(error) => Self::Guest(error),
        }
    }
}

impl Guests {
    /// Creates the service.
    pub fn new(transitions: WorkspaceTransitions, guests: GuestClient, audit: AuditRecorder) -> Self {
        Self { transitions, guests, audit }
    }

    /// Starts a command under this id.
    pub async fn exec(
        &self,
        permit: &Permit<Exec>,
        process: &ProcessId,
        start: ExecStart,
    ) -> Result<RunningCommand, GuestAccessError> {
        let start = ExecStart { id: process.to_string(), ..start };
        let action = if start.tty.is_some() { "terminal" } else { "exec" };
        let (guest, word) = (self.running(permit).await?, program(&start));
        let RunningCommand { input, output } = self.guests.exec(guest, start).await?;
        let audited = self.audit.open(permit.principal(), action, guest.workspace, &word);
        Ok(RunningCommand { input, output: output.audited(audited) })
    }

    /// Starts a command in the background, under this id.
    pub async fn start_process(
        &self,
        permit: &Permit<Exec>,
        process: &ProcessId,
        start: ExecStart,
    ) -> Result<Process, GuestAccessError> {
        let start = ExecStart { id: process.to_string(), ..start };
        let (guest, word) = (self.running(permit).await?, program(&start));
        let process = self.guests.start_process(guest, start).await?;
        self.audit.record(permit.principal(), "process.start", guest.workspace, &word);
        Ok(process)
    }

    /// Lists the commands that run, and the newest that have run in the background.
    pub async fn list_processes(&self, permit: &Permit<Exec>) -> Result<Vec<Process>, GuestAccessError> {
        Ok(self.guests.list_processes(self.running(permit).await?).await?)
    }

    /// Sends a signal to a command.
    pub async fn signal_process(
        &self,
        permit: &Permit<Exec>,
        process: &ProcessId,
        signal: &str,
    ) -> Result<(), GuestAccessError> {
        Ok(self.guests.signal_process(self.running(permit).await?, process, signal).await?)
    }

    /// Reads the newest output of a command in the background, and what follows.
    pub async fn read_output(
        &self,
        permit: &Permit<Exec>,
        process: &ProcessId,
    ) -> Result<Output<ExecOutput>, GuestAccessError> {
        Ok(self.guests.read_output(self.running(permit).await?, process).await?)
    }

    /// Reads a file.
    pub async fn read_file(
        &self,
        permit: &Permit<ReadFiles>,
        request: ReadFileRequest,
    ) -> Result<Output<ReadFileOutput>, GuestAccessError> {
        Ok(self.guests.read_file(self.running(permit).await?, request).await?)
    }

    /// Writes a file. Returns its size.
    pub async fn write_file<E: std::fmt::Display>(
        &self,
        permit: &Permit<WriteFiles>,
        open: WriteFileOpen,
        content: impl Stream<Item = Result<Bytes, E>> + Unpin,
    ) -> Result<u64, GuestAccessError> {
        let (guest, path) = (self.running(permit).await?, open.path.clone());
        let size = self.guests.write_file(guest, open, content).await?;
        self.audit.record(permit.principal(), "file.write", guest.workspace, &path);
        Ok(size)
    }

    /// Describes a file.
    pub async fn stat_file(
        &self,
        permit: &Permit<ReadFiles>,
        request: FileRequest,
    ) -> Result<FileEntry, GuestAccessError> {
        Ok(self.guests.stat_file(self.running(permit).await?, request).await?)
    }

    /// Describes the files of a directory, at most `max` of them.
    pub async fn list_files(
        &self,
        permit: &Permit<ReadFiles>,
        request: FileRequest,
        max: usize,
    ) -> Result<Vec<FileEntry>, GuestAccessError> {
        Ok(self.guests.list_files(self.running(permit).await?, request, max).await?)
    }

    /// Reports changes of a file, or in a directory.
    pub async fn watch_files(
        &self,
        permit: &Permit<ReadFiles>,
        request: FileRequest,
    ) -> Result<Output<FileEvent>, GuestAccessError> {
        Ok(self.guests.watch_files(self.running(permit).await?, request).await?)
    }

    /// Makes a change to files.
    pub async fn change_file(
        &self,
        permit: &Permit<WriteFiles>,
        request: ChangeFileRequest,
    ) -> Result<(), GuestAccessError> {
        let guest = self.running(permit).await?;
        let (action, path) = match &request.change {
            Some(Change::MakeDirectory(made)) => ("file.mkdir", made.path.clone()),
            Some(Change::Rename(renamed)) => ("file.rename", renamed.to.clone()),
            Some(Change::Remove(removed)) => ("file.remove", removed.path.clone()),
            None => ("file.change", String::new()),
        };
        self.guests.change_file(guest, request).await?;
        self.audit.record(permit.principal(), action, guest.workspace, &path);
        Ok(())
    }

    /// Writes registered SSH keys into a workspace.
    pub async fn sync_ssh_keys(
        &self,
        permit: &Permit<SyncAuthorizedKeys>,
        lines: Vec<String>,
    ) -> Result<(), GuestAccessError> {
        Ok(self.guests.sync_ssh_keys(self.running(permit).await?, lines).await?)
    }

    /// Returns the permit's workspace if it is running and its agent responds.
    async fn running<'a, A: Action>(&self, permit: &'a Permit<A>) -> Result<Guest<'a>, GuestAccessError> {
        let Some(id) = permit.workspace() else { return Err(GuestAccessError::NotFound(A::NAME.to_owned())) };
        let workspace = self.transitions.store().workspace(id).await?;
        let lifecycle = workspace.ok_or_else(|| GuestAccessError::NotFound(id.to_string()))?.lifecycle;
        match lifecycle.status {
            Status::Running if lifecycle.agent_lost() => Err(GuestAccessError::AgentLost),
            Status::Running => Ok(Guest { workspace: id, owner: &permit.principal().user }),
            status => Err(GuestAccessError::NotRunning {
                status,
                allowed: lifecycle.allowed().into_iter().map(|request| request.as_str()).collect(),
            }),
        }
    }
}

/// Returns the first word of a command.
fn program(start: &ExecStart) -> String {
    first_word(start.argv.first().unwrap_or(&start.shell)).to_owned()
}
