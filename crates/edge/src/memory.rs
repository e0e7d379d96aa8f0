//! Memory that many connections leave behind. The allocator keeps what they have freed, page by page between what is still in use, and
//! returns it only when it is told to.

use std::time::{Duration, Instant};

use rigbox_gateway::connections::Connections;

/// Least number of connections whose memory is worth returning.
const MIN_CLOSED: usize = 256;
/// Time between two returns: the allocator is locked for some milliseconds.
const TRIM_PAUSE: Duration = Duration::from_secs(10);

/// Returns memory after many connections have closed.
#[derive(Debug, Default)]
pub(crate) struct Trimmer {
    trimmed_at: Option<Instant>,
}

impl Trimmer {
    /// Returns memory if many connections have closed since there were most, and the last time is not too recent.
    pub(crate) fn trim_after_many(&mut self, connections: &Connections) {
        let is_paused = self.trimmed_at.is_some_and(|trimmed_at| trimmed_at.elapsed() < TRIM_PAUSE);
        if !is_paused && connections.has_fallen(MIN_CLOSED) {
            rigbox_sys::allocator::trim();
            self.trimmed_at = Some(Instant::now());
        }
    }
}
