//! Review of sessions: the effects of control's watch on this role. Each session that a change affects is decided about again.

use std::sync::Arc;

use futures_util::StreamExt;
use rigbox_gateway::active_grants::{ActiveGrant, EndReason};
use rigbox_gateway::epochs::Change;
use rigbox_gateway::lease::{self, Effects};

use crate::control::Decision;
use crate::state::Gateway;

/// Maximum number of sessions reviewed concurrently.
const MAX_CONCURRENT_REVIEWS: usize = 64;

/// Follows control's watch for as long as it is polled.
pub(crate) async fn follow_lease(gateway: Arc<Gateway>) {
    let effects = Effects {
        changed: |change: &Change| {
            let affected = gateway.grants.select(|grant| match change {
                Change::Workspace(id) => grant.decision().workspace == *id,
                Change::Grants | Change::Everything => true,
            });
            review(Arc::clone(&gateway), affected);
        },
        lapsed: || gateway.grants.end_all(EndReason::LeaseLapsed),
        assertion_keys: |_| {},
    };
    lease::follow(gateway.control.client(), &gateway.control.epochs, &effects).await;
}

/// Decides about sessions again, in the background, and ends those that do not hold.
fn review(gateway: Arc<Gateway>, sessions: Vec<Arc<ActiveGrant<Decision>>>) {
    if sessions.is_empty() {
        return;
    }
    tokio::spawn(async move {
        let control = &gateway.control;
        let decide = |session: Arc<ActiveGrant<Decision>>| async move {
            if let Err(reason) = control.review(session.decision()).await {
                session.end(reason);
            }
        };
        futures_util::stream::iter(sessions).for_each_concurrent(MAX_CONCURRENT_REVIEWS, decide).await;
    });
}
