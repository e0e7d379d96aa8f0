//! Client of the agents in VMs, through guestio. Streams are pulled: what a slow client does not read stays
//! in the guest.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{FutureExt, Stream, StreamExt};
use rigbox_core::ids::{ProcessId, UserId, WorkspaceId};
use rigbox_proto::guest::guest_client::GuestClient as Grpc;
use rigbox_proto::guest::{
    ChangeFileRequest, DeliverSecretsRequest, ExecInput, ExecOutput, ExecStart, FileEntry, FileEvent,
    FileRequest, ListPortsRequest, ListProcessesRequest, ListeningPort, PrepareSshRequest, Process,
    ReadFileOutput, ReadFileRequest, ReadOutputRequest, SignalProcessRequest, SyncSshKeysRequest,
    WriteFileInput, WriteFileOpen, exec_exit, exec_input, exec_output, start_process_response,
    write_file_input,
};
use rigbox_proto::transport::client::Channel;
use rigbox_proto::{WORKSPACE_HEADER, fault, guest_calls};
use rigbox_shares::{Bounds, Place, Refused, Shares};
use tonic::body::Body;
use tonic::metadata::MetadataValue;
use tonic::{Request, Status, Streaming};
use tower::util::MapRequest;

use crate::audit::AuditedUse;
use crate::guests::hang_up::HangUp;
use crate::guests::request_stream::{Input, request_stream, reset_on_disconnect};
use crate::rpc;

/// Payload of one message.
pub const CHUNK_BYTES: usize = 32 * 1024;
const MAX_MESSAGE_BYTES: usize = 128 * 1024;
/// For calls that only read state of the guest.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(10);
/// For the first word of a stream.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// For a guest that does not take the next part of a file.
const STALL_TIMEOUT: Duration = Duration::from_secs(60);
/// For a change, which may remove a large directory.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(60);
const COMMAND_TIMEOUT: Duration = Duration::from_secs(20);
const MAX_OUTPUT_BYTES: usize = 1024 * 1024;
const MAX_STDERR_BYTES: usize = 4096;
/// For a delivery, which only writes two small files in memory.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(10);

/// Error of a call to a guest, with a stable code.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct GuestError {
    /// Stable code.
    pub code: String,
    /// Message for people.
    pub message: String,
}

impl From<Status> for GuestError {
    fn from(status: Status) -> Self {
        Self { code: fault::code(&status).to_owned(), message: status.message().to_owned() }
    }
}

type ResettableChannel = MapRequest<Channel, fn(http::Request<Body>) -> http::Request<Body>>;

/// Client of the agents.
#[derive(Clone)]
pub struct GuestClient {
    grpc: Grpc<ResettableChannel>,
    /// Client with a connection of its own, for calls that must not wait for commands and transfers.
    urgent: Grpc<ResettableChannel>,
    socket: Arc<Path>,
    calls: CallShares,
    lookups: CallShares,
}

/// Workspace whose guest is called, with its owner.
#[derive(Debug, Clone, Copy)]
pub struct Guest<'a> {
    /// The workspace.
    pub workspace: &'a WorkspaceId,
    /// Owner of the workspace, whose calls count together.
    pub owner: &'a UserId,
}

/// Places of calls, with a share per workspace and one per owner.
#[derive(Clone)]
struct CallShares {
    workspaces: Shares<WorkspaceId>,
    owners: Shares<UserId>,
}

/// Place of a call.
type CallPlace = (Place<WorkspaceId>, Place<UserId>);

impl CallShares {
    fn new(per_workspace: Bounds, per_owner: Bounds) -> Self {
        Self { workspaces: Shares::new(per_workspace), owners: Shares::new(per_owner) }
    }

    fn take(&self, guest: Guest<'_>, what: &str) -> Result<CallPlace, GuestError> {
        let workspace = self.workspaces.take(guest.workspace.clone());
        let workspace = workspace.map_err(|refused| busy(refused, what, "in this workspace"))?;
        let owner = self.owners.take(guest.owner.clone());
        Ok((workspace, owner.map_err(|refused| busy(refused, what, "in your workspaces"))?))
    }
}

/// Running command. Dropping it kills the command's process group.
pub struct RunningCommand {
    /// Input of the command.
    pub input: Input<ExecInput>,
    /// Output of the command.
    pub output: Output<ExecOutput>,
}

