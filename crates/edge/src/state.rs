//! State of one worker, and what workers share.

use std::sync::{Arc, PoisonError, RwLock};

use rigbox_core::ids::WorkspaceId;
use rigbox_gateway::clock::Clock;
use rigbox_gateway::connections::Connections;
use rigbox_shares::Shares;

use crate::config::Limits;
use crate::decision::access_request::Grants;
use crate::decision::control::Control;
use crate::upstream::pool::Pool;

/// Public keys of identity assertions, as control last sent them (a JSON Web Key Set).
#[derive(Debug)]
pub(crate) struct AssertionKeys(RwLock<String>);

impl AssertionKeys {
    /// Creates an empty set.
    pub(crate) fn new() -> Self {
        Self(RwLock::new("{\"keys\":[]}".to_owned()))
    }

    pub(crate) fn get(&self) -> String {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set(&self, keys: String) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = keys;
    }
}

/// State of one worker. Active grants and the pool are its own, the rest is shared.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) control: Arc<Control>,
    pub(crate) assertion_keys: Arc<AssertionKeys>,
    pub(crate) clock: Arc<Clock>,
    pub(crate) connections: Arc<Connections>,
    pub(crate) grants: Arc<Grants>,
    pub(crate) pool: Pool,
    pub(crate) limits: Limits,
    /// Places of WebSockets, by workspace; shared by all workers.
    pub(crate) websockets: Shares<WorkspaceId>,
    /// Apps domain with a leading dot.
    pub(crate) domain: Arc<str>,
}

impl Worker {
    /// Returns whether a host name is below the apps domain.
    pub(crate) fn is_below_domain(&self, host: &str) -> bool {
        host.ends_with(&*self.domain)
    }
}
