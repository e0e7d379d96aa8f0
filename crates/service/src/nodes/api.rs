//! Interface of a node: its calls, and their two kinds of errors. `grpc` makes them over a socket; a simulation implements them in its own
//! process.

use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use rigbox_proto::fault;
use rigbox_proto::node::{NodeDescription, RefusalBatch, SetTargetRequest, WatchEvent, WorkspaceReport};
use tonic::Status;

/// Time-out of a call. The node answers at once: the steps towards a target follow later.
pub(super) const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Node, as control sees it. Every call may fail, be lost or be late; the caller repeats it.
pub trait NodeApi: Send + Sync {
    /// Returns the node's driver, images and capacity.
    fn describe(&self) -> BoxFuture<'_, Result<NodeDescription, NodeError>>;

    /// Sets the target of a workspace. Returns its record.
    fn set_target(&self, request: SetTargetRequest) -> BoxFuture<'_, Result<WorkspaceReport, NodeError>>;

    /// Opens the stream of reports: all workspaces, `synced`, and then each change.
    fn watch(&self) -> BoxFuture<'_, Result<NodeStream<WatchEvent>, NodeError>>;

    /// Opens the stream of refused network access.
    fn watch_refusals(&self) -> BoxFuture<'_, Result<NodeStream<RefusalBatch>, NodeError>>;
}

/// Stream of messages from a node. Its first error ends it.
pub type NodeStream<T> = BoxStream<'static, Result<T, NodeError>>;

/// Error of a call to the node.
#[derive(Debug, Clone, thiserror::Error)]
pub enum NodeError {
    /// The node does not answer, or cannot now. Retrying is right.
    #[error("the node does not answer: {0}")]
    Unreachable(String),
    /// The node refuses, with a stable code.
    #[error("{message}")]
    Refused {
        /// Stable code.
        code: String,
        /// Message for people.
        message: String,
    },
}

impl From<Status> for NodeError {
    fn from(status: Status) -> Self {
        let message = status.message().to_owned();
        match fault::code(&status) {
            "unreachable" => Self::Unreachable(message),
            code => Self::Refused { code: code.to_owned(), message },
        }
    }
}
