//! State that all connections share.

use std::sync::Arc;

use rigbox_core::ids::WorkspaceId;
use rigbox_shares::Shares;

use crate::body::Bodies;
use crate::bridge::Api;
use crate::config::Limits;
use crate::control::Control;
use crate::free_calls::FreeCalls;
use crate::ledger::Ledger;
use crate::public_hosts::PublicHosts;
use crate::pump::Drains;
use crate::upstream::Upstreams;

/// State of the role.
pub(crate) struct State {
    pub(crate) control: Arc<Control>,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) upstreams: Upstreams,
    pub(crate) api: Api,
    pub(crate) bodies: Bodies,
    pub(crate) calls: Shares<WorkspaceId>,
    pub(crate) free_calls: FreeCalls,
    pub(crate) drains: Drains,
    /// Large responses that are held back.
    pub(crate) large_responses: Shares<WorkspaceId>,
    /// Client of users' hosts. None where a proxy is between this host and all others: the address behind a name is not known then.
    pub(crate) public_hosts: Option<PublicHosts>,
    /// Requests to users' hosts.
    pub(crate) proxied: Shares<WorkspaceId>,
    pub(crate) proxied_of_users: Shares<String>,
    pub(crate) limits: Limits,
}
