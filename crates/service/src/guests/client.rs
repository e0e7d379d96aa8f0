//! Client of the agents in VMs, through guestio. Streams are pulled: what a slow client does not read stays
//! in the guest.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use rigbox_core::ids::{ProcessId, WorkspaceId};
use rigbox_proto::guest::guest_client::GuestClient as Grpc;
use rigbox_proto::guest::{
    ChangeFileRequest, DeliverSecretsRequest, ExecInput, ExecOutput, ExecStart, FileEntry, FileEvent,
    FileRequest, ListPortsRequest, ListProcessesRequest, ListeningPort, Process, ReadFileOutput,
    ReadFileRequest, ReadOutputRequest, SignalProcessRequest, WriteFileInput, WriteFileOpen, exec_exit,
    exec_input, exec_output, start_process_response, write_file_input,
};
use rigbox_proto::{WORKSPACE_HEADER, fault, guest_calls};
use rigbox_shares::{Place, Refused, Shares};
use tonic::body::Body;
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic::{Request, Status, Streaming};
use tower::util::MapRequest;

use crate::audit::AuditedUse;
use crate::guests::request_stream::{Input, request_stream, reset_on_disconnect};
use crate::rpc;

/// Payload of one message.
pub const CHUNK_BYTES: usize = 32 * 1024;
const MAX_MESSAGE_BYTES: usize = 128 * 1024;
/// For calls that only read state of the guest.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(10);
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
    calls: Shares<WorkspaceId>,
    lookups: Shares<WorkspaceId>,
}

/// Running command. Dropping it kills the command's process group.
pub struct RunningCommand {
    /// Input of the command.
    pub input: Input<ExecInput>,
    /// Output of the command.
    pub output: Output<ExecOutput>,
}

impl GuestClient {
    /// Creates a client that connects to guestio's socket on first use.
    pub fn new(socket: &Path) -> Self {
        let reset: fn(http::Request<Body>) -> http::Request<Body> = reset_on_disconnect;
        let connect = || {
            Grpc::new(MapRequest::new(rpc::channel(socket), reset))
                .max_decoding_message_size(MAX_MESSAGE_BYTES)
        };
        Self {
            grpc: connect(),
            urgent: connect(),
            calls: Shares::new(guest_calls::CALLS),
            lookups: Shares::new(guest_calls::LOOKUPS),
        }
    }

    /// Starts a command.
    pub async fn exec(&self, id: &WorkspaceId, start: ExecStart) -> Result<RunningCommand, GuestError> {
        let place = self.place(id)?;
        let (input, request) = request_stream();
        input.send(ExecInput { input: Some(exec_input::Input::Start(start)) }).await;
        let stream = self.grpc.clone().exec(with_workspace(id, request)?).await?.into_inner();
        Ok(RunningCommand { input, output: Output { stream, _place: place, _audited: None } })
    }

