//! What is done inside a running workspace: commands and files. The permit says in which one.

use bytes::Bytes;
use futures_util::Stream;
use rigbox_core::authz::{Action, Exec, Permit, ReadFiles, WriteFiles};
use rigbox_core::status::Status;
use rigbox_proto::guest::{ExecStart, ReadFileOutput, ReadFileRequest, WriteFileOpen};

use crate::guests::client::{GuestClient, GuestError, Output, RunningCommand, WriteError};
use crate::transitions::WorkspaceTransitions;

pub mod client;
pub mod request_stream;
pub mod secret_delivery;

#[derive(Clone)]
pub struct Guests {
    transitions: WorkspaceTransitions,
    guests: GuestClient,
}

/// Why not.
#[derive(Debug, thiserror::Error)]
pub enum GuestAccessError {
    #[error("no workspace `{0}`: not found")]
    NotFound(String),
    #[error("the workspace is `{status}`: this needs `running`; allowed is {}", allowed.join(" or "))]
    NotRunning { status: Status, allowed: Vec<&'static str> },
    #[error("the workspace's agent does not answer: stop the workspace and start it again")]
    AgentLost,
    #[error(transparent)]
    Guest(#[from] GuestError),
    #[error("the content did not come to its end: {0}")]
    Content(String),
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
    pub fn new(transitions: WorkspaceTransitions, guests: GuestClient) -> Self {
        Self { transitions, guests }
    }

    pub async fn exec(
        &self,
        permit: &Permit<Exec>,
        start: ExecStart,
    ) -> Result<RunningCommand, GuestAccessError> {
        Ok(self.guests.exec(self.running(permit).await?, start).await?)
    }

    pub async fn read_file(
        &self,
        permit: &Permit<ReadFiles>,
        request: ReadFileRequest,
    ) -> Result<Output<ReadFileOutput>, GuestAccessError> {
        Ok(self.guests.read_file(self.running(permit).await?, request).await?)
    }

    pub async fn write_file<E: std::fmt::Display>(
        &self,
        permit: &Permit<WriteFiles>,
        open: WriteFileOpen,
        content: impl Stream<Item = Result<Bytes, E>> + Unpin,
    ) -> Result<u64, GuestAccessError> {
        Ok(self.guests.write_file(self.running(permit).await?, open, content).await?)
    }

    /// The permit's workspace, if something in it can answer.
    async fn running<'a, A: Action>(
        &self,
        permit: &'a Permit<A>,
    ) -> Result<&'a rigbox_core::ids::WorkspaceId, GuestAccessError> {
        let Some(id) = permit.workspace() else { return Err(GuestAccessError::NotFound(A::NAME.to_owned())) };
        let workspace = self.transitions.store().workspace(id).await?;
        let lifecycle = workspace.ok_or_else(|| GuestAccessError::NotFound(id.to_string()))?.lifecycle;
        match lifecycle.status {
            Status::Running if lifecycle.agent_lost => Err(GuestAccessError::AgentLost),
            Status::Running => Ok(id),
            status => Err(GuestAccessError::NotRunning {
                status,
                allowed: lifecycle.allowed().into_iter().map(|request| request.as_str()).collect(),
            }),
        }
    }
}
