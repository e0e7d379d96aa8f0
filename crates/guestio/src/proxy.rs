//! Guest service for control: finds the VM, forwards the call to its agent, and checks everything that comes back from the guest. Only one
//! message is in flight at a time, so the slower end sets the pace.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use rigbox_proto::guest::guest_server::Guest;
use rigbox_proto::guest::{
    ChangeFileRequest, ChangeFileResponse, DeliverSecretsRequest, DeliverSecretsResponse, ExecInput,
    ExecOutput, ExecStart, FileEntry, FileEvent, FileRequest, HelloRequest, HelloResponse, ListPortsRequest,
    ListPortsResponse, ListProcessesRequest, ListProcessesResponse, PrepareSshRequest, PrepareSshResponse,
    ReadFileOutput, ReadFileRequest, ReadOutputRequest, ShutDownRequest, ShutDownResponse, ShutdownEvent,
    SignalProcessRequest, SignalProcessResponse, StartProcessResponse, SyncSshKeysRequest,
    SyncSshKeysResponse, SystemEvent, WatchShutdownRequest, WatchSystemRequest, WriteFileInput,
    WriteFileResponse,
};
use rigbox_proto::{WORKSPACE_HEADER, fault};
use tokio_stream::Stream;
use tokio_util::sync::CancellationToken;
use tonic::metadata::MetadataMap;
use tonic::{Code, Request, Response, Status, Streaming};

use crate::agent_client::AgentClient;
use crate::registry::VmRegistry;
use crate::sanitize::sanitize;
use crate::vm::{AgentState, Vm};

/// Time limit for calls in which the agent only looks something up.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(10);

/// Delay after a delivery of secrets until they are overwritten: the system starts meanwhile.
const OVERWRITE_DELAY: Duration = Duration::from_secs(1);
/// Padding of a call that overwrites a connection's buffer.
const PADDING: Bytes = Bytes::from_static(&[0; 2_048]);

/// Time for the session for commands and files to open; after the agent's hello it takes milliseconds.
const STREAMS_TIMEOUT: Duration = Duration::from_secs(10);
/// Time from the loss of a session until its VM counts as running on.
const DETACH_TIMEOUT: Duration = Duration::from_secs(2);

type Output<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Guest service that forwards to the agents.
pub(crate) struct Proxy {
    registry: VmRegistry,
}

impl Proxy {
    pub(crate) fn new(registry: VmRegistry) -> Self {
        Self { registry }
    }

    /// Returns the agent that a request is for.
    fn agent(&self, header: &MetadataMap) -> Result<Agent, Status> {
        let workspace =
            header.get(WORKSPACE_HEADER).and_then(|value| value.to_str().ok()).ok_or_else(|| {
                let message = format!("the request has no workspace id in `{WORKSPACE_HEADER}`");
                fault::status(Code::InvalidArgument, "bad_request", message)
            })?;
        let (vm, detached) = self.registry.by_workspace(workspace).ok_or_else(|| {
            fault::status(
                Code::FailedPrecondition,
                "not_running",
                "The workspace is not running. Start it first.",
            )
        })?;
        let client = match &*vm.agent.borrow() {
            AgentState::Ready(client, _) => client.clone(),
            AgentState::Pending => return Err(agent_lost("the agent has not sent its hello yet")),
            AgentState::Lost(reason) => return Err(agent_lost(reason)),
        };
        Ok(Agent { client, vm: VmEnd { vm, detached } })
    }

    /// Returns the agent that a request is for, to be called on its session for commands and files.
    async fn streams(&self, header: &MetadataMap) -> Result<Agent, Status> {
        let mut agent = self.agent(header)?;
        let mut sessions = agent.vm.vm.streams.subscribe();
        let open = tokio::time::timeout(STREAMS_TIMEOUT, sessions.wait_for(Option::is_some)).await;
        agent.client = match open {
            Ok(Ok(session)) => session.clone(),
            // The sender lives as long as the VM.
            Ok(Err(_)) | Err(_) => None,
        }
        .ok_or_else(|| agent_lost("The workspace's agent opens no session for commands and files."))?;
        Ok(agent)
    }
}

/// Agent of one VM.
struct Agent {
    client: AgentClient,
    vm: VmEnd,
}

/// End of a VM, which explains the end of calls to its agent.
struct VmEnd {
    vm: Arc<Vm>,
    /// Canceled when the VM is detached.
    detached: CancellationToken,
}

