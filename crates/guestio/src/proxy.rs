//! The guest service for control: finds the VM, passes the call on to its agent, and lets nothing of a guest through unchecked. One
//! message at a time is on its way, so the slowest of the two ends sets the pace.

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

use crate::vm::{AgentState, Vms};

/// For what an agent only has to look up.
const QUICK: Duration = Duration::from_secs(10);

type Output<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

pub(crate) struct Proxy {
    vms: Vms,
}

impl Proxy {
    pub(crate) fn new(vms: Vms) -> Self {
        Self { vms }
    }

    /// The agent that a request is for, and a token that is cancelled when its VM goes.
    fn agent(&self, header: &MetadataMap) -> Result<(GuestClient<Channel>, CancellationToken), Status> {
        let workspace =
            header.get(WORKSPACE_HEADER).and_then(|value| value.to_str().ok()).ok_or_else(|| {
                let message = format!("the request names no workspace in `{WORKSPACE_HEADER}`");
                fault::status(Code::InvalidArgument, "bad_request", message)
            })?;
        let (vm, gone) = self.vms.of_workspace(workspace).ok_or_else(|| {
            fault::status(
                Code::FailedPrecondition,
                "not_running",
                "the workspace is not running: start it first",
            )
        })?;
        match &*vm.agent.borrow() {
            AgentState::Ready(client) => Ok((client.clone(), gone)),
            AgentState::Awaited => {
                Err(lost("the workspace's agent has not said hello yet: try again in a moment"))
            }
            AgentState::Lost(reason) => {
                Err(lost(&format!("the workspace's agent does not answer ({reason}): restart the workspace")))
            }
        }
    }
}

fn lost(message: &str) -> Status {
    fault::status(Code::Unavailable, "agent_lost", message)
}

/// A status of the guest, bounded; faults only from the list of those that an agent may name.
fn checked(status: &Status) -> Status {
    const KNOWN: [(&str, Code); 5] = [
        ("bad_request", Code::InvalidArgument),
        ("busy", Code::ResourceExhausted),
        ("not_found", Code::NotFound),
        ("permission_denied", Code::PermissionDenied),
        ("no_space", Code::ResourceExhausted),
    ];
    let code = fault::code(status);
    match KNOWN.iter().find(|(known, _)| *known == code) {
        Some((known, code)) => fault::status(*code, known, crate::text::clean(status.message())),
        None => lost("the session with the workspace's agent broke: try again, or restart the workspace"),
    }
}

/// The guest's answers until the stream or the VM ends.
fn relay<T: Send + 'static>(answers: Streaming<T>, gone: CancellationToken) -> Output<T> {
    Box::pin(stream::unfold(Some((answers, gone)), |state| async {
        let (mut answers, gone) = state?;
        let answer = tokio::select! {
            answer = answers.message() => answer.map_err(|status| checked(&status)).transpose()?,
            () = gone.cancelled() => Err(vm_ended()),
        };
        let go_on = answer.is_ok().then_some((answers, gone));
        Some((answer, go_on))
    }))
}

/// The caller's messages. A caller that breaks off ends them; it also drops the answers, which ends the call to the agent.
fn inputs<T: Send + 'static>(messages: Streaming<T>) -> impl Stream<Item = T> + Send + 'static {
    tokio_stream::StreamExt::map_while(messages, Result::ok)
}

fn vm_ended() -> Status {
    fault::status(Code::FailedPrecondition, "not_running", "the workspace's VM ended")
}

fn not_offered() -> Status {
    fault::status(Code::PermissionDenied, "not_offered", "this call is guestio's own")
}

#[tonic::async_trait]
impl Guest for Proxy {
    async fn hello(&self, _: Request<HelloRequest>) -> Result<Response<HelloResponse>, Status> {
        Err(not_offered())
    }

    type ExecStream = Output<ExecOutput>;
    async fn exec(
        &self,
        request: Request<Streaming<ExecInput>>,
    ) -> Result<Response<Self::ExecStream>, Status> {
        let (mut agent, gone) = self.agent(request.metadata())?;
        let messages = inputs(request.into_inner());
        let answers = agent.exec(messages).await.map_err(|status| checked(&status))?;
        Ok(Response::new(relay(answers.into_inner(), gone)))
    }

    async fn write_file(
        &self,
        request: Request<Streaming<WriteFileInput>>,
    ) -> Result<Response<WriteFileResponse>, Status> {
        let (mut agent, gone) = self.agent(request.metadata())?;
        let messages = inputs(request.into_inner());
        tokio::select! {
            written = agent.write_file(messages) => {
                Ok(Response::new(written.map_err(|status| checked(&status))?.into_inner()))
            }
            () = gone.cancelled() => Err(vm_ended()),
        }
    }

    type ReadFileStream = Output<ReadFileOutput>;
    async fn read_file(
        &self,
        request: Request<ReadFileRequest>,
    ) -> Result<Response<Self::ReadFileStream>, Status> {
        let (mut agent, gone) = self.agent(request.metadata())?;
        let answers = agent.read_file(request.into_inner()).await.map_err(|status| checked(&status))?;
        Ok(Response::new(relay(answers.into_inner(), gone)))
    }

    async fn deliver_secrets(
        &self,
        request: Request<DeliverSecretsRequest>,
    ) -> Result<Response<DeliverSecretsResponse>, Status> {
        let (mut agent, gone) = self.agent(request.metadata())?;
        tokio::select! {
            delivered = agent.deliver_secrets(request.into_inner()) => {
                delivered.map_err(|status| checked(&status))?;
                Ok(Response::new(DeliverSecretsResponse {}))
            }
            () = gone.cancelled() => Err(vm_ended()),
        }
    }

    async fn list_ports(
        &self,
        request: Request<ListPortsRequest>,
    ) -> Result<Response<ListPortsResponse>, Status> {
        let (mut agent, gone) = self.agent(request.metadata())?;
        let mut inner = Request::new(request.into_inner());
        inner.set_timeout(QUICK);
        tokio::select! {
            listed = agent.list_ports(inner) => {
                Ok(Response::new(listed.map_err(|status| checked(&status))?.into_inner()))
            }
            () = gone.cancelled() => Err(vm_ended()),
        }
    }

    async fn shut_down(&self, _: Request<ShutDownRequest>) -> Result<Response<ShutDownResponse>, Status> {
        Err(not_offered())
    }

    type WatchShutdownStream = Output<ShutdownEvent>;
    async fn watch_shutdown(
        &self,
        _: Request<WatchShutdownRequest>,
    ) -> Result<Response<Self::WatchShutdownStream>, Status> {
        Err(not_offered())
    }
}
