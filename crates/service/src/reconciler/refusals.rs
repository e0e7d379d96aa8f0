//! Consumption of the node's refusals of network access, for the logs of their workspaces. A stream of its own:
//! however much is refused, no report about a workspace's state waits for it.

use std::time::Duration;

use tracing::debug;

use super::Reconciler;
use crate::nodes::api::NodeError;
use crate::nodes::client::Refusals;

const RECONNECT_DELAY: Duration = Duration::from_secs(1);
/// Time for which refusals are gathered, to be written together.
const GATHERING_TIME: Duration = Duration::from_millis(500);
/// Maximum number of lines that are written together.
const MAX_LINES: usize = 1_024;

impl Reconciler {
    /// Follows the node's refusals, and reconnects when they end.
    pub(super) async fn follow_refusals(&self) {
        loop {
            let ended = match self.0.node.watch_refusals().await {
                Ok(refusals) => self.write_refusals(refusals).await,
                Err(error) => Err(error),
            };
            // An outage of the node is logged with its reports.
            if let Err(error) = ended {
                debug!(%error, "failed to get refusals from the node; reconnecting");
            }
            tokio::time::sleep(RECONNECT_DELAY).await;
        }
    }

    async fn write_refusals(&self, mut refusals: Refusals) -> Result<(), NodeError> {
        while let Some(mut lines) = refusals.next().await? {
            let gathered = tokio::time::timeout(GATHERING_TIME, async {
                while lines.len() < MAX_LINES {
                    match refusals.next().await? {
                        Some(more) => lines.extend(more),
                        None => break,
                    }
                }
                Ok::<_, NodeError>(())
            });
            let gathered = gathered.await;
            self.0.transitions.logs().add_all(&lines).await;
            if let Ok(ended) = gathered {
                ended?;
            }
        }
        Ok(())
    }
}
