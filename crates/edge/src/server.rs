//! Start and end of the role: sockets, workers, and the background tasks beside them.

use std::future::Future;
use std::net::{SocketAddr, TcpListener};
use std::num::NonZeroUsize;
use std::sync::Arc;

use rigbox_gateway::active_grants::ActiveGrants;
use rigbox_gateway::clock::Clock;
use rigbox_gateway::connections::{ConnectionTimeouts, Connections};
use rigbox_gateway::dial::Dialer;
use rigbox_shares::{Bounds, Shares};
use rigbox_tls::Certificates;
use tokio::sync::watch;

use crate::accept::ListenerKind;
use crate::config::Config;
use crate::decision::control::Control;
use crate::decision::review;
use crate::error::Error;
use crate::inbound::listen::{listen_all, raise_descriptor_limit};
use crate::state::{AssertionKeys, Worker};
use crate::upstream::pool::Pool;
use crate::worker;

/// Descriptors that are neither a client's connection nor the one to its app.
const RESERVED_DESCRIPTORS: usize = 512;

/// The role with its sockets, which may need root; [`Bound::run`] does not.
#[derive(Debug)]
pub struct Bound {
    config: Config,
    listeners: Vec<TcpListener>,
    /// As many as `listeners`, if there is TLS.
    tls_listeners: Vec<TcpListener>,
    descriptors: usize,
}

/// Binds the sockets for clients.
///
/// # Errors
/// [`Error::Listen`]
pub fn bind(mut config: Config) -> Result<Bound, Error> {
    let workers =
        config.workers.or_else(|| std::thread::available_parallelism().ok()).map_or(1, NonZeroUsize::get);
    let listeners = listen_all(&mut config.listen, workers)?;
    let tls_listeners = match &mut config.tls {
        Some(tls) => listen_all(&mut tls.listen, workers)?,
        None => Vec::new(),
    };
    Ok(Bound { config, listeners, tls_listeners, descriptors: raise_descriptor_limit() })
}

impl Bound {
    /// Returns the address that clients connect to.
    pub fn address(&self) -> SocketAddr {
        self.config.listen
    }

    /// Returns the address that clients connect to with TLS.
    pub fn tls_address(&self) -> Option<SocketAddr> {
        self.config.tls.as_ref().map(|tls| tls.listen)
    }

    /// Returns the sockets that listen for clients.
    pub fn listeners(&self) -> impl Iterator<Item = &TcpListener> {
        self.listeners.iter().chain(&self.tls_listeners)
    }

    /// Serves until `shutdown` completes.
    ///
    /// # Errors
    /// [`Error::Thread`], [`Error::Tls`]
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<(), Error> {
        let certificates = match &self.config.tls {
            Some(tls) => Some(Certificates::load(&tls.folder)?),
            None => None,
        };
        let (plain, tls) = listener_kinds(&self.config, certificates.as_ref())?;
        let workers = self.workers();
        let (stop, stopped) = watch::channel(false);
        let mut tls_listeners = self.tls_listeners.into_iter();
        let threads = workers
            .iter()
            .zip(self.listeners)
            .map(|(worker, listener)| {
                let mut listeners = vec![(listener, plain.clone())];
                listeners.extend(tls_listeners.next().zip(tls.clone()));
                worker::spawn(Arc::clone(worker), listeners, stopped.clone())
            })
            .collect::<Result<Vec<_>, _>>()?;
        let lease = tokio::spawn(review::follow_lease(workers.clone()));
        let ticks = tokio::spawn(worker::tick(workers, certificates));
        shutdown.await;
        stop.send_replace(true);
        let ended = tokio::task::spawn_blocking(move || {
            threads.into_iter().try_for_each(|thread| thread.join().map_err(|_| "it panicked".to_owned())?)
        });
        let ended = ended.await.map_err(|error| error.to_string()).and_then(|ended| ended);
        lease.abort();
        ticks.abort();
        ended.map_err(Error::Thread)
    }

    fn workers(&self) -> Vec<Arc<Worker>> {
        let (clock, limits) = (Clock::new(), self.config.limits);
        let control = Arc::new(Control::new(&self.config.gateway_socket));
        let assertion_keys = Arc::new(AssertionKeys::new());
        // Each client's connection may need one to its app.
        let max = limits.connections.min(self.descriptors.saturating_sub(RESERVED_DESCRIPTORS) / 2);
        // Connections of clients, per IPv4 address or IPv6 /64: 40,000, or half of the descriptors, and 4,000.
        let bounds = Bounds { total: max, per_key: limits.connections_per_address };
        // WebSockets, per workspace: as many as connections, and 12,000.
        let websockets = Shares::new(Bounds { total: usize::MAX, per_key: limits.websockets_per_workspace });
        let domain: Arc<str> = format!(".{}", self.config.domain).into();
        let timeouts = ConnectionTimeouts { head: limits.head, keep_alive: limits.keep_alive };
        let connections = Connections::new(Arc::clone(&clock), timeouts, bounds);
        let worker = |_| {
            let dialer = Dialer { socket: self.config.dial_socket.clone(), timeout: limits.connect };
            Arc::new(Worker {
                control: Arc::clone(&control),
                assertion_keys: Arc::clone(&assertion_keys),
                clock: Arc::clone(&clock),
                connections: Arc::clone(&connections),
                grants: ActiveGrants::new(Arc::clone(&clock)),
                pool: Pool::new(Arc::clone(&clock), dialer),
                limits,
                domain: Arc::clone(&domain),
                websockets: websockets.clone(),
            })
        };
        self.listeners.iter().map(worker).collect()
    }
}

/// Returns the kinds of the plain and the TLS listeners.
fn listener_kinds(
    config: &Config,
    certificates: Option<&Arc<Certificates>>,
) -> Result<(ListenerKind, Option<ListenerKind>), Error> {
    let (Some(certificates), Some(tls)) = (certificates, &config.tls) else {
        return Ok((ListenerKind::Plain, None));
    };
    let acceptor = rigbox_tls::acceptor(Arc::clone(certificates), &["h2", "http/1.1"]);
    let acceptor = acceptor.map_err(|error| Error::TlsSettings(error.to_string()))?;
    Ok((ListenerKind::RedirectToTls(tls.listen.port()), Some(ListenerKind::Tls(acceptor))))
}
