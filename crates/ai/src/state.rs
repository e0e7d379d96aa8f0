//! State that all connections share.

use std::sync::Arc;

use rigbox_core::ids::WorkspaceId;
use rigbox_shares::Shares;

use crate::body::Bodies;
use crate::bridge::Api;
use crate::config::Limits;
use crate::control::Control;
use crate::pump::Drains;
use crate::tables::Tables;
use crate::upstream::Upstreams;

/// State of the role.
pub(crate) struct State {
    pub(crate) control: Arc<Control>,
    pub(crate) upstreams: Upstreams,
    pub(crate) api: Api,
    pub(crate) tables: Tables,
    pub(crate) bodies: Bodies,
    pub(crate) calls: Shares<WorkspaceId>,
    pub(crate) drains: Drains,
    pub(crate) limits: Limits,
}
