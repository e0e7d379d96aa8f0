//! Input of a decision, and the decision that an active grant rests on.

use std::sync::Arc;

use rigbox_core::app_access::{Initiator, RequestKind};
use rigbox_gateway::active_grants::{ActiveGrant, ActiveGrants};

use crate::decision::control::Credential;
use crate::decision::route::Route;

/// Active grant at an app.
pub(crate) type Grant = ActiveGrant<Decision>;
/// Active grants of a worker.
pub(crate) type Grants = ActiveGrants<Decision>;

/// Access that a request asks for, and by what credential.
#[derive(Debug, Clone)]
pub(crate) struct AccessRequest {
    pub(crate) credential: Option<Credential>,
    pub(crate) kind: RequestKind,
    pub(crate) initiator: Initiator,
}

/// Positive decision, kept to be made again when what it rests on changes.
#[derive(Debug)]
pub(crate) struct Decision {
    pub(crate) request: AccessRequest,
    pub(crate) route: Arc<Route>,
    /// True if a user's identity was forwarded to the app.
    pub(crate) identity_forwarded: bool,
}
