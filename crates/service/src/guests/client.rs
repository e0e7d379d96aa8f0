//! The agents in the VMs, reached through guestio. Streams are pulled: what a slow client does not take, the guest keeps.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use rigbox_core::ids::WorkspaceId;
use rigbox_proto::guest::guest_client::GuestClient as Grpc;
use rigbox_proto::guest::{
    DeliverSecretsRequest, ExecInput, ExecOutput, ExecStart, ListPortsRequest, ListeningPort, ReadFileOutput,
    ReadFileRequest, WriteFileInput, WriteFileOpen, exec_exit, exec_input, exec_output, write_file_input,
};
use rigbox_proto::{WORKSPACE_HEADER, fault};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::body::Body;
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic::{Request, Status, Streaming};
use tower::util::MapRequest;

use crate::guests::request_stream::{Input, guarded, request_stream};
use crate::rpc;

/// Calls to guests at one time, all workspaces together: times the stream window it bounds our memory.
const MAX_CONCURRENT_CALLS: usize = 256;
/// Payload of one message.
pub const CHUNK: usize = 32 * 1024;
const MAX_MESSAGE_BYTES: usize = 128 * 1024;
/// The agent only looks something up.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(10);
const COMMAND_TIMEOUT: Duration = Duration::from_secs(20);
const MAX_OUTPUT_BYTES: usize = 1024 * 1024;
const MAX_STDERR_BYTES: usize = 4096;
/// The agent only writes two small files in memory.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a call to a guest failed, with a stable code.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct GuestError {
    pub code: String,
    pub message: String,
}

impl From<Status> for GuestError {
    fn from(status: Status) -> Self {
        Self { code: fault::code(&status).to_owned(), message: status.message().to_owned() }
    }
}

type Guarded = MapRequest<Channel, fn(http::Request<Body>) -> http::Request<Body>>;

#[derive(Clone)]
pub struct GuestClient {
    grpc: Grpc<Guarded>,
    calls: Arc<Semaphore>,
}

/// A running command: dropping it ends the command's process group.
pub struct RunningCommand {
    pub input: Input<ExecInput>,
    pub output: Output<ExecOutput>,
}

impl GuestClient {
    pub fn new(socket: &Path) -> Self {
        let guarded: fn(http::Request<Body>) -> http::Request<Body> = guarded;
        Self {
            grpc: Grpc::new(MapRequest::new(rpc::channel(socket), guarded))
                .max_decoding_message_size(MAX_MESSAGE_BYTES),
            calls: Arc::new(Semaphore::new(MAX_CONCURRENT_CALLS)),
        }
    }

    pub async fn exec(
        &self,
        id: &WorkspaceId,
        start: rigbox_proto::guest::ExecStart,
    ) -> Result<RunningCommand, GuestError> {
        let permit = self.permit()?;
        let (input, request) = request_stream();
        input.send(ExecInput { input: Some(exec_input::Input::Start(start)) }).await;
        let stream = self.grpc.clone().exec(addressed(id, request)?).await?.into_inner();
        Ok(RunningCommand { input, output: Output { stream, _permit: permit } })
    }

    /// Hands a workspace its secrets. Not counted among the calls: users' own must not keep it waiting.
    pub async fn deliver(&self, id: &WorkspaceId, secrets: DeliverSecretsRequest) -> Result<(), GuestError> {
        let mut request = Request::new(secrets);
        request.set_timeout(DELIVERY_TIMEOUT);
        self.grpc.clone().deliver_secrets(addressed(id, request)?).await?;
        Ok(())
    }

    /// What listens in a workspace: all ports, or one and all about it.
    pub async fn list_ports(&self, id: &WorkspaceId, port: u16) -> Result<Vec<ListeningPort>, GuestError> {
        let mut request = Request::new(ListPortsRequest { port: port.into() });
        request.set_timeout(LOOKUP_TIMEOUT);
        Ok(self.grpc.clone().list_ports(addressed(id, request)?).await?.into_inner().ports)
    }

