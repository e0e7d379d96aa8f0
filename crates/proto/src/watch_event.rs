//! Events of control for a gateway, with the time at which they were sent: a lease counts from there, however late it arrives.

use std::time::Duration;

use rigbox_sys::clock::since_boot;

use crate::gateway::WatchEvent;
use crate::gateway::watch_event::Event;

impl WatchEvent {
    /// Creates an event that is sent now.
    pub fn now(sequence: u64, event: Event) -> Self {
        let sent_ms = u64::try_from(since_boot().as_millis()).unwrap_or(u64::MAX);
        Self { sequence, event: Some(event), sent_ms }
    }

    /// Returns the time since the event was sent, on the same machine.
    pub fn age(&self) -> Duration {
        since_boot().saturating_sub(Duration::from_millis(self.sent_ms))
    }
}
