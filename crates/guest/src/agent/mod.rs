//! The agent: serves the host over the VM's one byte stream for as long as the VM runs. One thread: with a reader and a writer
//! thread around the device a round trip took four times as long.

mod end;
mod exec;
mod files;
mod grow;
mod port;
mod ports;
mod secrets;
mod service;
mod terminal;

use std::time::Duration;

use anyhow::{Context, Result};
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use rigbox_proto::guest::guest_server::GuestServer;
use rigbox_proto::guest_stream;

use service::Agent;

/// How long to wait before the port is opened again after a session.
const REOPEN_AFTER: Duration = Duration::from_millis(20);

/// Serves sessions until the VM ends; returns only when the VM has no port to its host.
pub(crate) fn run() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let _growing = std::thread::Builder::new().name("grow".into()).spawn(grow::to_device)?;
    runtime.block_on(async {
        let path = port::find().context("no virtio-serial port to the host")?;
        let agent = Agent::new();
        loop {
            if let Err(error) = session(&path, agent.clone()).await {
                eprintln!("rigbox-agent: session: {error:#}");
            }
            tokio::time::sleep(REOPEN_AFTER).await;
        }
    })
}

async fn session(path: &std::path::Path, agent: Agent) -> Result<()> {
    // Opened anew for each session: that discards what the last one left in the queue.
    let mut port = port::open(path)?;
    match guest_stream::accept(&mut port).await {
        Ok(()) => {}
        // No host at the other end yet.
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(()),
        Err(error) => return Err(error.into()),
    }
    let service = GuestServer::new(agent)
        .max_decoding_message_size(guest_stream::MAX_MESSAGE_BYTES)
        .max_encoding_message_size(guest_stream::MAX_MESSAGE_BYTES);
    let result = http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(guest_stream::STREAM_WINDOW_BYTES)
        .initial_connection_window_size(guest_stream::CONNECTION_WINDOW_BYTES)
        .max_concurrent_streams(256)
        .serve_connection(TokioIo::new(port), TowerToHyperService::new(service))
        .await;
    // An invalid frame is how the next session announces itself, so this is the usual end and no error.
    let _ = result;
    Ok(())
}
