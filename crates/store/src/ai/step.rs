//! Steps of calls, and their outcomes.

use rigbox_core::ai::money::Money;
use rigbox_core::ai::reservation::Grant;

use super::caller::AiDenial;
use super::reservation::AiReservation;
use super::settlement::AiSettlement;

/// Step of a call.
#[derive(Debug)]
pub enum AiStep {
    /// It is reserved before it is made.
    Reserve(Box<AiReservation>),
    /// It is settled once it is over.
    Settle(Box<AiSettlement>),
}

impl AiStep {
    /// Returns the id of the call.
    pub(super) fn call_id(&self) -> &str {
        match self {
            Self::Reserve(call) => &call.id,
            Self::Settle(call) => &call.id,
        }
    }

    /// Returns the workspace of a reservation.
    pub(super) fn reserves_for(&self) -> Option<&str> {
        match self {
            Self::Reserve(call) => Some(call.workspace.as_str()),
            Self::Settle(_) => None,
        }
    }
}

/// Outcome of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AiOutcome {
    /// The call is reserved.
    Reserved(Grant),
    /// The call is refused.
    Denied(AiDenial),
    /// Another run of the proxy has taken over, or none has begun.
    OtherRun,
    /// The call is settled at this cost.
    Settled(Money),
    /// The call was never reserved.
    UnknownCall,
}
