//! Threads of the workers, and the ticks that end what has timed out.

use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::thread::JoinHandle;

use rigbox_gateway::clock::{TICK_INTERVAL, unix_ms};
use rigbox_tls::Certificates;
use tokio::sync::watch;

use crate::accept::{self, ListenerKind};
use crate::decision::review;
use crate::error::Error;
use crate::memory::Trimmer;
use crate::state::Worker;

/// Number of ticks between checks of the pool, of memory, of certificates and of expired credentials.
const SLOW_TICKS: u32 = 4;

/// Starts the thread of a worker, with a runtime of its own, for the clients of `listeners`.
pub(crate) fn spawn(
    worker: Arc<Worker>,
    listeners: Vec<(TcpListener, ListenerKind)>,
    stopped: watch::Receiver<bool>,
) -> Result<JoinHandle<Result<(), String>>, Error> {
    let body = move || -> Result<(), String> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| error.to_string())?;
        runtime.block_on(async {
            let listeners = listeners.into_iter().map(|(listener, kind)| {
                let listener = tokio::net::TcpListener::from_std(listener)?;
                Ok(accept::serve(Arc::clone(&worker), listener, kind, stopped.clone()))
            });
            let listeners = listeners.collect::<io::Result<Vec<_>>>().map_err(|error| error.to_string())?;
            futures_util::future::join_all(listeners).await;
            Ok(())
        })
    };
    let thread = std::thread::Builder::new().name("edge".into()).spawn(body);
    thread.map_err(|error| Error::Thread(error.to_string()))
}

/// Advances the clock, ends what has been silent for too long, returns memory, and has expired credentials decided again.
pub(crate) async fn tick(workers: Vec<Arc<Worker>>, certificates: Option<Arc<Certificates>>) {
    let mut ticks = tokio::time::interval(TICK_INTERVAL);
    let mut count: u32 = 0;
    let mut trimmer = Trimmer::default();
    loop {
        ticks.tick().await;
        count = count.wrapping_add(1);
        let slow = count.is_multiple_of(SLOW_TICKS);
        let now = unix_ms();
        if let Some(certificates) = certificates.as_ref().filter(|_| slow) {
            certificates.reload_if_changed();
        }
        if let Some(shared) = workers.first() {
            shared.clock.tick();
            shared.connections.close_overdue();
            if slow {
                shared.control.attempts.remove_idle();
                trimmer.trim_after_many(&shared.connections);
            }
        }
        for worker in &workers {
            worker.grants.end_idle();
            if slow {
                worker.pool.close_idle();
                let expired = worker.grants.select(|grant| grant.is_expired(now));
                review::review(Arc::clone(&worker.control), expired);
            }
        }
    }
}