impl VmEnd {
    /// Awaits the response to a call, or the end of the VM.
    async fn or_response<T>(
        &self,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<Response<T>, Status> {
        tokio::select! {
            response = call => match response {
                Ok(response) => Ok(Response::new(response.into_inner())),
                Err(status) => Err(self.explain(&status).await),
            },
            () = self.detached.cancelled() => Err(vm_ended()),
        }
    }

    /// Returns the status for the caller. A VM that ends takes its agent's session with it, which shows first.
    async fn explain(&self, status: &Status) -> Status {
        let status = check_status(status);
        if fault::code(&status) != AGENT_LOST {
            return status;
        }
        let is_ending = self.vm.shut_down.borrow().is_some() || self.vm.announced.borrow().is_some();
        let has_ended =
            is_ending || tokio::time::timeout(DETACH_TIMEOUT, self.detached.cancelled()).await.is_ok();
        if has_ended { vm_ended() } else { status }
    }
}

const AGENT_LOST: &str = "agent_lost";

fn agent_lost(message: &str) -> Status {
    fault::status(Code::Unavailable, AGENT_LOST, message)
}

/// Sanitizes a status from the guest. Only fault codes that an agent may use are passed on.
fn check_status(status: &Status) -> Status {
    const AGENT_FAULTS: [(&str, Code); 6] = [
        ("bad_request", Code::InvalidArgument),
        ("busy", Code::ResourceExhausted),
        ("ended", Code::FailedPrecondition),
        ("not_found", Code::NotFound),
        ("permission_denied", Code::PermissionDenied),
        ("no_space", Code::ResourceExhausted),
    ];
    let code = fault::code(status);
    match AGENT_FAULTS.iter().find(|(known, _)| *known == code) {
        Some((known, code)) => fault::status(*code, known, sanitize(status.message())),
        None => agent_lost("The connection to the workspace's agent was lost."),
    }
}

/// Forwards the guest's messages until the stream or the VM ends.
fn forward<T: Send + 'static>(messages: Streaming<T>, vm: VmEnd) -> Output<T> {
    Box::pin(stream::unfold(Some((messages, vm)), |state| async {
        let (mut messages, vm) = state?;
        let message = tokio::select! {
            message = messages.message() => match message {
                Ok(message) => Ok(message?),
                Err(status) => Err(vm.explain(&status).await),
            },
            () = vm.detached.cancelled() => Err(vm_ended()),
        };
        let next_state = message.is_ok().then_some((messages, vm));
        Some((message, next_state))
    }))
}

/// Returns the caller's messages. They end if the caller disconnects, who then also drops the response stream, which ends the call to the
/// agent.
fn caller_messages<T: Send + 'static>(messages: Streaming<T>) -> impl Stream<Item = T> + Send + 'static {
    tokio_stream::StreamExt::map_while(messages, Result::ok)
}

/// Makes a call that is of no use but to be written: the beginning of what went before lies in the buffer of the agent's connection, from
/// which it is sent (h2 copies up to a KiB of a message there).
async fn overwrite_buffer(mut client: AgentClient) {
    tokio::time::sleep(OVERWRITE_DELAY).await;
    let request = ListPortsRequest { port: u16::MAX.into(), padding: PADDING };
    // An agent that does not respond has lost its connection, or will.
    let _ = client.list_ports(lookup(Request::new(request))).await;
}

/// Returns a request to the agent in which it only looks something up.
fn lookup<T>(request: Request<T>) -> Request<T> {
    let mut inner = Request::new(request.into_inner());
    inner.set_timeout(LOOKUP_TIMEOUT);
    inner
}

fn vm_ended() -> Status {
    fault::status(Code::FailedPrecondition, "not_running", "The workspace stopped meanwhile.")
}

fn not_available() -> Status {
    fault::status(Code::PermissionDenied, "not_offered", "this call is reserved for guestio")
}

#[tonic::async_trait]
impl Guest for Proxy {
    async fn hello(&self, _: Request<HelloRequest>) -> Result<Response<HelloResponse>, Status> {
        Err(not_available())
    }

    type ExecStream = Output<ExecOutput>;
    async fn exec(
        &self,
        request: Request<Streaming<ExecInput>>,
    ) -> Result<Response<Self::ExecStream>, Status> {
        let Agent { mut client, vm } = self.streams(request.metadata()).await?;
        let responses = vm.or_response(client.exec(caller_messages(request.into_inner()))).await?;
        Ok(Response::new(forward(responses.into_inner(), vm)))
    }

    async fn start_process(
        &self,
        request: Request<ExecStart>,
    ) -> Result<Response<StartProcessResponse>, Status> {
        let Agent { mut client, vm } = self.streams(request.metadata()).await?;
        vm.or_response(client.start_process(request.into_inner())).await
    }

    async fn list_processes(
        &self,
        request: Request<ListProcessesRequest>,
    ) -> Result<Response<ListProcessesResponse>, Status> {
        let Agent { mut client, vm } = self.agent(request.metadata())?;
        vm.or_response(client.list_processes(lookup(request))).await
    }

