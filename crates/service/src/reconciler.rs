//! Reconciler: sees to it that the node holds the target of every workspace, and that every boot has its secrets, and records what the node
//! reports.
//!
//! One worker per workspace that has something to do, one call to the node at a time. Each step is
//! idempotent: a process that dies at any point continues from the database and the node's reports. A
//! periodic tick catches lost wake-ups.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use rigbox_core::ids::WorkspaceId;
use rigbox_core::lifecycle::Timeouts;
use tokio::sync::{Notify, broadcast, watch};
use tokio::task::JoinSet;
use tracing::warn;

use crate::guests::secret_delivery::SecretDelivery;
use crate::network::NetworkPolicies;
use crate::nodes::client::NodeClient;
use crate::nodes::report::NodeReport;
use crate::targets::Targets;
use crate::transitions::{Change, WorkspaceTransitions};
use status_timer::StatusTimer;

mod gathered;
mod orphans;
mod outcome;
mod refusals;
mod reports;
mod secrets;
mod status_timer;
mod worker;

/// Interval at which the database is queried for workspaces in a transient status.
const TICK_INTERVAL: Duration = Duration::from_secs(1);

/// Reconciler of workspaces.
#[derive(Clone)]
pub struct Reconciler(Arc<Inner>);

struct Inner {
    transitions: WorkspaceTransitions,
    node: NodeClient,
    secret_delivery: SecretDelivery,
    networks: NetworkPolicies,
    targets: Targets,
    timeouts: Timeouts,
    timer: StatusTimer,
    /// Reports that are not stored yet.
    unstored: Mutex<BTreeMap<WorkspaceId, NodeReport>>,
    synced: watch::Sender<bool>,
    workers: Mutex<BTreeMap<WorkspaceId, Arc<Notify>>>,
    /// Workspaces whose last step failed, with the reason.
    failing: Mutex<BTreeMap<WorkspaceId, String>>,
    tasks: Mutex<JoinSet<()>>,
}

impl Reconciler {
    /// Creates the reconciler.
    pub fn new(
        transitions: WorkspaceTransitions,
        node: NodeClient,
        secret_delivery: SecretDelivery,
        networks: NetworkPolicies,
        targets: Targets,
        timeouts: Timeouts,
    ) -> Self {
        Self(Arc::new(Inner {
            transitions,
            node,
            secret_delivery,
            networks,
            targets,
            timeouts,
            timer: StatusTimer::default(),
            unstored: Mutex::default(),
            synced: watch::channel(false).0,
            workers: Mutex::default(),
            failing: Mutex::default(),
            tasks: Mutex::default(),
        }))
    }

    /// Returns whether all reports of the node have been processed.
    pub fn synced(&self) -> watch::Receiver<bool> {
        self.0.synced.subscribe()
    }

    /// Runs for as long as it is polled. Workers end with it.
    pub async fn run(self) {
        let _workers_end = AbortTasks(self.clone());
        let this = self.clone();
        self.spawn(async move { this.follow_refusals().await });
        tokio::join!(self.watch_transitions(), self.tick(), self.follow_reports());
    }

    async fn watch_transitions(&self) {
        let mut changed = self.0.transitions.subscribe();
        loop {
            match changed.recv().await {
                // Most reports of a workspace that runs leave nothing to do.
                Ok(Change { id, after: Some(after) }) if !self.is_busy(&id) && !self.has_work(&after) => {
                    self.0.timer.forget(&id);
                }
                Ok(Change { id, .. }) => self.wake(&id),
                Err(broadcast::error::RecvError::Lagged(_)) => self.wake_unsettled().await,
                Err(broadcast::error::RecvError::Closed) => return,
            }
        }
    }

    async fn tick(&self) {
        let mut interval = tokio::time::interval(TICK_INTERVAL);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            interval.tick().await;
            self.collect_tasks();
            self.wake_unsettled().await;
            self.remove_orphans().await;
        }
    }

    /// Wakes the workers of all workspaces for which something is due.
    async fn wake_unsettled(&self) {
        let failing: Vec<_> = lock(&self.0.failing).keys().cloned().collect();
        match self.0.transitions.store().unsettled_workspaces().await {
            Ok(ids) => {
                ids.into_iter().chain(failing).collect::<BTreeSet<_>>().iter().for_each(|id| self.wake(id));
            }
            Err(error) => warn!(%error, "failed to read the workspaces in a transient status"),
        }
    }

    /// Removes tasks that have ended. A panic of one ends the reconciler, and with it the process: what it has
    /// left undone, nobody else would do.
    fn collect_tasks(&self) {
        loop {
            let ended = lock(&self.0.tasks).try_join_next();
            match ended {
                Some(Err(error)) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                Some(_) => {}
                None => return,
            }
        }
    }

    /// Wakes the worker of a workspace, or starts one.
    fn wake(&self, id: &WorkspaceId) {
        let mut workers = lock(&self.0.workers);
        if let Some(worker) = workers.get(id) {
            worker.notify_one();
            return;
        }
        let wake = Arc::new(Notify::new());
        workers.insert(id.clone(), wake.clone());
        drop(workers);
        let (this, id) = (self.clone(), id.clone());
        self.spawn(async move {
            loop {
                this.work(&id, &wake).await;
                let mut workers = lock(&this.0.workers);
                // Woken again while finishing.
                if wake.notified().now_or_never().is_none() {
                    workers.remove(&id);
                    return;
                }
            }
        });
    }

    /// Returns whether a workspace has a worker.
    fn is_busy(&self, id: &WorkspaceId) -> bool {
        lock(&self.0.workers).contains_key(id)
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        lock(&self.0.tasks).spawn(task);
    }
}

struct AbortTasks(Reconciler);

impl Drop for AbortTasks {
    fn drop(&mut self) {
        lock(&self.0.0.tasks).abort_all();
    }
}

/// Locks a mutex. No code that holds one of these locks can leave the content half-written.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
