//! Refused outbound requests of VMs, on their way from guestio to control. They are not kept: who does not read them in time misses some.

use rigbox_proto::guestio;
use rigbox_proto::node::{EgressRefused, RefusalBatch};
use tokio::sync::broadcast;
use tokio_stream::wrappers::BroadcastStream;
use tokio_stream::{Stream, StreamExt};

/// Batches by which a slow subscriber may lag.
const MAX_LAG: usize = 256;
/// Maximum number of refusals in a batch.
const MAX_BATCH: usize = 64;
/// Maximum size of a refusal's texts, which come from guestio.
const MAX_TEXT_BYTES: usize = 1024;

/// Channel for batches, each of one workspace.
#[derive(Clone)]
pub(crate) struct Refusals(broadcast::Sender<RefusalBatch>);

impl Default for Refusals {
    fn default() -> Self {
        Self(broadcast::Sender::new(MAX_LAG))
    }
}

impl Refusals {
    /// Sends a VM's refusals to the current subscribers.
    pub(crate) fn publish(&self, workspace_id: &str, refused: Vec<guestio::EgressRefused>) {
        let is_short = |refused: &guestio::EgressRefused| {
            [&refused.protocol, &refused.address, &refused.name]
                .iter()
                .all(|text| text.len() <= MAX_TEXT_BYTES)
        };
        let refused = refused.into_iter().filter(is_short).take(MAX_BATCH).map(|refused| {
            let guestio::EgressRefused { protocol, address, port, name, count, unix_ms } = refused;
            EgressRefused {
                workspace_id: workspace_id.to_owned(),
                unix_ms,
                protocol,
                address,
                port,
                name,
                count,
            }
        });
        // Having no subscriber is fine.
        let _ = self.0.send(RefusalBatch { refused: refused.collect() });
    }

    /// Returns the batches from now on.
    pub(crate) fn subscribe(&self) -> impl Stream<Item = RefusalBatch> + Send + use<> {
        BroadcastStream::new(self.0.subscribe()).filter_map(Result::ok)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn slow_reader_misses_some_and_holds_up_nobody() {
        let refusals = Refusals::default();
        let mut slow = Box::pin(refusals.subscribe());
        let one = |port| guestio::EgressRefused { port, ..guestio::EgressRefused::default() };
        for port in 0..1000 {
            refusals.publish("ws-1", vec![one(port)]);
        }
        let port = slow.next().await.unwrap().refused[0].port;
        assert!((744..=999).contains(&port), "{port}");
    }

    #[tokio::test]
    async fn batch_from_guestio_is_bounded() {
        let refusals = Refusals::default();
        let mut reader = Box::pin(refusals.subscribe());
        let long = guestio::EgressRefused { name: "x".repeat(2000), ..guestio::EgressRefused::default() };
        let batch = [vec![long], vec![guestio::EgressRefused::default(); 1000]].concat();
        refusals.publish("ws-1", batch);
        let batch = reader.next().await.unwrap().refused;
        assert!(batch.len() == 64 && batch[0].name.is_empty() && batch[0].workspace_id == "ws-1");
    }
}
