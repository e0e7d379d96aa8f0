//! Calls to a node over its socket, each with its timeout and the database that it is made for.

use std::path::Path;

use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt, TryStreamExt};
use rigbox_core::ids::DatabaseId;
use rigbox_proto::DATABASE_HEADER;
use rigbox_proto::node::node_client::NodeClient as Grpc;
use rigbox_proto::node::{
    DescribeRequest, NodeDescription, RefusalBatch, SetTargetRequest, WatchEvent, WatchRefusalsRequest,
    WatchRequest, WorkspaceReport,
};
use rigbox_proto::transport::client::Channel;
use tonic::Request;
use tonic::metadata::AsciiMetadataValue;

use super::api::{CALL_TIMEOUT, NodeApi, NodeError, NodeStream};
use crate::rpc;

/// Node behind a socket.
pub(super) struct GrpcNode {
    grpc: Grpc<Channel>,
    /// Database that the calls are made for.
    database: Option<AsciiMetadataValue>,
}

impl GrpcNode {
    /// Creates a client that connects on first use.
    pub(super) fn new(socket: &Path, database: &DatabaseId) -> Self {
        // An id has no other characters than a header may have.
        Self { grpc: Grpc::new(rpc::channel(socket)), database: database.as_str().parse().ok() }
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(database) = &self.database {
            request.metadata_mut().insert(DATABASE_HEADER, database.clone());
        }
        request
    }

    fn call<T>(&self, message: T) -> Request<T> {
        let mut request = self.request(message);
        request.set_timeout(CALL_TIMEOUT);
        request
    }
}

impl NodeApi for GrpcNode {
    fn describe(&self) -> BoxFuture<'_, Result<NodeDescription, NodeError>> {
        let request = self.call(DescribeRequest {});
        async move { Ok(self.grpc.clone().describe(request).await.map_err(NodeError::from)?.into_inner()) }
            .boxed()
    }

    fn set_target(&self, request: SetTargetRequest) -> BoxFuture<'_, Result<WorkspaceReport, NodeError>> {
        let request = self.call(request);
        async move { Ok(self.grpc.clone().set_target(request).await.map_err(NodeError::from)?.into_inner()) }
            .boxed()
    }

    fn watch(&self) -> BoxFuture<'_, Result<NodeStream<WatchEvent>, NodeError>> {
        let request = self.request(WatchRequest {});
        async move {
            let events = self.grpc.clone().watch(request).await.map_err(NodeError::from)?.into_inner();
            Ok(events.map_err(NodeError::from).boxed())
        }
        .boxed()
    }

    fn watch_refusals(&self) -> BoxFuture<'_, Result<NodeStream<RefusalBatch>, NodeError>> {
        let request = self.request(WatchRefusalsRequest {});
        async move {
            let refusals =
                self.grpc.clone().watch_refusals(request).await.map_err(NodeError::from)?.into_inner();
            Ok(refusals.map_err(NodeError::from).boxed())
        }
        .boxed()
    }
}
