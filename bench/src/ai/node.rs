//! The node's part: every connection to its address is one of a VM, of each workspace in turn, and is handed over to the proxy.

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;

use anyhow::Result;
use rigbox_proto::handover::Sender;

/// Starts it, for as long as this process lives.
pub(super) fn start(listen: SocketAddr, proxy: PathBuf, workspaces: Vec<String>) -> Result<()> {
    let listener = TcpListener::bind(listen)?;
    std::thread::Builder::new().name("node".into()).spawn(move || {
        let sender = Sender::default();
        for (stream, workspace) in listener.incoming().zip(workspaces.iter().cycle()) {
            let Ok(stream) = stream else { continue };
            // One that nobody takes is closed, as by a node whose proxy is away.
            let _ = sender.send(&proxy, workspace, &stream.into());
        }
    })?;
    Ok(())
}
