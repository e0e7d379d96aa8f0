//! Settlement of calls: once, at what they have used, and never above what was reserved.

use rigbox_core::ai::money::Money;
use rigbox_core::ai::prices::{CallPrices, Usage};

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AiEnding {
    /// Whole.
    Completed,
    /// The provider refused it, or failed.
    Refused,
    /// The client hung up, and the rest was read without it.
    HungUp,
    /// The provider's answer broke off.
    CutOff,
    /// Nothing was sent to the provider.
    NotSent,
    /// The proxy did not say.
    Unknown,
}

/// Call that is over.
#[derive(Debug, Clone)]
pub struct AiSettlement {
    /// Id that the proxy has made.
    pub id: String,
    /// Tokens.
    pub usage: Usage,
    /// The provider's figures are not whole.
    pub estimated: bool,
    /// Nothing is known of what was used: the whole bound counts.
    pub at_bound: bool,
    /// HTTP status that the client got; 0: none.
    pub status: u32,
    /// How it ended.
    pub ending: AiEnding,
    /// Id of the provider's key.
    pub key: Option<String>,
    /// The provider's id of the call.
    pub provider_request_id: Option<String>,
    /// Duration in milliseconds.
    pub duration_ms: u64,
    /// Cost that the provider has told.
    pub told_cost: Option<Money>,
}

impl AiEnding {
    /// Returns the name in the record.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Refused => "refused",
            Self::HungUp => "hung_up",
            Self::CutOff => "cut_off",
            Self::NotSent => "not_sent",
            Self::Unknown => "unknown",
        }
    }
}

impl AiSettlement {
    /// Returns the settlement of a call of which nothing is known.
    pub(super) fn at_bound(id: String) -> Self {
        Self {
            id,
            usage: Usage::default(),
            estimated: true,
            at_bound: true,
            status: 0,
            ending: AiEnding::Unknown,
            key: None,
            provider_request_id: None,
            duration_ms: 0,
            told_cost: None,
        }
    }

    /// Returns what the call costs.
    pub(super) fn cost(&self, prices: CallPrices, reserved: Money) -> Money {
        if self.at_bound {
            return reserved;
        }
        self.told_cost.unwrap_or_else(|| prices.cost(&self.usage)).min(reserved)
    }
}