    async fn signal_process(
        &self,
        request: Request<SignalProcessRequest>,
    ) -> Result<Response<SignalProcessResponse>, Status> {
        let Agent { mut client, vm } = self.agent(request.metadata())?;
        vm.or_response(client.signal_process(lookup(request))).await
    }

    type ReadOutputStream = Output<ExecOutput>;
    async fn read_output(
        &self,
        request: Request<ReadOutputRequest>,
    ) -> Result<Response<Self::ReadOutputStream>, Status> {
        let Agent { mut client, vm } = self.streams(request.metadata()).await?;
        let responses = vm.or_response(client.read_output(request.into_inner())).await?;
        Ok(Response::new(forward(responses.into_inner(), vm)))
    }

    async fn write_file(
        &self,
        request: Request<Streaming<WriteFileInput>>,
    ) -> Result<Response<WriteFileResponse>, Status> {
        let Agent { mut client, vm } = self.streams(request.metadata()).await?;
        vm.or_response(client.write_file(caller_messages(request.into_inner()))).await
    }

    type ReadFileStream = Output<ReadFileOutput>;
    async fn read_file(
        &self,
        request: Request<ReadFileRequest>,
    ) -> Result<Response<Self::ReadFileStream>, Status> {
        let Agent { mut client, vm } = self.streams(request.metadata()).await?;
        let responses = vm.or_response(client.read_file(request.into_inner())).await?;
        Ok(Response::new(forward(responses.into_inner(), vm)))
    }

    async fn stat_file(&self, request: Request<FileRequest>) -> Result<Response<FileEntry>, Status> {
        let Agent { mut client, vm } = self.agent(request.metadata())?;
        vm.or_response(client.stat_file(lookup(request))).await
    }

    type ListFilesStream = Output<FileEntry>;
    async fn list_files(
        &self,
        request: Request<FileRequest>,
    ) -> Result<Response<Self::ListFilesStream>, Status> {
        let Agent { mut client, vm } = self.streams(request.metadata()).await?;
        let responses = vm.or_response(client.list_files(request.into_inner())).await?;
        Ok(Response::new(forward(responses.into_inner(), vm)))
    }

    type WatchFilesStream = Output<FileEvent>;
    async fn watch_files(
        &self,
        request: Request<FileRequest>,
    ) -> Result<Response<Self::WatchFilesStream>, Status> {
        let Agent { mut client, vm } = self.streams(request.metadata()).await?;
        let responses = vm.or_response(client.watch_files(request.into_inner())).await?;
        Ok(Response::new(forward(responses.into_inner(), vm)))
    }

    async fn change_file(
        &self,
        request: Request<ChangeFileRequest>,
    ) -> Result<Response<ChangeFileResponse>, Status> {
        let Agent { mut client, vm } = self.streams(request.metadata()).await?;
        vm.or_response(client.change_file(request.into_inner())).await
    }

    async fn deliver_secrets(
        &self,
        request: Request<DeliverSecretsRequest>,
    ) -> Result<Response<DeliverSecretsResponse>, Status> {
        let Agent { mut client, vm } = self.agent(request.metadata())?;
        let delivered = vm.or_response(client.deliver_secrets(request.into_inner())).await;
        tokio::spawn(overwrite_buffer(client));
        delivered
    }

    async fn list_ports(
        &self,
        request: Request<ListPortsRequest>,
    ) -> Result<Response<ListPortsResponse>, Status> {
        let Agent { mut client, vm } = self.agent(request.metadata())?;
        vm.or_response(client.list_ports(lookup(request))).await
    }

    async fn prepare_ssh(
        &self,
        request: Request<PrepareSshRequest>,
    ) -> Result<Response<PrepareSshResponse>, Status> {
        let Agent { mut client, vm } = self.agent(request.metadata())?;
        vm.or_response(client.prepare_ssh(lookup(request))).await
    }

    async fn sync_ssh_keys(
        &self,
        request: Request<SyncSshKeysRequest>,
    ) -> Result<Response<SyncSshKeysResponse>, Status> {
        let Agent { mut client, vm } = self.agent(request.metadata())?;
        vm.or_response(client.sync_ssh_keys(lookup(request))).await
    }

    async fn shut_down(&self, _: Request<ShutDownRequest>) -> Result<Response<ShutDownResponse>, Status> {
        Err(not_available())
    }

    type WatchShutdownStream = Output<ShutdownEvent>;
    async fn watch_shutdown(
        &self,
        _: Request<WatchShutdownRequest>,
    ) -> Result<Response<Self::WatchShutdownStream>, Status> {
        Err(not_available())
    }

    type WatchSystemStream = Output<SystemEvent>;
    async fn watch_system(
        &self,
        _: Request<WatchSystemRequest>,
    ) -> Result<Response<Self::WatchSystemStream>, Status> {
        Err(not_available())
    }
}

#[cfg(test)]
mod fuzz;
