//! Time-outs by the clock that does not jump: no status is given up early, and none lasts for longer than it may.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rigbox_core::ids::WorkspaceId;
use rigbox_core::lifecycle::{Lifecycle, Timeouts};
use rigbox_core::status::Status;
use rigbox_store::Store;
use tokio::time::Instant;

use crate::world::World;

const INTERVAL: Duration = Duration::from_secs(5);
/// Time for which a status may last beyond its time-out: the reconciler looks at it now and then, and writes fail.
const MARGIN: Duration = Duration::from_secs(30);

/// Watches all statuses for as long as the process of control runs: its time-outs count from its start.
pub(crate) async fn watch(world: Arc<World>, store: Store) {
    let timeouts = Timeouts::default();
    // With the generation and the count of failures, by which two stays differ whatever the clock says.
    let mut entered: BTreeMap<WorkspaceId, ((Status, u64, u32), Instant)> = BTreeMap::new();
    loop {
        let mut seen = BTreeMap::new();
        for id in store.all_workspaces().await.unwrap_or_default() {
            let Ok(Some(workspace)) = store.workspace(&id).await else { continue };
            let Lifecycle { status, wanted, attempts, failure, .. } = workspace.lifecycle;
            let stay = (status, wanted.generation, attempts);
            let known = entered.get(&id).copied();
            if let (Some((before, since)), Some(failure)) = (known, &failure)
                && before != stay
                && failure.code == format!("timeout_{}", before.0)
                && Instant::now().duration_since(since) + 2 * INTERVAL < limit(&timeouts, before.0)
            {
                world.violation(format!("{id}: {before:?} was given up after {:?}", since.elapsed()));
            }
            let since =
                known.filter(|(before, _)| *before == stay).map_or_else(Instant::now, |(_, since)| since);
            // The time in the queue of boots does not count.
            if status.is_transient()
                && status != Status::Starting
                && since.elapsed() > limit(&timeouts, status) + MARGIN
            {
                world.violation(format!("{id}: {status} for {:?}", since.elapsed()));
            }
            seen.insert(id, (stay, since));
        }
        entered = seen;
        tokio::time::sleep(INTERVAL).await;
    }
}

fn limit(timeouts: &Timeouts, status: Status) -> Duration {
    match status {
        Status::Provisioning => timeouts.provisioning,
        Status::Starting => timeouts.starting,
        Status::Stopping => timeouts.stopping,
        Status::Deleting => timeouts.deleting,
        Status::Provisioned | Status::Running | Status::Stopped | Status::Failed => Duration::ZERO,
    }
}
