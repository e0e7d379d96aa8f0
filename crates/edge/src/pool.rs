//! Connections to apps that wait for their next request, per core. A connection leads to one boot of one VM and is used for no other.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rigbox_core::app_access::AppPermit;

use crate::body::Up;
use crate::dial::{Dial, DialError};
use crate::known::Change;
use crate::line::Clock;
use crate::route::Upstream;

/// Of one app.
const MOST: usize = 64;
/// Of all apps.
const MOST_OF_ALL: usize = 4_096;
const IDLE: Duration = Duration::from_secs(60);
/// After this long an app may be about to close one.
pub(crate) const FRESH_MS: u64 = 1_000;
/// Largest head of an answer, bytes.
const LARGEST_HEAD: usize = 64 * 1024;

/// What is read at once: larger pieces leave the processor's caches before they are written.
const BUFFER: usize = 64 * 1024;

/// Sends requests on a connection that speaks HTTP/1.1.
pub(crate) type Sender = http1::SendRequest<Up>;
/// Sends requests on one that speaks HTTP/2, which many share.
pub(crate) type Shared = http2::SendRequest<Up>;

/// See the module.
#[derive(Debug)]
pub(crate) struct Pool {
    idle: Mutex<Idle>,
    shared: Mutex<HashMap<Arc<Upstream>, Shared>>,
    clock: Arc<Clock>,
    dial: Dial,
}

#[derive(Debug, Default)]
struct Idle {
    by_upstream: HashMap<Arc<Upstream>, Vec<(Sender, u64)>>,
    count: usize,
}

/// Why an app cannot be spoken with.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error("the app does not speak HTTP: {0}")]
    Http(#[from] hyper::Error),
}

impl Pool {
    pub(crate) fn new(clock: Arc<Clock>, dial: Dial) -> Self {
        Self { idle: Mutex::default(), shared: Mutex::default(), clock, dial }
    }

    /// One that waits, and whether it has waited for so long that the app may be about to close it.
    pub(crate) async fn take(&self, permit: &AppPermit, upstream: &Upstream) -> Option<(Sender, bool)> {
        if permit.workspace().as_str() != upstream.workspace {
            return None;
        }
        loop {
            let (mut sender, since) = {
                let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
                let taken = idle.by_upstream.get_mut(upstream)?.pop()?;
                idle.count = idle.count.saturating_sub(1);
                taken
            };
            // It is put back as soon as the last answer's end was read, which its own task may not have noticed.
            if !sender.is_closed() && sender.ready().await.is_ok() {
                return Some((sender, self.clock.now().saturating_sub(since) > FRESH_MS));
            }
        }
    }

    /// A fresh one.
    pub(crate) async fn connect(
        &self,
        permit: &AppPermit,
        upstream: &Upstream,
    ) -> Result<Sender, ConnectError> {
        let stream = self.dial.dial(permit, upstream).await?;
        let (sender, connection) = http1::Builder::new()
            .max_header_size(LARGEST_HEAD)
            .max_buf_size(BUFFER)
            .handshake::<_, Up>(TokioIo::new(stream))
            .await?;
        // Its errors are those of its requests.
        tokio::spawn(async move { drop(connection.with_upgrades().await) });
        Ok(sender)
    }

    /// One that speaks HTTP/2.
    pub(crate) async fn connect_shared(
        &self,
        permit: &AppPermit,
        upstream: &Arc<Upstream>,
    ) -> Result<Shared, ConnectError> {
        if permit.workspace().as_str() == upstream.workspace {
            let shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(sender) = shared.get(upstream).filter(|sender| !sender.is_closed()) {
                return Ok(sender.clone());
            }
        }
        let stream = self.dial.dial(permit, upstream).await?;
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .max_header_list_size(LARGEST_HEAD as u32)
            .initial_stream_window_size(256 * 1024)
            .initial_connection_window_size(1024 * 1024)
            .handshake::<_, Up>(TokioIo::new(stream))
            .await?;
        tokio::spawn(async move { drop(connection.await) });
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        shared.retain(|_, sender| !sender.is_closed());
        if shared.len() < MOST_OF_ALL {
            shared.insert(Arc::clone(upstream), sender.clone());
        }
        Ok(sender)
    }

    /// Lets one wait, unless too many do.
    pub(crate) fn put(&self, upstream: &Arc<Upstream>, sender: Sender) {
        if sender.is_closed() {
            return;
        }
        let now = self.clock.now();
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.count >= MOST_OF_ALL {
            return;
        }
        let added = match idle.by_upstream.get_mut(upstream) {
            Some(waiting) if waiting.len() >= MOST => false,
            Some(waiting) => {
                waiting.push((sender, now));
                true
            }
            None => {
                idle.by_upstream.insert(Arc::clone(upstream), vec![(sender, now)]);
                true
            }
        };
        idle.count += usize::from(added);
    }

    /// Closes those that `change` may concern: another boot is another machine.
    pub(crate) fn forget(&self, change: &Change) {
        match change {
            Change::Grants => {}
            Change::Workspace(id) => self.retain(|upstream, _, _| upstream.workspace != id.as_str()),
            Change::Everything => self.retain(|_, _, _| false),
        }
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        match change {
            Change::Grants => {}
            Change::Workspace(id) => shared.retain(|upstream, _| upstream.workspace != id.as_str()),
            Change::Everything => shared.clear(),
        }
    }

    /// Closes those that have waited for too long.
    pub(crate) fn close_old(&self) {
        let now = self.clock.now();
        let limit = u64::try_from(IDLE.as_millis()).unwrap_or(u64::MAX);
        self.retain(|_, sender, since| !sender.is_closed() && now.saturating_sub(since) < limit);
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        shared.retain(|_, sender| !sender.is_closed());
    }

    fn retain(&self, keep: impl Fn(&Upstream, &Sender, u64) -> bool) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.by_upstream.retain(|upstream, waiting| {
            waiting.retain(|(sender, since)| keep(upstream, sender, *since));
            !waiting.is_empty()
        });
        idle.count = idle.by_upstream.values().map(Vec::len).sum();
    }
}
