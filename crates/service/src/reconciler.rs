//! Moves every workspace from where it is to where its owner wants it, step by step.
//!
//! One worker per workspace that has something to do, one verb to the node at a time. Each step may be repeated: a
//! process that dies anywhere goes on from the database and the node's reports. A tick finds what a lost hint left lying.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use rigbox_core::ids::WorkspaceId;
use rigbox_core::lifecycle::{Report, Timeouts};
use rigbox_core::time::Timestamp;
use tokio::sync::{Notify, broadcast, watch};
use tokio::task::JoinSet;
use tracing::warn;

use crate::clock;
use crate::guests::secret_delivery::SecretDelivery;
use crate::network::NetworkPolicies;
use crate::nodes::client::NodeClient;
use crate::transitions::WorkspaceTransitions;

mod reports;
mod secrets;
mod worker;

/// How often the database is requested for workspaces that must not stay as they are.
const TICK_INTERVAL: Duration = Duration::from_secs(1);

#[derive(Clone)]
pub struct Reconciler(Arc<Parts>);

struct Parts {
    transitions: WorkspaceTransitions,
    node: NodeClient,
    secret_delivery: SecretDelivery,
    networks: NetworkPolicies,
    timeouts: Timeouts,
    api_url: String,
    /// When this process started_at: states are not blamed for the time before.
    started_at: Timestamp,
    /// What the node reported last, and whether that is all it knows.
    reports: Mutex<HashMap<WorkspaceId, Report>>,
    synced: watch::Sender<bool>,
    workers: Mutex<HashMap<WorkspaceId, Arc<Notify>>>,
    /// Workspaces whose last step did not succeed, with the reason.
    failing: Mutex<HashMap<WorkspaceId, String>>,
    tasks: Mutex<JoinSet<()>>,
}

impl Reconciler {
    pub fn new(
        transitions: WorkspaceTransitions,
        node: NodeClient,
        secret_delivery: SecretDelivery,
        networks: NetworkPolicies,
        timeouts: Timeouts,
        api_url: String,
    ) -> Self {
        Self(Arc::new(Parts {
            transitions,
            node,
            secret_delivery,
            networks,
            timeouts,
            api_url,
            started_at: clock::now(),
            reports: Mutex::default(),
            synced: watch::channel(false).0,
            workers: Mutex::default(),
            failing: Mutex::default(),
            tasks: Mutex::default(),
        }))
    }

    /// Whether all that the node knows has been taken in.
    pub fn synced(&self) -> watch::Receiver<bool> {
        self.0.synced.subscribe()
    }

    /// Works for as long as it is polled; workers end with it.
    pub async fn run(self) {
        let _workers_end = AbortTasks(self.clone());
        tokio::join!(self.watch_transitions(), self.tick(), self.follow());
    }

    async fn watch_transitions(&self) {
        let mut changed = self.0.transitions.subscribe();
        loop {
            match changed.recv().await {
                Ok(id) => self.wake(&id),
                // The tick finds what was missed.
                Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return,
            }
        }
    }

    async fn tick(&self) {
        let mut interval = tokio::time::interval(TICK_INTERVAL);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            interval.tick().await;
            while lock(&self.0.tasks).try_join_next().is_some() {}
            let failing: Vec<_> = lock(&self.0.failing).keys().cloned().collect();
            match self.0.transitions.store().transient_workspaces().await {
                Ok(ids) => {
                    ids.into_iter().chain(failing).collect::<HashSet<_>>().iter().for_each(|id| self.wake(id))
                }
                Err(error) => warn!(%error, "cannot read which workspaces are under way"),
            }
        }
    }

    /// Has somebody look at a workspace soon.
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
                // Somebody knocked while we were leaving.
                if wake.notified().now_or_never().is_none() {
                    workers.remove(&id);
                    return;
                }
            }
        });
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

/// No code that holds one of these locks can leave its content half-written.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
