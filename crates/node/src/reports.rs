//! Reports for control: the latest one of each workspace, and every change as it happens.

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rigbox_core::ids::WorkspaceId;
use rigbox_proto::node::watch_event::Event;
use rigbox_proto::node::{Desired, DiskState, Synced, VmState, WatchEvent, WorkspaceReport};
use tokio::sync::broadcast;
use tokio_stream::wrappers::BroadcastStream;
use tokio_stream::{Stream, StreamExt};
use tonic::Status;

/// Events by which a slow subscriber may lag before it has to start over.
const MAX_LAG: usize = 1024;

/// Latest report of each workspace. The reports of a session are numbered, all workspaces together.
#[derive(Debug)]
pub struct Reports {
    session: NonZeroU64,
    state: Mutex<State>,
    events: broadcast::Sender<Event>,
}

#[derive(Debug, Default)]
struct State {
    /// Number of the last report.
    sequence: u64,
    latest: BTreeMap<String, WorkspaceReport>,
}

/// Reports of all workspaces at one moment, and the changes from then on.
#[derive(Debug)]
pub struct Subscription {
    /// Latest report of each workspace.
    pub latest: Vec<WorkspaceReport>,
    /// Session, and number of its last report.
    pub synced: Synced,
    /// Changes.
    pub events: broadcast::Receiver<Event>,
}

impl Subscription {
    /// Returns it as the stream that a watch of control gets. It ends with an error for who reads too slowly.
    pub fn into_stream(self) -> impl Stream<Item = Result<WatchEvent, Status>> + Send {
        let Self { latest, synced, events } = self;
        let wrap = |event| WatchEvent { event: Some(event) };
        let current = latest.into_iter().map(Event::Report).chain([Event::Synced(synced)]);
        let current = current.map(|event| Ok(wrap(event))).collect::<Vec<_>>();
        let too_slow = |_| Status::data_loss("the subscriber was too slow; watch again");
        let events = BroadcastStream::new(events).map(move |event| event.map(wrap).map_err(too_slow));
        tokio_stream::iter(current).chain(events)
    }
}

/// Returns the report that the node has nothing of a workspace. `generation` is that of the deletion that it answers, or 0.
pub(crate) fn absent(id: &WorkspaceId, generation: u64) -> WorkspaceReport {
    WorkspaceReport {
        workspace_id: id.to_string(),
        generation,
        desired: Desired::Deleted.into(),
        disk: DiskState::DiskAbsent.into(),
        vm: VmState::VmNone.into(),
        ..WorkspaceReport::default()
    }
}

impl Reports {
    /// Creates a session. Each process of a node has one of its own, with a random number.
    pub fn new(session: NonZeroU64) -> Self {
        Self { session, state: Mutex::default(), events: broadcast::Sender::new(MAX_LAG) }
    }

    /// Publishes a report, unless it equals the latest one but for its number. Returns it with the number that it has.
    pub fn publish(&self, report: WorkspaceReport) -> WorkspaceReport {
        let mut state = self.lock();
        if let Some(latest) = state.latest.get(&report.workspace_id) {
            let (session, sequence) = (latest.session, latest.sequence);
            if *latest == (WorkspaceReport { session, sequence, ..report.clone() }) {
                return latest.clone();
            }
        }
        let report = self.numbered(&mut state, report);
        if report.disk() == DiskState::DiskAbsent {
            state.latest.remove(&report.workspace_id);
        } else {
            state.latest.insert(report.workspace_id.clone(), report.clone());
        }
        // Sent under the lock, so that `subscribe` misses nothing between its halves. Having no subscriber is fine.
        let _ = self.events.send(Event::Report(report.clone()));
        report
    }

    /// Returns the answer about a workspace that the node has nothing of. It is no change, so nobody else is told.
    pub(crate) fn answer_absent(&self, id: &WorkspaceId, generation: u64) -> WorkspaceReport {
        self.numbered(&mut self.lock(), absent(id, generation))
    }

    /// Returns the latest reports and the changes from then on.
    pub fn subscribe(&self) -> Subscription {
        let state = self.lock();
        Subscription {
            latest: state.latest.values().cloned().collect(),
            synced: Synced { session: self.session.get(), sequence: state.sequence },
            events: self.events.subscribe(),
        }
    }

    fn numbered(&self, state: &mut State, report: WorkspaceReport) -> WorkspaceReport {
        state.sequence += 1;
        WorkspaceReport { session: self.session.get(), sequence: state.sequence, ..report }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(id: &WorkspaceId, disk: DiskState) -> WorkspaceReport {
        WorkspaceReport { workspace_id: id.to_string(), disk: disk.into(), ..WorkspaceReport::default() }
    }

    #[test]
    fn reports_are_numbered_over_all_workspaces_and_repeated_by_none() {
        let reports = Reports::new(NonZeroU64::new(7).unwrap());
        let (one, two) = (WorkspaceId::from_random([1; 5]), WorkspaceId::from_random([2; 5]));
        let mut events = reports.subscribe().events;
        let first = reports.publish(report(&one, DiskState::DiskIncomplete));
        assert_eq!((first.session, first.sequence), (7, 1));
        assert_eq!(reports.publish(report(&two, DiskState::DiskIncomplete)).sequence, 2);
        assert_eq!(reports.publish(report(&one, DiskState::DiskIncomplete)), first);
        assert_eq!(reports.publish(report(&one, DiskState::DiskComplete)).sequence, 3);
        // An answer is later than what was published, and no change.
        let answer = reports.answer_absent(&WorkspaceId::from_random([3; 5]), 5);
        assert_eq!((answer.sequence, answer.generation, answer.disk()), (4, 5, DiskState::DiskAbsent));
        reports.publish(absent(&two, 9));
        let now = reports.subscribe();
        assert_eq!(now.synced, Synced { session: 7, sequence: 5 });
        assert_eq!(now.latest.iter().map(|report| report.sequence).collect::<Vec<_>>(), [3]);
        let mut sent = Vec::new();
        while let Ok(Event::Report(report)) = events.try_recv() {
            sent.push(report.sequence);
        }
        assert_eq!(sent, [1, 2, 3, 5]);
    }
}
