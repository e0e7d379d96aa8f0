//! Interface for the delivery of secrets to a workspace's agent. `GuestClient` makes the call over a socket; a simulation implements it in
//! its own process.

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rigbox_core::ids::WorkspaceId;
use rigbox_proto::guest::DeliverSecretsRequest;

use super::client::{GuestClient, GuestError};

/// Agents of workspaces, as far as they take secrets.
pub trait DeliverSecrets: Send + Sync {
    /// Delivers secrets to the agent of a workspace, in place of those that it has. A workspace key that is empty leaves the one it has.
    fn deliver<'a>(
        &'a self,
        workspace: &'a WorkspaceId,
        secrets: DeliverSecretsRequest,
    ) -> BoxFuture<'a, Result<(), GuestError>>;
}

impl DeliverSecrets for GuestClient {
    fn deliver<'a>(
        &'a self,
        workspace: &'a WorkspaceId,
        secrets: DeliverSecretsRequest,
    ) -> BoxFuture<'a, Result<(), GuestError>> {
        self.deliver_secrets(workspace, secrets).boxed()
    }
}