    /// Starts a command in the background.
    pub async fn start_process(&self, id: &WorkspaceId, start: ExecStart) -> Result<Process, GuestError> {
        let _place = self.place(id)?;
        let request = with_workspace(id, lookup(start))?;
        match self.grpc.clone().start_process(request).await?.into_inner().outcome {
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
    pub async fn list_processes(&self, id: &WorkspaceId) -> Result<Vec<Process>, GuestError> {
        let _place = self.lookup_place(id)?;
        let request = with_workspace(id, lookup(ListProcessesRequest {}))?;
        Ok(self.urgent.clone().list_processes(request).await?.into_inner().processes)
    }

    /// Sends a signal to a command.
    pub async fn signal_process(
        &self,
        id: &WorkspaceId,
        process: &ProcessId,
        signal: &str,
    ) -> Result<(), GuestError> {
        let _place = self.lookup_place(id)?;
        let request = SignalProcessRequest { id: process.to_string(), signal: signal.to_owned() };
        self.urgent.clone().signal_process(with_workspace(id, lookup(request))?).await?;
        Ok(())
    }

    /// Reads the kept output of a command in the background, and what follows.
    pub async fn read_output(
        &self,
        id: &WorkspaceId,
        process: &ProcessId,
    ) -> Result<Output<ExecOutput>, GuestError> {
        let place = self.place(id)?;
        let request = Request::new(ReadOutputRequest { id: process.to_string() });
        let stream = self.grpc.clone().read_output(with_workspace(id, request)?).await?.into_inner();
        Ok(Output { stream, _place: place, _audited: None })
    }

    /// Delivers secrets to a workspace. Takes no place, so that calls by users cannot delay it.
    pub async fn deliver(&self, id: &WorkspaceId, secrets: DeliverSecretsRequest) -> Result<(), GuestError> {
        let mut request = Request::new(secrets);
        request.set_timeout(DELIVERY_TIMEOUT);
        self.urgent.clone().deliver_secrets(with_workspace(id, request)?).await?;
        Ok(())
    }

    /// Lists the listening ports of a workspace: all of them (`port` 0), or one with all its details.
    pub async fn list_ports(&self, id: &WorkspaceId, port: u16) -> Result<Vec<ListeningPort>, GuestError> {
        let _place = self.lookup_place(id)?;
        let request = with_workspace(id, lookup(ListPortsRequest { port: port.into() }))?;
        Ok(self.urgent.clone().list_ports(request).await?.into_inner().ports)
    }

    /// Runs a short command as root and returns its output, truncated to a maximum.
    pub async fn output(&self, id: &WorkspaceId, command: &[&str]) -> Result<CommandOutput, GuestError> {
        let start = ExecStart {
            argv: command.iter().map(|word| (*word).to_owned()).collect(),
            user: "root".to_owned(),
            timeout_ms: u32::try_from(COMMAND_TIMEOUT.as_millis()).unwrap_or(u32::MAX),
            ..ExecStart::default()
        };
        let mut running = self.exec(id, start).await?;
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
        id: &WorkspaceId,
        request: ReadFileRequest,
    ) -> Result<Output<ReadFileOutput>, GuestError> {
        let place = self.place(id)?;
        let stream =
            self.grpc.clone().read_file(with_workspace(id, Request::new(request))?).await?.into_inner();
        Ok(Output { stream, _place: place, _audited: None })
    }

    /// Describes a file.
    pub async fn stat_file(&self, id: &WorkspaceId, request: FileRequest) -> Result<FileEntry, GuestError> {
        let _place = self.lookup_place(id)?;
        Ok(self.urgent.clone().stat_file(with_workspace(id, lookup(request))?).await?.into_inner())
    }

    /// Describes the files of a directory, at most `max` of them.
    pub async fn list_files(
        &self,
        id: &WorkspaceId,
        request: FileRequest,
        max: usize,
    ) -> Result<Vec<FileEntry>, GuestError> {
        let _place = self.place(id)?;
        let request = with_workspace(id, lookup(request))?;
        let mut stream = self.grpc.clone().list_files(request).await?.into_inner();
        let mut entries = Vec::new();
        while entries.len() < max
            && let Some(entry) = stream.message().await?
        {
            entries.push(entry);
        }
        Ok(entries)
    }

    /// Reports changes of a file, or in a directory.
    pub async fn watch_files(
        &self,
        id: &WorkspaceId,
        request: FileRequest,
    ) -> Result<Output<FileEvent>, GuestError> {
        let place = self.place(id)?;
        let request = with_workspace(id, Request::new(request))?;
        let stream = self.grpc.clone().watch_files(request).await?.into_inner();
        Ok(Output { stream, _place: place, _audited: None })
    }

    /// Makes a change to files.
    pub async fn change_file(&self, id: &WorkspaceId, request: ChangeFileRequest) -> Result<(), GuestError> {
        let _place = self.place(id)?;
        let mut request = Request::new(request);
        request.set_timeout(CHANGE_TIMEOUT);
        self.grpc.clone().change_file(with_workspace(id, request)?).await?;
        Ok(())
    }

    /// Writes a file, which appears only if `content` ends without an error. Returns its size.
    pub async fn write_file<E>(
        &self,
        id: &WorkspaceId,
        open: WriteFileOpen,
        mut content: impl Stream<Item = Result<Bytes, E>> + Unpin,
    ) -> Result<u64, WriteError<E>> {
        let _place = self.place(id)?;
        let (input, request) = request_stream();
        let message = |part| WriteFileInput { input: Some(part) };
        input.send(message(write_file_input::Input::Open(open))).await;
        let mut grpc = self.grpc.clone();
        let call = grpc.write_file(with_workspace(id, request)?);
        tokio::pin!(call);
        let sending = async {
            while let Some(bytes) = content.next().await {
                let mut bytes = bytes.map_err(WriteError::Content)?;
                while !bytes.is_empty() {
                    let part = bytes.split_to(bytes.len().min(CHUNK_BYTES));
                    input.send(message(write_file_input::Input::Data(part))).await;
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
                Ok(call.await.map_err(GuestError::from)?.into_inner().size)
            }
        }
    }

    /// Takes a place for a command or transfer.
    fn place(&self, id: &WorkspaceId) -> Result<Place<WorkspaceId>, GuestError> {
        self.calls.take(id.clone()).map_err(|refused| busy(refused, "commands and file transfers"))
    }

    /// Takes a place for a lookup.
    fn lookup_place(&self, id: &WorkspaceId) -> Result<Place<WorkspaceId>, GuestError> {
        self.lookups.take(id.clone()).map_err(|refused| busy(refused, "lookups"))
    }
}

fn busy(refused: Refused, what: &str) -> GuestError {
    let message = match refused {
        Refused::Share(places) => {
            format!("{places} {what} are already running in this workspace. Wait for one of them to finish.")
        }
        Refused::Full(places) => format!("{places} {what} are already running on this host. Try again."),
    };
    GuestError { code: "busy".to_owned(), message }
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

/// Stream of messages from a guest.
pub struct Output<T> {
    stream: Streaming<T>,
    _place: Place<WorkspaceId>,
    /// Recorded in the audit log when the call ends.
    _audited: Option<AuditedUse>,
}

impl<T> Output<T> {
    /// Has the end of the call recorded in the audit log.
    #[must_use]
    pub fn audited(self, audited: AuditedUse) -> Self {
        Self { _audited: Some(audited), ..self }
    }

    /// Returns the next message, or `None` at the end.
    pub async fn next(&mut self) -> Result<Option<T>, GuestError> {
        Ok(self.stream.message().await?)
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
