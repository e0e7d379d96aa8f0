//! `edge`: the role that the world's browsers and programs reach apps through. It decides by what control says who may see an app, and
//! has the node dial into the VM; it holds no database and no key of the platform.
//!
//! The way of a request: [`serve`] takes the connection and [`strict`] reads its bytes, [`handle`] decides by [`gate`] with what is
//! [`known`], [`forward`] sends it on by way of [`pool`] and [`dial`]. Each core does all of this alone; they share what is known.

mod address;
mod answer;
mod body;
mod control;
mod cookies;
mod dial;
mod exchange;
mod facts;
mod forward;
mod gate;
mod handle;
mod headers;
mod host;
mod known;
mod line;
mod own;
mod pool;
mod relay;
mod remembered;
mod route;
mod serve;
mod strict;
mod tls;
mod watch;
mod websocket;

use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use tokio::sync::{Semaphore, watch as latest};

use control::Control;
use dial::Dial;
use exchange::Exchanges;
use line::{Clock, Lines, Patience, TICK};
use pool::Pool;
use serve::Entrance;
use tls::Certificates;
pub use tls::TlsError;
use watch::AssertionKeys;

/// Connections that wait to be taken.
const BACKLOG: i32 = 4096;
/// Enough for the default of [`Limits::connections`].
const DESCRIPTORS: u64 = 131_072;
/// Those that are not a client's connection or the one to its app.
const DESCRIPTORS_BESIDE: usize = 512;
/// How many ticks it is until waiting connections to apps and ended credentials are looked at.
const SLOW: u32 = 4;

/// Where the role finds its neighbours, and what it serves.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where clients come in.
    pub listen: SocketAddr,
    /// Apps are at `<app>.<domain>`.
    pub domain: String,
    /// Control's socket for gateways.
    pub gateway_socket: PathBuf,
    /// The node's socket for gateways.
    pub dial_socket: PathBuf,
    /// Cores to use; without it, all.
    pub cores: Option<NonZeroUsize>,
    /// What clients and apps are held to.
    pub limits: Limits,
    /// With it, `listen` only sends clients there.
    pub tls: Option<Tls>,
}

/// TLS with clients.
#[derive(Debug, Clone)]
pub struct Tls {
    /// Where clients come in.
    pub listen: SocketAddr,
    /// Certificates and keys in PEM: `0.crt`, `0.key`, `1.crt` and so on. Looked at again every few seconds.
    pub folder: PathBuf,
}

/// What clients and apps are held to.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections of clients, of all cores together.
    pub connections: usize,
    /// From the first byte of a request's head to its last.
    pub head: Duration,
    /// Of a client's connection between two requests.
    pub between: Duration,
    /// From dialling an app to the connection.
    pub connect: Duration,
    /// From the last byte of a request that moved to the head of its answer.
    pub answer: Duration,
    /// From one byte of an answer to the next.
    pub idle: Duration,
    /// From one byte of a WebSocket to the next, in either direction.
    pub relay: Duration,
    /// How long a request waits for control to be heard.
    pub control: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 40_000,
            head: Duration::from_secs(10),
            between: Duration::from_secs(75),
            connect: Duration::from_secs(5),
            answer: Duration::from_secs(120),
            idle: Duration::from_secs(600),
            relay: Duration::from_secs(4 * 3600),
            control: Duration::from_secs(5),
        }
    }
}

/// Why the role ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address for clients cannot be had.
    #[error("cannot listen on {address}: {source}. See what else uses it, or set apps.listen")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// TLS cannot be had.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The TLS library refuses its settings.
    #[error("TLS: {0}")]
    TlsSettings(String),
    /// A core's thread cannot be made, or ended.
    #[error("a thread of the role failed: {0}")]
    Thread(String),
}

/// One core's part: connections, exchanges and waiting connections to apps are its own.
#[derive(Debug)]
struct Core {
    control: Arc<Control>,
    assertion_keys: Arc<AssertionKeys>,
    clock: Arc<Clock>,
    lines: Arc<Lines>,
    exchanges: Arc<Exchanges>,
    pool: Pool,
    limits: Limits,
    /// With a dot in front.
    domain: Arc<str>,
}

