//! Reports for control: the latest one of each workspace, and every change as it happens.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use rigbox_proto::node::watch_event::Event;
use rigbox_proto::node::{State, WorkspaceReport};
use tokio::sync::broadcast;

/// Events by which a slow subscriber may lag before it has to start over.
const MAX_LAG: usize = 1024;

/// Latest report of each workspace.
pub(crate) struct Reports {
    latest: Mutex<BTreeMap<String, WorkspaceReport>>,
    events: broadcast::Sender<Event>,
}

impl Default for Reports {
    fn default() -> Self {
        Self { latest: Mutex::default(), events: broadcast::Sender::new(MAX_LAG) }
    }
}

impl Reports {
    /// Publishes a report, unless it equals the latest one.
    pub(crate) fn publish(&self, report: WorkspaceReport) {
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        if latest.get(&report.workspace_id) == Some(&report) {
            return;
        }
        if report.state() == State::Absent {
            latest.remove(&report.workspace_id);
        } else {
            latest.insert(report.workspace_id.clone(), report.clone());
        }
        // Sent under the lock, so that `subscribe` misses nothing between its two halves. Having no subscriber is fine.
        let _ = self.events.send(Event::Report(report));
    }

    /// Returns the latest reports and the changes from then on.
    pub(crate) fn subscribe(&self) -> (Vec<WorkspaceReport>, broadcast::Receiver<Event>) {
        let latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        (latest.values().cloned().collect(), self.events.subscribe())
    }
}
