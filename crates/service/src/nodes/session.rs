//! Session of a node: the life of one process of it, whose reports have an order, with the places in its queue of boots.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rigbox_core::ids::WorkspaceId;
use rigbox_core::lifecycle::ReportOrder;

use super::report::NodeReport;

/// Current session.
#[derive(Default)]
pub(super) struct CurrentSession(Mutex<State>);

#[derive(Default)]
struct State {
    /// Its number, once the node has named it.
    number: Option<u64>,
    /// Places in the queue of boots, each with the report that it is from. `None`: it does not wait.
    queue: BTreeMap<WorkspaceId, (ReportOrder, Option<u32>)>,
}

impl CurrentSession {
    /// Returns the number of the session. `None` before the first one.
    pub(super) fn number(&self) -> Option<u64> {
        self.state().number
    }

    /// Begins a session, unless it is the current one.
    pub(super) fn begin(&self, number: u64) {
        let mut state = self.state();
        if state.number != Some(number) {
            *state = State { number: Some(number), queue: BTreeMap::new() };
        }
    }

    /// Remembers the place in the queue of boots of a report of the session.
    pub(super) fn note(&self, report: &NodeReport) {
        let (mut state, order) = (self.state(), report.observed.order);
        let is_current = state.number == Some(order.session);
        let is_later = state.queue.get(&report.id).is_none_or(|(earlier, _)| order.is_after(*earlier));
        if report.observed.is_absent() {
            state.queue.remove(&report.id);
        } else if is_current && is_later {
            state.queue.insert(report.id.clone(), (order, report.queue_position));
        }
    }

    /// Returns the place of a workspace in the queue of boots. `None` if it does not wait.
    pub(super) fn queue_position(&self, id: &WorkspaceId) -> Option<u32> {
        self.state().queue.get(id).and_then(|(_, position)| *position)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
