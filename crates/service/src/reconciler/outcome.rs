//! Outcomes of what the reconciler does for a workspace.

/// Outcome of a step.
pub(super) enum Outcome {
    /// Continue with the next step at once.
    Progressed,
    /// Wait for a report or a request.
    Wait,
    /// Try again at the next tick.
    Retry(String),
}
