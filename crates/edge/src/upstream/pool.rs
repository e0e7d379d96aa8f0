//! Pool of idle connections to apps, one per worker. A connection leads to one boot of one VM, and is used
//! for no other.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rigbox_core::app_access::AppPermit;

use crate::upstream::request_body::RequestBody;
use rigbox_gateway::clock::Clock;
use rigbox_gateway::dial::{DialError, Dialer, Upstream};
use rigbox_gateway::epochs::Change;

/// Maximum number of idle connections to one app.
const MAX_IDLE_PER_UPSTREAM: usize = 64;
/// Maximum number of idle connections to all apps.
const MAX_IDLE_TOTAL: usize = 4_096;
/// Idle time after which a connection is closed. Common servers close theirs after 5 s.
const IDLE_TIMEOUT: Duration = Duration::from_secs(4);
/// Idle time after which an app may be about to close a connection. The most impatient of the common servers do after 2 s.
pub(crate) const FRESH_FOR: Duration = Duration::from_secs(1);
/// Maximum size of a response's head in bytes.
const MAX_HEAD_BYTES: usize = 64 * 1024;
/// Maximum number of fields of a response's head.
const MAX_FIELDS: usize = 256;

/// Read size in bytes. Larger pieces leave the CPU's caches before they are written.
const READ_BUFFER_BYTES: usize = 64 * 1024;

/// Sender of requests on an HTTP/1.1 connection.
pub(crate) type Sender = http1::SendRequest<RequestBody>;
/// Sender of requests on an HTTP/2 connection, which many share.
pub(crate) type Shared = http2::SendRequest<RequestBody>;

/// Pool of connections.
#[derive(Debug)]
pub(crate) struct Pool {
    idle: Mutex<Idle>,
    shared: Mutex<HashMap<Arc<Upstream>, Shared>>,
    clock: Arc<Clock>,
    dialer: Dialer,
}

#[derive(Debug, Default)]
struct Idle {
    by_upstream: HashMap<Arc<Upstream>, Vec<(Sender, u64)>>,
    count: usize,
}

/// Error of connecting to an app.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error("the app does not speak HTTP: {0}")]
    Http(#[from] hyper::Error),
}

impl Pool {
    pub(crate) fn new(clock: Arc<Clock>, dialer: Dialer) -> Self {
        Self { idle: Mutex::default(), shared: Mutex::default(), clock, dialer }
    }

    /// Takes a connection that has been idle for at most `max_idle`.
    pub(crate) async fn take(
        &self,
        permit: &AppPermit,
        upstream: &Upstream,
        max_idle: Duration,
    ) -> Option<Sender> {
        if permit.workspace().as_str() != upstream.workspace {
            return None;
        }
        // The runtime looks at the sockets first, and the tasks of the connections that an app has closed run before this one goes on.
        tokio::task::yield_now().await;
        let now = self.clock.now();
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let Idle { by_upstream, count } = &mut *idle;
        let waiting = by_upstream.get_mut(upstream)?;
        loop {
            let idle = Duration::from_millis(now.saturating_sub(waiting.last()?.1));
            if idle > max_idle.min(IDLE_TIMEOUT) {
                // The others have been idle for longer.
                return None;
            }
            let (sender, _) = waiting.pop()?;
            *count = count.saturating_sub(1);
            if sender.is_ready() {
                return Some(sender);
            }
        }
    }

    /// Opens a new HTTP/1.1 connection.
    pub(crate) async fn connect(
        &self,
        permit: &AppPermit,
        upstream: &Upstream,
    ) -> Result<Sender, ConnectError> {
        let stream = self.dialer.dial(permit, upstream).await?;
        let (sender, connection) = http1::Builder::new()
            .max_header_size(MAX_HEAD_BYTES)
            .max_headers(MAX_FIELDS)
            .max_buf_size(READ_BUFFER_BYTES)
            .handshake::<_, RequestBody>(TokioIo::new(stream))
            .await?;
        // Its errors are those of its requests.
        tokio::spawn(async move { drop(connection.with_upgrades().await) });
        Ok(sender)
    }

    /// Returns a shared HTTP/2 connection, opening it if necessary.
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
        let stream = self.dialer.dial(permit, upstream).await?;
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .max_header_list_size(MAX_HEAD_BYTES as u32)
            .initial_stream_window_size(256 * 1024)
            .initial_connection_window_size(1024 * 1024)
            .handshake::<_, RequestBody>(TokioIo::new(stream))
            .await?;
        tokio::spawn(async move { drop(connection.await) });
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        shared.retain(|_, sender| !sender.is_closed());
        if shared.len() < MAX_IDLE_TOTAL {
            shared.insert(Arc::clone(upstream), sender.clone());
        }
        Ok(sender)
    }

    /// Returns a connection to the pool, unless that is full. A connection is ready once its request and its response have been passed on
    /// whole: on any other, the next request would wait for the rest of the last one's body.
    pub(crate) fn put(&self, upstream: &Arc<Upstream>, sender: Sender) {
        if !sender.is_ready() {
            return;
        }
        let now = self.clock.now();
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.count >= MAX_IDLE_TOTAL {
            return;
        }
        let added = match idle.by_upstream.get_mut(upstream) {
            Some(waiting) if waiting.len() >= MAX_IDLE_PER_UPSTREAM => false,
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

    /// Closes the connections that `change` may affect: another boot is another machine.
    pub(crate) fn invalidate(&self, change: &Change) {
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

    /// Closes the connections that have been idle for too long.
    pub(crate) fn close_idle(&self) {
        let now = self.clock.now();
        let limit = u64::try_from(IDLE_TIMEOUT.as_millis()).unwrap_or(u64::MAX);
        self.retain(|_, sender, since| sender.is_ready() && now.saturating_sub(since) < limit);
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
