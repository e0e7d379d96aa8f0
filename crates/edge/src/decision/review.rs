//! Review of active grants: the effects of control's watch on this role. Caches drop what a change invalidates, and grants that rest on it
//! are decided again.

use std::sync::Arc;

use futures_util::StreamExt;
use rigbox_gateway::active_grants::EndReason;
use rigbox_gateway::epochs::Change;
use rigbox_gateway::lease::{self, Effects};

use crate::decision::access_request::Grant;
use crate::decision::authorize;
use crate::decision::control::Control;
use crate::state::Worker;

/// Maximum number of grants reviewed concurrently.
const MAX_CONCURRENT_REVIEWS: usize = 64;

/// Follows control's watch for as long as it is polled.
pub(crate) async fn follow_lease(workers: Vec<Arc<Worker>>) {
    let Some(shared) = workers.first() else { return };
    let effects = Effects {
        changed: |change: &Change| apply(&workers, change),
        lapsed: || workers.iter().for_each(|worker| worker.grants.end_all(EndReason::LeaseLapsed)),
        assertion_keys: |keys| shared.assertion_keys.set(keys),
    };
    lease::follow(shared.control.client(), shared.control.cache.epochs(), &effects).await;
}

fn apply(workers: &[Arc<Worker>], change: &Change) {
    if let Some(shared) = workers.first() {
        shared.control.cache.invalidate(change);
    }
    for worker in workers {
        worker.pool.invalidate(change);
        let affected = worker.grants.select(|grant| match change {
            Change::Workspace(id) => grant.decision().route.app.workspace == *id,
            Change::Grants => grant.decision().request.credential.is_some(),
            Change::Everything => true,
        });
        review(Arc::clone(&worker.control), affected);
    }
}

/// Decides about grants again, in the background, and ends those that do not hold.
pub(crate) fn review(control: Arc<Control>, grants: Vec<Arc<Grant>>) {
    if grants.is_empty() {
        return;
    }
    tokio::spawn(async move {
        let control = &control;
        futures_util::stream::iter(grants)
            .for_each_concurrent(MAX_CONCURRENT_REVIEWS, |grant| async move {
                if let Err(reason) = authorize::reauthorize(control, grant.decision()).await {
                    grant.end(reason);
                }
            })
            .await;
    });
}
