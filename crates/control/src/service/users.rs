//! The caller's own account.

use rigbox_core::authz::{Permit, ReadAccount, ReadLimits};
use rigbox_core::plans::{LimitOverrides, Limits, Plan, Plans};
use rigbox_store::{Store, Usage, User};

use super::machine_of;
use super::workspaces::Problem;
use crate::node_client::NodeClient;

#[derive(Clone)]
pub(crate) struct Users {
    store: Store,
    node: NodeClient,
    plans: Plans,
}

/// What a user may have, and has.
pub(crate) struct UserLimits {
    pub(crate) plan: Plan,
    /// Whether something is set for this user alone.
    pub(crate) custom: bool,
    pub(crate) limits: Limits,
    pub(crate) usage: Usage,
}

impl Users {
    pub(crate) fn new(store: Store, node: NodeClient, plans: Plans) -> Self {
        Self { store, node, plans }
    }

    pub(crate) async fn me(&self, permit: &Permit<ReadAccount>) -> Result<User, Problem> {
        let id = &permit.principal().user;
        self.store.user(id).await?.ok_or_else(|| Problem::NotFound(id.to_string()))
    }

    pub(crate) async fn limits(&self, permit: &Permit<ReadLimits>) -> Result<UserLimits, Problem> {
        let caller = permit.principal();
        let machine = machine_of(&*self.node.describe().await?);
        Ok(UserLimits {
            plan: caller.plan,
            custom: caller.limits != LimitOverrides::default(),
            limits: self.plans.entitlements(caller.plan, caller.limits).limits(machine),
            usage: self.store.usage(&caller.user).await?,
        })
    }
}
