//! Waiting for a condition in asynchronous tests.

use std::time::{Duration, Instant};

const TIMEOUT: Duration = Duration::from_secs(20);
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// Polls until `holds` returns true. Panics with `what` after 20 seconds.
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let deadline = Instant::now() + TIMEOUT;
    while !holds().await {
        assert!(Instant::now() < deadline, "not within {} s: {what}", TIMEOUT.as_secs());
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}
