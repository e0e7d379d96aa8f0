//! The caller's own account.

use rigbox_core::permit::{Permit, ReadAccount, ReadLimits};
use rigbox_core::plans::{Limits, Plan};
use rigbox_store::{Store, Usage, User};

use super::machine_of;
use super::workspaces::Problem;
use crate::node_client::NodeClient;

#[derive(Clone)]
pub(crate) struct Users {
    store: Store,
    node: NodeClient,
}

impl Users {
    pub(crate) fn new(store: Store, node: NodeClient) -> Self {
        Self { store, node }
    }

    pub(crate) async fn me(&self, permit: &Permit<ReadAccount>) -> Result<User, Problem> {
        let id = &permit.principal().user;
        self.store.user(id).await?.ok_or_else(|| Problem::NotFound(id.to_string()))
    }

    pub(crate) async fn limits(&self, permit: &Permit<ReadLimits>) -> Result<(Plan, Limits, Usage), Problem> {
        let plan = permit.principal().plan;
        let machine = machine_of(&*self.node.describe().await?);
        Ok((plan, plan.limits(machine), self.store.usage(&permit.principal().user).await?))
    }
}
