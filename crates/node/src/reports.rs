//! What control hears of each workspace: the newest report of each, and every change as it comes.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use rigbox_proto::node::watch_event::Event;
use rigbox_proto::node::{EgressRefused, State, WorkspaceReport};
use tokio::sync::broadcast;

/// Changes that a slow listener may be behind before it has to begin again.
const BEHIND: usize = 1024;

/// The newest report of each workspace.
pub(crate) struct Reports {
    newest: Mutex<BTreeMap<String, WorkspaceReport>>,
    changes: broadcast::Sender<Event>,
}

impl Default for Reports {
    fn default() -> Self {
        Self { newest: Mutex::default(), changes: broadcast::Sender::new(BEHIND) }
    }
}

impl Reports {
    /// Tells a change; the same report twice is none.
    pub(crate) fn tell(&self, report: WorkspaceReport) {
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        if newest.get(&report.workspace_id) == Some(&report) {
            return;
        }
        if report.state() == State::Absent {
            newest.remove(&report.workspace_id);
        } else {
            newest.insert(report.workspace_id.clone(), report.clone());
        }
        // Sent under the lock, so that `watch` misses nothing between its two halves. Nobody listening is fine.
        let _ = self.changes.send(Event::Report(report));
    }

    /// Tells whoever listens; it is not kept.
    pub(crate) fn tell_refused(&self, refused: EgressRefused) {
        let _ = self.changes.send(Event::EgressRefused(refused));
    }

    /// All newest reports, and the changes from then on.
    pub(crate) fn watch(&self) -> (Vec<WorkspaceReport>, broadcast::Receiver<Event>) {
        let newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        (newest.values().cloned().collect(), self.changes.subscribe())
    }
}