/// Returns a client that connects on first use.
fn connect(socket: &Path) -> Grpc<ResettableChannel> {
    let reset: fn(http::Request<Body>) -> http::Request<Body> = reset_on_disconnect;
    Grpc::new(MapRequest::new(rpc::channel(socket), reset)).max_decoding_message_size(MAX_MESSAGE_BYTES)
}

impl GuestClient {
    /// Creates a client that connects to guestio's socket on first use.
    pub fn new(socket: &Path) -> Self {
        Self {
            grpc: connect(socket),
            urgent: connect(socket),
            socket: socket.into(),
            calls: CallShares::new(guest_calls::CALLS, guest_calls::CALLS_PER_OWNER),
            lookups: CallShares::new(guest_calls::LOOKUPS, guest_calls::LOOKUPS_PER_OWNER),
        }
    }

    /// Starts a command.
    pub async fn exec(&self, guest: Guest<'_>, start: ExecStart) -> Result<RunningCommand, GuestError> {
        let place = self.place(guest)?;
        let hang_up = self.hang_up(guest.workspace, &start.id);
        let (input, request) = request_stream();
        input.send(ExecInput { input: Some(exec_input::Input::Start(start)) }).await;
        let mut grpc = self.grpc.clone();
        let call = grpc.exec(with_workspace(guest.workspace, request)?);
        let stream = within(START_TIMEOUT, call).await?.into_inner();
        let is_last = |message: &ExecOutput| matches!(message.output, Some(exec_output::Output::Exit(_)));
        let command = Some(Command { hang_up, is_last });
        Ok(RunningCommand { input, output: Output { command, ..Output::new(stream, place) } })
    }

    /// Returns what hangs up on a command.
    fn hang_up(&self, workspace: &WorkspaceId, process: &str) -> HangUp {
        let (client, workspace, process) = (self.clone(), workspace.clone(), process.to_owned());
        HangUp::new(Box::new(move |signal| {
            let (client, workspace, process) = (client.clone(), workspace.clone(), process.clone());
            // An error means that the command has ended, or its workspace.
            async move { client.signal(&workspace, process, signal).await.is_ok() }.boxed()
        }))
    }

    /// Starts a command in the background.
    pub async fn start_process(&self, guest: Guest<'_>, start: ExecStart) -> Result<Process, GuestError> {
        let _place = self.place(guest)?;
        let request = with_workspace(guest.workspace, lookup(start))?;
        let mut grpc = self.grpc.clone();
        match within(LOOKUP_TIMEOUT, grpc.start_process(request)).await?.into_inner().outcome {
            Some(start_process_response::Outcome::Process(process)) => Ok(process),
            Some(start_process_response::Outcome::Error(error)) => {
                Err(GuestError { code: error.code, message: error.message })
            }
            None => Err(GuestError {
                code: "internal".to_owned(),
                message: "the agent did not report how the command started".to_owned(),
            }),
        }
    }

    /// Lists the commands of a workspace that have an id.
    pub async fn list_processes(&self, guest: Guest<'_>) -> Result<Vec<Process>, GuestError> {
        let _place = self.lookup_place(guest)?;
        let request = with_workspace(guest.workspace, lookup(ListProcessesRequest {}))?;
        let mut grpc = self.urgent.clone();
        Ok(within(LOOKUP_TIMEOUT, grpc.list_processes(request)).await?.into_inner().processes)
    }

    /// Sends a signal to a command.
    pub async fn signal_process(
        &self,
        guest: Guest<'_>,
        process: &ProcessId,
        signal: &str,
    ) -> Result<(), GuestError> {
        let _place = self.lookup_place(guest)?;
        self.signal(guest.workspace, process.to_string(), signal).await
    }

    /// Sends a signal to a command. Takes no place, so that a command whose caller has left always gets it.
    pub(super) async fn signal(
        &self,
        workspace: &WorkspaceId,
        process: String,
        signal: &str,
    ) -> Result<(), GuestError> {
        let request = SignalProcessRequest { id: process, signal: signal.to_owned() };
        let request = with_workspace(workspace, lookup(request))?;
        within(LOOKUP_TIMEOUT, self.urgent.clone().signal_process(request)).await?;
        Ok(())
    }

    /// Reads the kept output of a command in the background, and what follows.
    pub async fn read_output(
        &self,
        guest: Guest<'_>,
        process: &ProcessId,
    ) -> Result<Output<ExecOutput>, GuestError> {
        let place = self.place(guest)?;
        let request = Request::new(ReadOutputRequest { id: process.to_string() });
        let mut grpc = self.grpc.clone();
        let call = grpc.read_output(with_workspace(guest.workspace, request)?);
        let stream = within(START_TIMEOUT, call).await?.into_inner();
        Ok(Output::new(stream, place))
    }