impl Core {
    fn is_below_domain(&self, host: &str) -> bool {
        host.ends_with(&*self.domain)
    }
}

/// The role with its sockets, which may need root; [`Bound::run`] does not.
#[derive(Debug)]
pub struct Bound {
    config: Config,
    listeners: Vec<TcpListener>,
    /// As many, if there is TLS.
    tls_listeners: Vec<TcpListener>,
    descriptors: usize,
}

/// Listens for clients.
///
/// # Errors
/// [`Error::Listen`]
pub fn bind(mut config: Config) -> Result<Bound, Error> {
    let cores =
        config.cores.or_else(|| std::thread::available_parallelism().ok()).map_or(1, NonZeroUsize::get);
    let listeners = listen_all(&mut config.listen, cores)?;
    let tls_listeners = match &mut config.tls {
        Some(tls) => listen_all(&mut tls.listen, cores)?,
        None => Vec::new(),
    };
    Ok(Bound { config, listeners, tls_listeners, descriptors: descriptors() })
}

/// One socket for each core. The first may choose the port.
fn listen_all(address: &mut SocketAddr, cores: usize) -> Result<Vec<TcpListener>, Error> {
    let mut listeners = Vec::with_capacity(cores);
    for _ in 0..cores {
        let made = listen(*address).and_then(|listener| Ok((listener.local_addr()?, listener)));
        let (chosen, listener) = made.map_err(|source| Error::Listen { address: *address, source })?;
        *address = chosen;
        listeners.push(listener);
    }
    Ok(listeners)
}

/// A socket that shares its address with those of the other cores.
fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    sockopt::set_socket_reuseport(&socket, true)?;
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(TcpListener::from(socket))
}

impl Bound {
    /// Where clients come in.
    pub fn address(&self) -> SocketAddr {
        self.config.listen
    }

    /// Where clients come in that speak TLS.
    pub fn tls_address(&self) -> Option<SocketAddr> {
        self.config.tls.as_ref().map(|tls| tls.listen)
    }

    /// Serves until `shutdown`.
    ///
    /// # Errors
    /// [`Error::Thread`], [`Error::Tls`]
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<(), Error> {
        let certificates = match &self.config.tls {
            Some(tls) => Some(Certificates::load(&tls.folder)?),
            None => None,
        };
        let (plain, tls) = entrances(&self.config, certificates.as_ref())?;
        let cores = self.cores();
        let (stop, stopped) = latest::channel(false);
        let mut tls_listeners = self.tls_listeners.into_iter();
        let threads = cores
            .iter()
            .zip(self.listeners)
            .map(|(core, listener)| {
                let mut doors = vec![(listener, plain.clone())];
                doors.extend(tls_listeners.next().zip(tls.clone()));
                thread(Arc::clone(core), doors, stopped.clone())
            })
            .collect::<Result<Vec<_>, _>>()?;
        let watching = tokio::spawn(watch::watch(cores.clone()));
        let ticking = tokio::spawn(tick(cores, certificates));
        shutdown.await;
        stop.send_replace(true);
        let ended = tokio::task::spawn_blocking(move || {
            threads.into_iter().try_for_each(|thread| thread.join().map_err(|_| "it panicked".to_owned())?)
        });
        let ended = ended.await.map_err(|error| error.to_string()).and_then(|ended| ended);
        watching.abort();
        ticking.abort();
        ended.map_err(Error::Thread)
    }

