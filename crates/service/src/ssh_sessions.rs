//! End of sessions by SSH: a gateway tells that of each, and when the gateway itself is gone, its sessions end here. What is open is in the
//! database, so a control that was killed forgets none.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rigbox_core::ids::GatewayId;
use rigbox_store::{Error, Store};
use tokio::time::Instant;
use tracing::{info, warn};

/// Time after which a gateway that is not attached has no sessions any more: it ends them itself when its lease is over.
const ABSENCE_TIMEOUT: Duration = Duration::from_secs(5);
/// Interval at which gateways are looked for.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Reason that the audit log has for sessions that end here.
const GATEWAY_GONE: &str = "the SSH gateway has ended, bytes unknown";

/// Service for the end of sessions.
#[derive(Clone)]
pub struct SshSessions {
    store: Store,
    /// Attachments of each gateway. (One that reconnects may have two for a moment.)
    attached: Arc<Mutex<HashMap<GatewayId, usize>>>,
}

/// Attachment of a gateway, until it is dropped.
pub struct Attachment {
    sessions: SshSessions,
    gateway: GatewayId,
}

impl SshSessions {
    /// Creates the service.
    pub fn new(store: Store) -> Self {
        Self { store, attached: Arc::default() }
    }

    /// Notes that a gateway is there.
    #[must_use]
    pub fn attach(&self, gateway: GatewayId) -> Attachment {
        *self.attached().entry(gateway.clone()).or_default() += 1;
        Attachment { sessions: self.clone(), gateway }
    }

    /// Records the end of a session, with the bytes that have passed to the VM and from it. One that is not open has no end.
    ///
    /// # Errors
    /// [`Error`]
    pub async fn close(&self, session_id: &[u8], bytes: (u64, u64)) -> Result<(), Error> {
        let (to_vm, to_client) = bytes;
        let detail = format!("{to_vm} bytes in, {to_client} out");
        self.store.end_ssh_session(session_id, &detail, self.store.now()).await.map(drop)
    }

    /// Ends the sessions of gateways that are gone, for as long as it is polled.
    pub async fn run(&self) {
        let mut absent = HashMap::new();
        loop {
            tokio::time::sleep(CHECK_INTERVAL).await;
            if let Err(error) = self.check(&mut absent).await {
                warn!(%error, "failed to end the sessions of an SSH gateway that is gone");
            }
        }
    }

    /// `absent` has gateways with the time at which they were missed first.
    async fn check(&self, absent: &mut HashMap<GatewayId, Instant>) -> Result<(), Error> {
        let mut gateways = self.store.gateways_with_ssh_sessions().await?;
        gateways.retain(|gateway| !self.attached().contains_key(gateway));
        absent.retain(|gateway, _| gateways.contains(gateway));
        for gateway in gateways {
            let since = *absent.entry(gateway.clone()).or_insert_with(Instant::now);
            if since.elapsed() >= ABSENCE_TIMEOUT {
                let now = self.store.now();
                let sessions = self.store.end_ssh_sessions_of(&gateway, GATEWAY_GONE, now).await?;
                info!(%gateway, sessions, "ended the sessions of an SSH gateway that is gone");
            }
        }
        Ok(())
    }

    fn attached(&self) -> MutexGuard<'_, HashMap<GatewayId, usize>> {
        self.attached.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        let mut attached = self.sessions.attached();
        match attached.get_mut(&self.gateway) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(attached.remove(&self.gateway)),
        }
    }
}