    /// Delivers secrets to a workspace, on a connection that is then closed: the buffers of one that stays would keep them in memory. Takes
    /// no place, so that calls by users cannot delay it.
    pub async fn deliver_secrets(
        &self,
        workspace: &WorkspaceId,
        secrets: DeliverSecretsRequest,
    ) -> Result<(), GuestError> {
        let mut request = Request::new(secrets);
        request.set_timeout(DELIVERY_TIMEOUT);
        let request = with_workspace(workspace, request)?;
        within(DELIVERY_TIMEOUT, connect(&self.socket).deliver_secrets(request)).await?;
        Ok(())
    }

    /// Lists the listening ports of a workspace: all of them (`port` 0), or one with all its details.
    pub async fn list_ports(&self, guest: Guest<'_>, port: u16) -> Result<Vec<ListeningPort>, GuestError> {
        let _place = self.lookup_place(guest)?;
        let request = with_workspace(
            guest.workspace,
            lookup(ListPortsRequest { port: port.into(), padding: Bytes::new() }),
        )?;
        let mut grpc = self.urgent.clone();
        Ok(within(LOOKUP_TIMEOUT, grpc.list_ports(request)).await?.into_inner().ports)
    }

    /// Has a workspace's SSH server admit a key of the gateway. Returns the lines of its host keys, as the guest has sent them.
    pub async fn prepare_ssh(
        &self,
        guest: Guest<'_>,
        request: PrepareSshRequest,
    ) -> Result<Vec<String>, GuestError> {
        let _place = self.lookup_place(guest)?;
        let request = with_workspace(guest.workspace, lookup(request))?;
        let mut grpc = self.urgent.clone();
        Ok(within(LOOKUP_TIMEOUT, grpc.prepare_ssh(request)).await?.into_inner().host_keys)
    }

    /// Replaces the managed part of a workspace's `authorized_keys`.
    pub async fn sync_ssh_keys(&self, guest: Guest<'_>, keys: Vec<String>) -> Result<(), GuestError> {
        let _place = self.lookup_place(guest)?;
        let request = with_workspace(guest.workspace, lookup(SyncSshKeysRequest { keys }))?;
        let mut grpc = self.urgent.clone();
        within(LOOKUP_TIMEOUT, grpc.sync_ssh_keys(request)).await?;
        Ok(())
    }

    /// Runs a short command as root and returns its output, truncated to a maximum.
    pub async fn output(&self, guest: Guest<'_>, command: &[&str]) -> Result<CommandOutput, GuestError> {
        let start = ExecStart {
            argv: command.iter().map(|word| (*word).to_owned()).collect(),
            user: "root".to_owned(),
            timeout_ms: u32::try_from(COMMAND_TIMEOUT.as_millis()).unwrap_or(u32::MAX),
            ..ExecStart::default()
        };
        // The guest's own time-out comes first, if it keeps it.
        within(COMMAND_TIMEOUT + LOOKUP_TIMEOUT, self.run_to_end(guest, start)).await
    }

    async fn run_to_end(&self, guest: Guest<'_>, start: ExecStart) -> Result<CommandOutput, GuestError> {
        let mut running = self.exec(guest, start).await?;
        let mut output = CommandOutput::default();
        running.input.send(ExecInput { input: Some(exec_input::Input::Eof(true)) }).await;
        while let Some(message) = running.output.next().await? {
            match message.output {
                Some(exec_output::Output::Stdout(bytes)) => output.append(&bytes),
                Some(exec_output::Output::Stderr(bytes)) => output.append_error(&bytes),
                Some(exec_output::Output::Exit(end)) => {
                    output.succeeded = end.outcome == Some(exec_exit::Outcome::ExitCode(0));
                    break;
                }
                None => {}
            }
        }
        Ok(output)
    }

    /// Reads a file.
    pub async fn read_file(
        &self,
        guest: Guest<'_>,
        request: ReadFileRequest,
    ) -> Result<Output<ReadFileOutput>, GuestError> {
        let place = self.place(guest)?;
        let mut grpc = self.grpc.clone();
        let call = grpc.read_file(with_workspace(guest.workspace, Request::new(request))?);
        let stream = within(START_TIMEOUT, call).await?.into_inner();
        Ok(Output::new(stream, place))
    }