    /// Runs a short command as root and keeps what it says, as far as that is bounded.
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
                Some(exec_output::Output::Stdout(bytes)) => output.keep(&bytes),
                Some(exec_output::Output::Stderr(bytes)) => output.keep_error(&bytes),
                Some(exec_output::Output::Exit(end)) => {
                    output.succeeded = end.outcome == Some(exec_exit::Outcome::ExitCode(0));
                    break;
                }
                None => {}
            }
        }
        Ok(output)
    }

    pub async fn read_file(
        &self,
        id: &WorkspaceId,
        request: ReadFileRequest,
    ) -> Result<Output<ReadFileOutput>, GuestError> {
        let permit = self.permit()?;
        let stream = self.grpc.clone().read_file(addressed(id, Request::new(request))?).await?.into_inner();
        Ok(Output { stream, _permit: permit })
    }

    /// Writes `content`; the file appears only when all of it has come without an error. Answers its size.
    pub async fn write_file<E>(
        &self,
        id: &WorkspaceId,
        open: WriteFileOpen,
        mut content: impl Stream<Item = Result<Bytes, E>> + Unpin,
    ) -> Result<u64, WriteError<E>> {
        let _permit = self.permit()?;
        let (input, request) = request_stream();
        let message = |part| WriteFileInput { input: Some(part) };
        input.send(message(write_file_input::Input::Open(open))).await;
        let mut grpc = self.grpc.clone();
        let call = grpc.write_file(addressed(id, request)?);
        tokio::pin!(call);
        let feeding = async {
            while let Some(bytes) = content.next().await {
                let mut bytes = bytes.map_err(WriteError::Content)?;
                while !bytes.is_empty() {
                    let part = bytes.split_to(bytes.len().min(CHUNK));
                    input.send(message(write_file_input::Input::Data(part))).await;
                }
            }
            input.send(message(write_file_input::Input::Done(true))).await;
            input.finish().await;
            Ok::<(), WriteError<E>>(())
        };
        tokio::pin!(feeding);
        tokio::select! {
            // An answer before the end of the content is a refusal.
            answer = &mut call => Ok(answer.map_err(GuestError::from)?.into_inner().size),
            fed = &mut feeding => {
                fed?;
                Ok(call.await.map_err(GuestError::from)?.into_inner().size)
            }
        }
    }

    fn permit(&self) -> Result<OwnedSemaphorePermit, GuestError> {
        self.calls.clone().try_acquire_owned().map_err(|_| GuestError {
            code: "busy".to_owned(),
            message: format!("{MAX_CONCURRENT_CALLS} commands and file transfers are under way already"),
        })
    }
}

/// What a short command output.
#[derive(Debug, Default)]
pub struct CommandOutput {
    pub succeeded: bool,
    pub stdout: Vec<u8>,
    stderr: Vec<u8>,
}

impl CommandOutput {
    fn keep(&mut self, bytes: &[u8]) {
        self.stdout.extend(bytes.iter().take(MAX_OUTPUT_BYTES.saturating_sub(self.stdout.len())));
    }

    fn keep_error(&mut self, bytes: &[u8]) {
        self.stderr.extend(bytes.iter().take(MAX_STDERR_BYTES.saturating_sub(self.stderr.len())));
    }

    /// What it complained of, for people.
    pub fn error_text(&self) -> String {
        let text = String::from_utf8_lossy(&self.stderr);
        text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
    }
}

/// Why a file was not written.
#[derive(Debug)]
pub enum WriteError<E> {
    /// The content did not come to its end.
    Content(E),
    Guest(GuestError),
}

impl<E> From<GuestError> for WriteError<E> {
    fn from(error: GuestError) -> Self {
        Self::Guest(error)
    }
}

/// What comes from a guest.
pub struct Output<T> {
    stream: Streaming<T>,
    _permit: OwnedSemaphorePermit,
}

impl<T> Output<T> {
    pub async fn next(&mut self) -> Result<Option<T>, GuestError> {
        Ok(self.stream.message().await?)
    }
}

fn addressed<T>(id: &WorkspaceId, mut request: Request<T>) -> Result<Request<T>, GuestError> {
    let value = MetadataValue::try_from(id.as_str())
        .map_err(|error| GuestError { code: "internal".to_owned(), message: error.to_string() })?;
    request.metadata_mut().insert(WORKSPACE_HEADER, value);
    Ok(request)
}
