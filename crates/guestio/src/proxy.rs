//! Guest service for control: finds the VM, forwards the call to its agent, and checks everything that comes back from the guest. Only one
//! message is in flight at a time, so the slower end sets the pace.

use std::pin::Pin;
use std::time::Duration;

use futures_util::stream;
use rigbox_proto::guest::guest_client::GuestClient;
use rigbox_proto::guest::guest_server::Guest;
use rigbox_proto::guest::{
    DeliverSecretsRequest, DeliverSecretsResponse, ExecInput, ExecOutput, HelloRequest, HelloResponse,
    ListPortsRequest, ListPortsResponse, ReadFileOutput, ReadFileRequest, ShutDownRequest, ShutDownResponse,
    ShutdownEvent, WatchShutdownRequest, WriteFileInput, WriteFileResponse,
};
use rigbox_proto::{WORKSPACE_HEADER, fault};
use tokio_stream::Stream;
use tokio_util::sync::CancellationToken;
use tonic::metadata::MetadataMap;
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status, Streaming};

use crate::registry::VmRegistry;
use crate::sanitize::sanitize;
use crate::vm::AgentState;

/// Time limit for calls in which the agent only looks something up.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(10);

type Output<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Guest service that forwards to the agents.
pub(crate) struct Proxy {
    registry: VmRegistry,
}

impl Proxy {
    pub(crate) fn new(registry: VmRegistry) -> Self {
        Self { registry }
    }

    /// Returns the agent that a request is for, and a token that is canceled when its VM is detached.
    fn agent(&self, header: &MetadataMap) -> Result<(GuestClient<Channel>, CancellationToken), Status> {
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
        match &*vm.agent.borrow() {
            AgentState::Ready(client) => Ok((client.clone(), detached)),
            AgentState::Pending => Err(agent_lost("the agent has not sent its hello yet")),
            AgentState::Lost(reason) => Err(agent_lost(reason)),
        }
    }
}

fn agent_lost(message: &str) -> Status {
    fault::status(Code::Unavailable, "agent_lost", message)
}

/// Sanitizes a status from the guest. Only fault codes that an agent may use are passed on.
fn check_status(status: &Status) -> Status {
    const AGENT_FAULTS: [(&str, Code); 5] = [
        ("bad_request", Code::InvalidArgument),
        ("busy", Code::ResourceExhausted),
        ("not_found", Code::NotFound),
        ("permission_denied", Code::PermissionDenied),
        ("no_space", Code::ResourceExhausted),
    ];
    let code = fault::code(status);
    match AGENT_FAULTS.iter().find(|(known, _)| *known == code) {
        Some((known, code)) => fault::status(*code, known, sanitize(status.message())),
        None => agent_lost("connection to the agent lost"),
    }
}

/// Forwards the guest's messages until the stream or the VM ends.
fn forward<T: Send + 'static>(messages: Streaming<T>, detached: CancellationToken) -> Output<T> {
    Box::pin(stream::unfold(Some((messages, detached)), |state| async {
        let (mut messages, detached) = state?;
        let message = tokio::select! {
            message = messages.message() => message.map_err(|status| check_status(&status)).transpose()?,
            () = detached.cancelled() => Err(vm_ended()),
        };
        let next_state = message.is_ok().then_some((messages, detached));
        Some((message, next_state))
    }))
}

/// Returns the caller's messages. They end if the caller disconnects, who then also drops the response stream, which ends the call to the
/// agent.
fn caller_messages<T: Send + 'static>(messages: Streaming<T>) -> impl Stream<Item = T> + Send + 'static {
    tokio_stream::StreamExt::map_while(messages, Result::ok)
}

fn vm_ended() -> Status {
    fault::status(Code::FailedPrecondition, "not_running", "The workspace's VM has ended.")
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
        let (mut agent, detached) = self.agent(request.metadata())?;
        let messages = caller_messages(request.into_inner());
        let responses = agent.exec(messages).await.map_err(|status| check_status(&status))?;
        Ok(Response::new(forward(responses.into_inner(), detached)))
    }

    async fn write_file(
        &self,
        request: Request<Streaming<WriteFileInput>>,
    ) -> Result<Response<WriteFileResponse>, Status> {
        let (mut agent, detached) = self.agent(request.metadata())?;
        let messages = caller_messages(request.into_inner());
        tokio::select! {
            written = agent.write_file(messages) => {
                Ok(Response::new(written.map_err(|status| check_status(&status))?.into_inner()))
            }
            () = detached.cancelled() => Err(vm_ended()),
        }
    }

    type ReadFileStream = Output<ReadFileOutput>;
    async fn read_file(
        &self,
        request: Request<ReadFileRequest>,
    ) -> Result<Response<Self::ReadFileStream>, Status> {
        let (mut agent, detached) = self.agent(request.metadata())?;
        let responses =
            agent.read_file(request.into_inner()).await.map_err(|status| check_status(&status))?;
        Ok(Response::new(forward(responses.into_inner(), detached)))
    }

    async fn deliver_secrets(
        &self,
        request: Request<DeliverSecretsRequest>,
    ) -> Result<Response<DeliverSecretsResponse>, Status> {
        let (mut agent, detached) = self.agent(request.metadata())?;
        tokio::select! {
            delivered = agent.deliver_secrets(request.into_inner()) => {
                delivered.map_err(|status| check_status(&status))?;
                Ok(Response::new(DeliverSecretsResponse {}))
            }
            () = detached.cancelled() => Err(vm_ended()),
        }
    }

    async fn list_ports(
        &self,
        request: Request<ListPortsRequest>,
    ) -> Result<Response<ListPortsResponse>, Status> {
        let (mut agent, detached) = self.agent(request.metadata())?;
        let mut inner = Request::new(request.into_inner());
        inner.set_timeout(LOOKUP_TIMEOUT);
        tokio::select! {
            listed = agent.list_ports(inner) => {
                Ok(Response::new(listed.map_err(|status| check_status(&status))?.into_inner()))
            }
            () = detached.cancelled() => Err(vm_ended()),
        }
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
}
