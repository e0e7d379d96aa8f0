//! Settlement of a call.

use rigbox_proto::ai::{Ending, SettleRequest, Usage};

use crate::state::State;

/// Returns the settlement of a call that used nothing. Without any usage, control would take it for unknown.
pub(super) fn settlement(state: &State, call_id: &str, ending: Ending) -> SettleRequest {
    SettleRequest {
        usage: Some(Usage::default()),
        run_id: state.control.run_id.clone(),
        call_id: call_id.to_owned(),
        ending: ending.into(),
        ..SettleRequest::default()
    }
}
