//! The agent: serves the host over two byte streams for as long as the VM runs, so that deliveries and shutdowns never wait behind what
//! commands write. It has a single thread: with a reader and a writer thread around the device, a round trip took four times as long.

mod exec;
mod files;
mod grow;
mod listening_ports;
mod secrets;
mod service;
mod shutdown;
mod ssh;
mod system;
mod system_start;
mod terminal;
mod transport;

use anyhow::{Context, Result};
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use rigbox_proto::guest::guest_server::GuestServer;
use rigbox_proto::guest_stream;
use rigbox_sys::async_file::AsyncFile;

use service::Agent;
use transport::{Port, Stream};

/// Socket on which systemd tells that the system has started.
pub(crate) const NOTIFY_SOCKET: &str = "/run/rigbox/notify";

/// Serves sessions until the VM ends. Returns only if the VM has no port to its host.
pub(crate) fn run() -> Result<()> {
    raise_priority();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // Before the host can start a command, which would find less space. It takes milliseconds.
    grow::grow_root();
    runtime.block_on(async {
        let agent = Agent::new(system::watch().context(NOTIFY_SOCKET)?);
        let [one, two] = [Stream::Agent, Stream::Commands].map(|stream| serve(stream, agent.clone()));
        tokio::try_join!(one, two).map(drop)
    })
}

/// Serves the sessions on one stream.
async fn serve(stream: Stream, agent: Agent) -> Result<()> {
    let port = Port::open(stream).context("no stream to the host")?;
    port.serve(|port| session(port, agent.clone())).await.context("lost the stream to the host")
}

/// Gives the agent its nice value among all processes. Without it, the kernel shares the CPU between sessions evenly, whatever their
/// processes' nice values (sched(7), autogroups).
fn raise_priority() {
    // A kernel without autogroups goes by the nice value alone.
    let _ = std::fs::write("/proc/self/autogroup", crate::AGENT_NICE.to_string());
}

async fn session(mut port: AsyncFile, agent: Agent) -> std::io::Result<()> {
    match guest_stream::accept(&mut port).await {
        Ok(()) => {}
        // There is no host at the other end yet.
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(()),
        Err(error) => return Err(error),
    }
    let service = GuestServer::new(agent)
        .max_decoding_message_size(guest_stream::MAX_MESSAGE_BYTES)
        .max_encoding_message_size(guest_stream::MAX_MESSAGE_BYTES);
    let result = http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(guest_stream::STREAM_WINDOW_BYTES)
        .initial_connection_window_size(guest_stream::CONNECTION_WINDOW_BYTES)
        .max_concurrent_streams(guest_stream::MAX_CONCURRENT_STREAMS)
        .serve_connection(TokioIo::new(port), TowerToHyperService::new(service))
        .await;
    // A new session starts with an invalid frame, so an error is the usual end.
    let _ = result;
    Ok(())
}
