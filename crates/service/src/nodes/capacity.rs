//! The machine behind the workspaces: what it can hold and what is wrong with it.

use std::sync::Arc;

use rigbox_core::authz::{Diagnose, Permit};
use rigbox_proto::node::NodeDescription;

use crate::nodes::client::{NodeClient, NodeError};

#[derive(Clone)]
pub struct Capacity {
    node: NodeClient,
}

impl Capacity {
    pub fn new(node: NodeClient) -> Self {
        Self { node }
    }

    /// What it can hold: public.
    pub async fn capacity(&self) -> Result<Arc<NodeDescription>, NodeError> {
        self.node.describe().await
    }

    /// What was found when looking for trouble.
    pub async fn diagnose(&self, _: &Permit<Diagnose>) -> Result<Arc<NodeDescription>, NodeError> {
        self.node.describe().await
    }
}
