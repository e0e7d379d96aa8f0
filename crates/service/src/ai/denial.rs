//! Refusals of calls, with the text for the user.

use rigbox_store::{AiCap, AiDenial};

/// Reason for refusing a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DenialReason {
    /// Credits or a budget do not cover it.
    InsufficientCredits,
    /// There is no such model, or no price for it or for an option.
    UnknownModel,
    /// The user or the workspace may not use the model.
    ModelNotAllowed,
    /// The workspace does not use the operator's keys.
    NotManaged,
    /// The operator has stopped all calls.
    Stopped,
    /// A URL would be fetched while the workspace's list of hosts is restricted.
    UrlNotAllowed,
    /// Too many calls are open.
    TooManyCalls,
}

/// Refusal of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denial {
    /// Reason.
    pub reason: DenialReason,
    /// For the user.
    pub text: String,
}

impl Denial {
    pub(super) fn unknown_model(text: String) -> Self {
        Self { reason: DenialReason::UnknownModel, text }
    }

    pub(super) fn too_many_calls() -> Self {
        let text = "Too many AI calls of this workspace are open. Wait until one has ended.".to_owned();
        Self { reason: DenialReason::TooManyCalls, text }
    }

    /// Returns the refusal by the ledger of a call of `model`.
    pub(super) fn by_ledger(denial: &AiDenial, model: &str) -> Self {
        let (reason, text) = match denial {
            AiDenial::NoWorkspace => {
                (DenialReason::NotManaged, "This workspace is not there any more.".to_owned())
            }
            AiDenial::Stopped => (
                DenialReason::Stopped,
                "The administrator has stopped all AI calls. Try again later.".to_owned(),
            ),
            AiDenial::SwitchedOff => (
                DenialReason::NotManaged,
                "The AI proxy is off in this workspace. `rig proxy on` switches it on again.".to_owned(),
            ),
            AiDenial::NotManaged => (
                DenialReason::NotManaged,
                "AI calls of this workspace use its owner's own key. Set its AI mode to managed to use credits."
                    .to_owned(),
            ),
            AiDenial::ModelNotAllowed => (
                DenialReason::ModelNotAllowed,
                format!("The model `{model}` is not allowed here. Use one of those that are listed."),
            ),
            AiDenial::UrlNotAllowed => (
                DenialReason::UrlNotAllowed,
                "The provider would fetch a URL, and this workspace may not reach every host. Send the content instead."
                    .to_owned(),
            ),
            AiDenial::TooManyCalls(_) => return Self::too_many_calls(),
            AiDenial::Insufficient { cap, needed, left } => {
                let (what, remedy) = match cap {
                    AiCap::Credits => ("Your AI credits", "Ask the administrator for more."),
                    AiCap::UserBudget => ("Your AI budget of this month", "Ask the administrator to raise it."),
                    AiCap::WorkspaceBudget => {
                        ("The AI budget of this workspace for this month", "Ask the administrator to raise it.")
                    }
                };
                let verb = if *cap == AiCap::Credits { "do" } else { "does" };
                let text =
                    format!("{what} {verb} not cover this call, which needs up to {needed}: {left} is left. {remedy}");
                (DenialReason::InsufficientCredits, text)
            }
        };
        Self { reason, text }
    }
}