    /// Describes a file.
    pub async fn stat_file(&self, guest: Guest<'_>, request: FileRequest) -> Result<FileEntry, GuestError> {
        let _place = self.lookup_place(guest)?;
        let mut grpc = self.urgent.clone();
        let call = grpc.stat_file(with_workspace(guest.workspace, lookup(request))?);
        Ok(within(LOOKUP_TIMEOUT, call).await?.into_inner())
    }

    /// Describes the files of a directory, at most `max` of them.
    pub async fn list_files(
        &self,
        guest: Guest<'_>,
        request: FileRequest,
        max: usize,
    ) -> Result<Vec<FileEntry>, GuestError> {
        let _place = self.place(guest)?;
        let request = with_workspace(guest.workspace, lookup(request))?;
        let mut grpc = self.grpc.clone();
        let listing = async {
            let mut stream = grpc.list_files(request).await?.into_inner();
            let mut entries = Vec::new();
            while entries.len() < max
                && let Some(entry) = stream.message().await?
            {
                entries.push(entry);
            }
            Ok::<_, Status>(entries)
        };
        within(LOOKUP_TIMEOUT, listing).await
    }

    /// Reports changes of a file, or in a directory.
    pub async fn watch_files(
        &self,
        guest: Guest<'_>,
        request: FileRequest,
    ) -> Result<Output<FileEvent>, GuestError> {
        let place = self.place(guest)?;
        let request = with_workspace(guest.workspace, Request::new(request))?;
        let stream = within(START_TIMEOUT, self.grpc.clone().watch_files(request)).await?.into_inner();
        Ok(Output::new(stream, place))
    }

    /// Makes a change to files.
    pub async fn change_file(&self, guest: Guest<'_>, request: ChangeFileRequest) -> Result<(), GuestError> {
        let _place = self.place(guest)?;
        let mut request = Request::new(request);
        request.set_timeout(CHANGE_TIMEOUT);
        let request = with_workspace(guest.workspace, request)?;
        within(CHANGE_TIMEOUT, self.grpc.clone().change_file(request)).await?;
        Ok(())
    }

    /// Writes a file, which appears only if `content` ends without an error. Returns its size.
    pub async fn write_file<E>(
        &self,
        guest: Guest<'_>,
        open: WriteFileOpen,
        mut content: impl Stream<Item = Result<Bytes, E>> + Unpin,
    ) -> Result<u64, WriteError<E>> {
        let _place = self.place(guest)?;
        let (input, request) = request_stream();
        let message = |part| WriteFileInput { input: Some(part) };
        input.send(message(write_file_input::Input::Open(open))).await;
        let mut grpc = self.grpc.clone();
        let call = grpc.write_file(with_workspace(guest.workspace, request)?);
        tokio::pin!(call);
        let sending = async {
            while let Some(bytes) = content.next().await {
                let mut bytes = bytes.map_err(WriteError::Content)?;
                while !bytes.is_empty() {
                    let part = bytes.split_to(bytes.len().min(CHUNK_BYTES));
                    let sent = input.send(message(write_file_input::Input::Data(part)));
                    let sent = async {
                        sent.await;
                        Ok::<(), GuestError>(())
                    };
                    within(STALL_TIMEOUT, sent).await?;
                }
            }
            input.send(message(write_file_input::Input::Done(true))).await;
            input.finish().await;
            Ok::<(), WriteError<E>>(())
        };
        tokio::pin!(sending);
        tokio::select! {
            // A response before the end of the content is an error.
            response = &mut call => Ok(response.map_err(GuestError::from)?.into_inner().size),
            sent = &mut sending => {
                sent?;
                Ok(within(CHANGE_TIMEOUT, call).await?.into_inner().size)
            }
        }
    }

    /// Takes a place for a command or transfer.
    fn place(&self, guest: Guest<'_>) -> Result<CallPlace, GuestError> {
        self.calls.take(guest, "commands and file transfers")
    }

    /// Takes a place for a lookup.
    fn lookup_place(&self, guest: Guest<'_>) -> Result<CallPlace, GuestError> {
        self.lookups.take(guest, "lookups")
    }
}

fn busy(refused: Refused, what: &str, place: &str) -> GuestError {
    let message = match refused {
        Refused::Share(places) => {
            format!("{places} {what} are already running {place}. Wait for one of them to finish.")
        }
        Refused::Full(places) => format!("{places} {what} are already running on this host. Try again."),
    };
    GuestError { code: "busy".to_owned(), message }
}

