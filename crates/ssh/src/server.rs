//! The role: its listening socket, its clients, and the ticks that end what has timed out.

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::os::unix::net::UnixListener as UnixStdListener;
use std::sync::Arc;
use std::time::Duration;

use rigbox_core::ids::GatewayId;
use rigbox_gateway::active_grants::EndReason;
use rigbox_gateway::clock::TICK_INTERVAL;
use rigbox_shares::AddressBlock;
use tokio::net::{TcpListener, UnixListener};

use crate::attachment;
use crate::config::Config;
use crate::control::Control;
use crate::review;
use crate::session;
use crate::socket::{self, ACCEPT_RETRY_DELAY};
use crate::state::Gateway;
use crate::streams;

/// Delay before control is asked again for the host keys.
const HOST_KEYS_RETRY_DELAY: Duration = Duration::from_millis(500);
/// Interval at which control is asked whether they have changed.
const HOST_KEYS_INTERVAL: Duration = Duration::from_secs(5);
/// Time that sessions get to end when the role stops.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);
const DRAIN_INTERVAL: Duration = Duration::from_millis(20);
/// Number of ticks between sweeps of what is remembered about clients.
const SLOW_TICKS: u32 = 40;

/// Failure of the role.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address cannot be bound.
    #[error("failed to listen on {address}: {source}")]
    Listen {
        /// Address.
        address: SocketAddr,
        /// Reason.
        source: io::Error,
    },
    /// The socket for control is unavailable.
    #[error("failed to open the socket for control: {0}")]
    Streams(io::Error),
    /// The system has no random numbers.
    #[error("the system's random number generator failed: {0}")]
    Random(getrandom::Error),
}

/// The role with its socket, which may need root; [`Bound::run`] does not.
#[derive(Debug)]
pub struct Bound {
    config: Config,
    listener: StdListener,
    streams: Option<UnixStdListener>,
}

/// Binds the sockets for clients and for control.
///
/// # Errors
/// [`Error`]
pub fn bind(mut config: Config) -> Result<Bound, Error> {
    let opened = socket::listen(config.listen).and_then(|listener| Ok((listener.local_addr()?, listener)));
    let (address, listener) = opened.map_err(|source| Error::Listen { address: config.listen, source })?;
    config.listen = address;
    let streams = config.streams.as_ref().map(|streams| streams::bind(&streams.socket, streams.owner));
    Ok(Bound { config, listener, streams: streams.transpose().map_err(Error::Streams)? })
}

impl Bound {
    /// Returns the address that clients connect to.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.config.listen
    }

    /// Returns the socket that listens for clients.
    #[must_use]
    pub fn listener(&self) -> &StdListener {
        &self.listener
    }

    /// Serves until `shutdown` completes.
    ///
    /// # Errors
    /// [`Error`]
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<(), Error> {
        let address = self.config.listen;
        let listener = TcpListener::from_std(self.listener);
        let listener = listener.map_err(|source| Error::Listen { address, source })?;
        let streams = self.streams.map(UnixListener::from_std).transpose().map_err(Error::Streams)?;
        let mut own = [0; 5];
        getrandom::fill(&mut own).map_err(Error::Random)?;
        tokio::pin!(shutdown);
        let gateway = tokio::select! {
            gateway = start(self.config, GatewayId::from_random(own)) => gateway,
            () = &mut shutdown => return Ok(()),
        };
        let attached = tokio::spawn(attachment::keep(Arc::clone(&gateway)));
        let lease = tokio::spawn(review::follow_lease(Arc::clone(&gateway)));
        tokio::select! {
            () = serve(&gateway, listener, streams) => {}
            () = shutdown => {}
        }
        // Their clients are told why, and control that they have ended.
        gateway.grants.end_all(EndReason::ShutDown);
        let ended = async {
            while !gateway.connections.is_empty() {
                tokio::time::sleep(DRAIN_INTERVAL).await;
            }
        };
        // Those that do not read in time are cut off.
        let _ = tokio::time::timeout(DRAIN_TIMEOUT, ended).await;
        lease.abort();
        attached.abort();
        Ok(())
    }
}

/// Serves clients for as long as it is polled.
async fn serve(gateway: &Arc<Gateway>, listener: TcpListener, streams: Option<UnixListener>) {
    let from_control = async {
        if let Some(listener) = streams {
            streams::accept(gateway, listener).await;
        }
    };
    tokio::join!(accept(gateway, listener), from_control, tick(gateway), follow_host_keys(gateway));
}

/// Waits for control, which has the host keys. Clients wait in the queue of the socket meanwhile.
async fn start(config: Config, own: GatewayId) -> Arc<Gateway> {
    let control = Control::new(&config.control_socket, own);
    loop {
        match control.host_keys().await {
            Ok(keys) => return Gateway::new(config, control, keys),
            Err(error) => tracing::info!(%error, "waiting for the host keys"),
        }
        tokio::time::sleep(HOST_KEYS_RETRY_DELAY).await;
    }
}

/// Follows the rotation of host keys. Connections keep those that they began with.
async fn follow_host_keys(gateway: &Gateway) {
    loop {
        tokio::time::sleep(HOST_KEYS_INTERVAL).await;
        match gateway.control.host_keys().await {
            Ok(keys) => gateway.host_keys.set(keys),
            Err(error) => tracing::debug!(%error, "host keys not read again"),
        }
    }
}

async fn accept(gateway: &Arc<Gateway>, listener: TcpListener) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                let client = peer.ip().to_canonical();
                // One too many is closed at once; the client may retry.
                if let Ok(place) = gateway.connections.open(AddressBlock::from(client)).await {
                    socket::prepare(&stream);
                    session::spawn(gateway, stream, client, place);
                }
            }
            Err(error) => {
                tracing::warn!(%error, "failed to accept a connection");
                tokio::time::sleep(ACCEPT_RETRY_DELAY).await;
            }
        }
    }
}

/// Advances the clock, and ends log-ins that take too long.
async fn tick(gateway: &Gateway) {
    let mut ticks = tokio::time::interval(TICK_INTERVAL);
    let mut count: u32 = 0;
    loop {
        ticks.tick().await;
        count = count.wrapping_add(1);
        gateway.clock.tick();
        gateway.connections.close_overdue();
        if count.is_multiple_of(SLOW_TICKS) {
            gateway.by_address.remove_idle();
            gateway.by_name.remove_idle();
        }
    }
}
