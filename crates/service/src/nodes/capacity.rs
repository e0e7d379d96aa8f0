//! Machine below the workspaces: its capacity and its problems.

use std::sync::Arc;

use rigbox_core::authz::{Diagnose, Permit};
use rigbox_proto::node::NodeDescription;

use crate::nodes::api::NodeError;
use crate::nodes::client::NodeClient;

/// Service for the machine's capacity.
#[derive(Clone)]
pub struct Capacity {
    node: NodeClient,
}

impl Capacity {
    /// Creates the service.
    pub fn new(node: NodeClient) -> Self {
        Self { node }
    }

    /// Returns the capacity, which is public.
    pub async fn capacity(&self) -> Result<Arc<NodeDescription>, NodeError> {
        self.node.describe().await
    }

    /// Returns the findings of the node's self-check.
    pub async fn diagnose(&self, _: &Permit<Diagnose>) -> Result<Arc<NodeDescription>, NodeError> {
        self.node.describe().await
    }
}
