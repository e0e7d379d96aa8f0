//! Account of the caller.

use rigbox_core::authz::{Credential, Permit, ReadAccount, ReadLimits, Scope};
use rigbox_core::ids::KeyId;
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

/// API key of the caller.
pub struct CallerKey {
    /// Id of the key.
    pub id: KeyId,
    /// Name chosen by the owner.
    pub name: String,
    /// Part of the account that the key opens.
    pub scope: Scope,
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

    /// Returns the API key that the caller presented; `None` for other credentials.
    pub async fn key(&self, permit: &Permit<ReadAccount>) -> Result<Option<CallerKey>, ServiceError> {
        let caller = permit.principal();
        let Credential::Key(id) = &caller.credential else { return Ok(None) };
        let name = self.store.key_name(&caller.user, id).await?;
        Ok(name.map(|name| CallerKey { id: id.clone(), name, scope: caller.scope.clone() }))
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