    fn cores(&self) -> Vec<Arc<Core>> {
        let (clock, limits) = (Clock::new(), self.config.limits);
        let control = Arc::new(Control::new(&self.config.gateway_socket));
        let assertion_keys = Arc::new(AssertionKeys::new("{\"keys\":[]}".to_owned()));
        let most = limits.connections.min(self.descriptors.saturating_sub(DESCRIPTORS_BESIDE) / 2);
        let room = Arc::new(Semaphore::new(most.min(Semaphore::MAX_PERMITS)));
        let domain: Arc<str> = format!(".{}", self.config.domain).into();
        let patience = Patience { head: limits.head, between: limits.between };
        let core = |_| {
            let dial = Dial { socket: self.config.dial_socket.clone(), patience: limits.connect };
            Arc::new(Core {
                control: Arc::clone(&control),
                assertion_keys: Arc::clone(&assertion_keys),
                clock: Arc::clone(&clock),
                lines: Lines::new(Arc::clone(&clock), patience, Arc::clone(&room)),
                exchanges: Exchanges::new(Arc::clone(&clock)),
                pool: Pool::new(Arc::clone(&clock), dial),
                limits,
                domain: Arc::clone(&domain),
            })
        };
        self.listeners.iter().map(core).collect()
    }
}

/// What stands at the two ports.
fn entrances(
    config: &Config,
    certificates: Option<&Arc<Certificates>>,
) -> Result<(Entrance, Option<Entrance>), Error> {
    let (Some(certificates), Some(tls)) = (certificates, &config.tls) else {
        return Ok((Entrance::Plain, None));
    };
    let acceptor = tls::acceptor(Arc::clone(certificates));
    let acceptor = acceptor.map_err(|error| Error::TlsSettings(error.to_string()))?;
    Ok((Entrance::ToTls(tls.listen.port()), Some(Entrance::Tls(acceptor))))
}

/// As many descriptors as this process can have, which it takes: root may raise the limit.
fn descriptors() -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let all = |limit: u64| Rlimit { current: Some(limit), maximum: Some(limit) };
    let wanted = maximum.map_or(DESCRIPTORS, |maximum| maximum.max(DESCRIPTORS));
    let taken = setrlimit(Resource::Nofile, all(wanted)).map(|()| wanted);
    let taken = taken.or_else(|_| {
        let maximum = maximum.unwrap_or(wanted);
        setrlimit(Resource::Nofile, all(maximum)).map(|()| maximum)
    });
    taken.ok().and_then(|taken| usize::try_from(taken).ok()).unwrap_or(1024)
}

type Joined = std::thread::JoinHandle<Result<(), String>>;

/// One core at work: `doors` are where its clients come in.
fn thread(
    core: Arc<Core>,
    doors: Vec<(TcpListener, Entrance)>,
    stopped: latest::Receiver<bool>,
) -> Result<Joined, Error> {
    let body = move || -> Result<(), String> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| error.to_string())?;
        runtime.block_on(async {
            let doors = doors.into_iter().map(|(listener, entrance)| {
                let listener = tokio::net::TcpListener::from_std(listener)?;
                Ok(serve::serve(Arc::clone(&core), listener, entrance, stopped.clone()))
            });
            let doors = doors.collect::<io::Result<Vec<_>>>().map_err(|error| error.to_string())?;
            futures_util::future::join_all(doors).await;
            Ok(())
        })
    };
    let thread = std::thread::Builder::new().name("edge".into()).spawn(body);
    thread.map_err(|error| Error::Thread(error.to_string()))
}

/// Lets time pass: what has been silent for too long ends, and who was let in for a time is looked at again.
async fn tick(cores: Vec<Arc<Core>>, certificates: Option<Arc<Certificates>>) {
    let mut ticks = tokio::time::interval(TICK);
    let mut count: u32 = 0;
    loop {
        ticks.tick().await;
        count = count.wrapping_add(1);
        let slow = count.is_multiple_of(SLOW);
        let now = control::now_ms();
        if let Some(certificates) = certificates.as_ref().filter(|_| slow) {
            certificates.look_again();
        }
        for core in &cores {
            core.clock.tick();
            core.lines.close_overdue();
            core.exchanges.end_silent();
            if slow {
                core.pool.close_old();
                let over = core.exchanges.pick(|exchange| exchange.until_ms <= now);
                watch::review(Arc::clone(core), over);
            }
        }
    }
}