/// Waits for a call at most for `limit`, whatever the guest and what is in between do.
async fn within<T, E: Into<GuestError>>(
    limit: Duration,
    call: impl Future<Output = Result<T, E>>,
) -> Result<T, GuestError> {
    match tokio::time::timeout(limit, call).await {
        Ok(outcome) => outcome.map_err(Into::into),
        Err(_) => Err(GuestError {
            code: "agent_lost".to_owned(),
            message: format!("no response within {} s", limit.as_secs()),
        }),
    }
}

/// Output of a short command.
#[derive(Debug, Default)]
pub struct CommandOutput {
    /// True if the exit code was 0.
    pub succeeded: bool,
    /// Standard output.
    pub stdout: Vec<u8>,
    stderr: Vec<u8>,
}

impl CommandOutput {
    fn append(&mut self, bytes: &[u8]) {
        self.stdout.extend(bytes.iter().take(MAX_OUTPUT_BYTES.saturating_sub(self.stdout.len())));
    }

    fn append_error(&mut self, bytes: &[u8]) {
        self.stderr.extend(bytes.iter().take(MAX_STDERR_BYTES.saturating_sub(self.stderr.len())));
    }

    /// Returns the standard error as one line for people.
    pub fn error_text(&self) -> String {
        let text = String::from_utf8_lossy(&self.stderr);
        text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
    }
}

/// Error of writing a file.
#[derive(Debug)]
pub enum WriteError<E> {
    /// The content ended early.
    Content(E),
    /// The call failed.
    Guest(GuestError),
}

impl<E> From<GuestError> for WriteError<E> {
    fn from(error: GuestError) -> Self {
        Self::Guest(error)
    }
}

/// Command that messages are of.
struct Command<T> {
    hang_up: HangUp,
    /// Returns whether a message tells the command's end.
    is_last: fn(&T) -> bool,
}

/// Stream of messages from a guest.
pub struct Output<T> {
    stream: Streaming<T>,
    /// Command that the messages are of.
    command: Option<Command<T>>,
    _place: CallPlace,
    /// Recorded in the audit log when the call ends.
    _audited: Option<AuditedUse>,
}

impl<T> Output<T> {
    fn new(stream: Streaming<T>, place: CallPlace) -> Self {
        Self { stream, command: None, _place: place, _audited: None }
    }

    /// Has the end of the call recorded in the audit log.
    #[must_use]
    pub fn audited(self, audited: AuditedUse) -> Self {
        Self { _audited: Some(audited), ..self }
    }

    /// Returns the next message, or `None` at the end.
    pub async fn next(&mut self) -> Result<Option<T>, GuestError> {
        let message = self.stream.message().await?;
        if let Some(command) = &mut self.command
            && message.as_ref().is_none_or(command.is_last)
        {
            command.hang_up.ended();
        }
        Ok(message)
    }
}

/// Returns a request that the agent answers at once.
fn lookup<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(LOOKUP_TIMEOUT);
    request
}

fn with_workspace<T>(id: &WorkspaceId, mut request: Request<T>) -> Result<Request<T>, GuestError> {
    let value = MetadataValue::try_from(id.as_str())
        .map_err(|error| GuestError { code: "internal".to_owned(), message: error.to_string() })?;
    request.metadata_mut().insert(WORKSPACE_HEADER, value);
    Ok(request)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_workspaces_give_nobody_all_places() {
        let shares = CallShares::new(Bounds { total: 4, per_key: 2 }, Bounds { total: 4, per_key: 3 });
        let workspaces = [1, 2, 3].map(|n| WorkspaceId::from_random([n; 5]));
        let [busy, other] = [1, 2].map(|n| UserId::from_random([n; 5]));
        let take = |n: usize, owner| {
            shares.take(Guest { workspace: &workspaces[n], owner }, "calls").map_err(|error| error.message)
        };
        let held = [take(0, &busy).unwrap(), take(0, &busy).unwrap(), take(1, &busy).unwrap()];
        assert!(take(0, &busy).unwrap_err().contains("in this workspace"));
        assert!(take(1, &busy).unwrap_err().contains("in your workspaces"));
        let place = take(2, &other).unwrap();
        assert!(take(2, &other).unwrap_err().contains("on this host"));
        drop(place);
        // A refusal keeps no place of the other share.
        take(2, &other).unwrap();
        drop(held);
    }
}
