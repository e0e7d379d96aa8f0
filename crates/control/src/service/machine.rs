//! The machine behind the workspaces: what it can hold and what is wrong with it.

use std::sync::Arc;

use rigbox_core::authz::{Diagnose, Permit};
use rigbox_proto::node::NodeDescription;

use crate::node_client::{NodeClient, NodeError};

#[derive(Clone)]
pub(crate) struct Machine {
    node: NodeClient,
}

impl Machine {
    pub(crate) fn new(node: NodeClient) -> Self {
        Self { node }
    }

    /// What it can hold: public.
    pub(crate) async fn capacity(&self) -> Result<Arc<NodeDescription>, NodeError> {
        self.node.describe().await
    }

    /// What was found when looking for trouble.
    pub(crate) async fn diagnose(&self, _: &Permit<Diagnose>) -> Result<Arc<NodeDescription>, NodeError> {
        self.node.describe().await
    }
}
