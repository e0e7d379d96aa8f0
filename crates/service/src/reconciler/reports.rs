//! Follows the node's reports and lets them move the workspaces' lives; what the node has and nobody owns is removed.

use std::collections::HashMap;
use std::time::Duration;

use rigbox_core::ids::WorkspaceId;
use rigbox_core::lifecycle::{ObservedState, Report};
use rigbox_core::status::Status;
use tracing::{info, warn};

use super::{Reconciler, lock};
use crate::nodes::client::{Event, NodeError, Reports};

const MIN_RECONNECT_DELAY: Duration = Duration::from_millis(100);
const MAX_RECONNECT_DELAY: Duration = Duration::from_secs(2);

impl Reconciler {
    pub async fn follow(&self) {
        let mut pause = MIN_RECONNECT_DELAY;
        // Said once per absence: the node may be away for long.
        let mut was_there = true;
        loop {
            let outcome = match self.0.node.watch().await {
                Ok(reports) => self.process(reports).await,
                Err(error) => Err(error),
            };
            let synced = self.0.synced.send_replace(false);
            if synced {
                pause = MIN_RECONNECT_DELAY;
            }
            was_there |= synced;
            if std::mem::take(&mut was_there) {
                match outcome {
                    Ok(()) => info!("the node's reports ended; asking again"),
                    Err(error) => info!(%error, "no reports from the node; asking again"),
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(MAX_RECONNECT_DELAY);
        }
    }

    async fn process(&self, mut reports: Reports) -> Result<(), NodeError> {
        let mut first = Some(HashMap::new());
        while let Some(event) = reports.next().await? {
            match event {
                Event::Report(id, report) => match &mut first {
                    Some(known) => {
                        known.insert(id, report);
                    }
                    None => {
                        self.remember(&id, &report);
                        self.apply(&id, &report).await;
                    }
                },
                Event::Refused(id, at, text) => self.0.transitions.logs().add(&id, at, text).await,
                Event::Synced => {
                    if let Some(known) = first.take() {
                        self.compare(known).await;
                        self.0.synced.send_replace(true);
                    }
                }
            }
        }
        Ok(())
    }

    fn remember(&self, id: &WorkspaceId, report: &Report) {
        let mut reports = lock(&self.0.reports);
        if report.observed == ObservedState::Absent {
            reports.remove(id);
        } else {
            reports.insert(id.clone(), report.clone());
        }
    }

    /// Everything that the node knows against everything that the database knows.
    async fn compare(&self, known: HashMap<WorkspaceId, Report>) {
        *lock(&self.0.reports) = known.clone();
        let rows = loop {
            match self.0.transitions.store().all_workspaces().await {
                Ok(rows) => break rows,
                Err(error) => {
                    // Without it every workspace would look like an orphan.
                    warn!(%error, "cannot read the workspaces; trying again");
                    tokio::time::sleep(MAX_RECONNECT_DELAY).await;
                }
            }
        };
        for (id, _) in rows.iter().filter(|(id, _)| !known.contains_key(id)) {
            self.apply(id, &Report { generation: 0, observed: ObservedState::Absent }).await;
        }
        for (id, report) in &known {
            self.apply(id, report).await;
        }
    }

    /// Lets a report move a lifecycle, and has the worker look at the outcome. A boot whose agent has answered still counts as booting until
    /// the worker has delivered its secrets: whoever sees `running` sees a workspace that has them.
    pub async fn apply(&self, id: &WorkspaceId, report: &Report) {
        let booting = match &report.observed {
            ObservedState::Running { boot, .. } => {
                Some(Report { observed: ObservedState::Booting { boot: boot.clone() }, ..report.clone() })
            }
            _ => None,
        };
        let moved = self.0.transitions.change::<rigbox_store::Error>(id, None, |workspace, now| {
            let undelivered = booting.as_ref().filter(|_| workspace.lifecycle.status == Status::Starting);
            Ok(workspace.lifecycle.observe(undelivered.unwrap_or(report), now))
        });
        match moved.await {
            Ok(Some(_)) => self.wake(id),
            Ok(None) if report.observed != ObservedState::Absent => {
                self.remove_orphan(id.clone(), report.generation)
            }
            Ok(None) => {}
            Err(error) => {
                warn!(workspace = %id, %error, "cannot store what the node reported");
                lock(&self.0.failing).insert(id.clone(), error.to_string());
            }
        }
    }

    /// The database was read and does not have it.
    fn remove_orphan(&self, id: WorkspaceId, generation: u64) {
        warn!(workspace = %id, "the node has a workspace that nobody owns: removing it");
        let this = self.clone();
        self.spawn(async move {
            match this.0.node.delete(&id, generation.saturating_add(1)).await {
                Ok(()) => {
                    lock(&this.0.reports).remove(&id);
                }
                // It is reported again when the node is back.
                Err(error) => warn!(workspace = %id, %error, "the workspace that nobody owns is still there"),
            }
        });
    }
}
