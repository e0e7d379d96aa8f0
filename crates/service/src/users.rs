//! Account of the caller.

use rigbox_core::authz::{Permit, ReadAccount, ReadLimits};
use rigbox_core::plans::{LimitOverrides, Limits, Plan, Plans};
use rigbox_store::{Store, Usage, User};

use crate::error::ServiceError;
use crate::nodes::client::NodeClient;
use crate::nodes::machine_capacity;

/// Service for accounts.
#[derive(Clone)]
pub struct Users {
    store: Store,
    node: NodeClient,
    plans: Plans,
}

/// Limits of a user, and their usage.
pub struct UserLimits {
    /// Plan of the user.
    pub plan: Plan,
    /// True if the operator set limits for this user alone.
    pub custom: bool,
    /// Effective limits.
    pub limits: Limits,
    /// Current usage.
    pub usage: Usage,
}

impl Users {
    /// Creates the service.
    pub fn new(store: Store, node: NodeClient, plans: Plans) -> Self {
        Self { store, node, plans }
    }

    /// Returns the caller's account.
    pub async fn me(&self, permit: &Permit<ReadAccount>) -> Result<User, ServiceError> {
        let id = &permit.principal().user;
        self.store.user(id).await?.ok_or_else(|| ServiceError::NotFound(id.to_string()))
    }

    /// Returns the caller's limits and usage.
    pub async fn limits(&self, permit: &Permit<ReadLimits>) -> Result<UserLimits, ServiceError> {
        let caller = permit.principal();
        let machine = machine_capacity(&*self.node.describe().await?);
        Ok(UserLimits {
            plan: caller.plan,
            custom: caller.limits != LimitOverrides::default(),
            limits: self.plans.entitlements(caller.plan, caller.limits).limits(machine),
            usage: self.store.usage(&caller.user).await?,
        })
    }
}
