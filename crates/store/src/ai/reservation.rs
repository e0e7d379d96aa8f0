//! Call that is to be reserved, and the terms of all calls.

use rigbox_core::ai::money::Money;
use rigbox_core::ai::prices::CallPrices;
use rigbox_core::ai::reservation::{Ask, OutputLimits};
use rigbox_core::ids::WorkspaceId;
use rigbox_core::plans::Plans;

/// Call that is to be reserved.
#[derive(Debug, Clone)]
pub struct AiReservation {
    /// Id that the proxy has made.
    pub id: String,
    /// Run of the proxy.
    pub run: String,
    /// Workspace that calls.
    pub workspace: WorkspaceId,
    /// Provider, for the record.
    pub provider: &'static str,
    /// Upstream that the call goes to.
    pub upstream: String,
    /// Kind of call, for the record.
    pub operation: &'static str,
    /// Model.
    pub model: String,
    /// Prices, with those of the options.
    pub prices: CallPrices,
    /// Size of the call.
    pub ask: Ask,
    /// Limits of the model's output.
    pub limits: OutputLimits,
    /// The provider would fetch a URL.
    pub fetches_urls: bool,
}

/// Terms of all calls, from the configuration.
#[derive(Debug, Clone, Copy)]
pub struct AiTerms {
    /// Plans, which grant credits for a month.
    pub plans: Plans,
    /// Budget of a user for a month, where none is set.
    pub user_budget: Option<Money>,
    /// Budget of a workspace for a month, where none is set.
    pub workspace_budget: Option<Money>,
    /// Maximum number of a workspace's calls that are open.
    pub max_open_calls: u64,
}
