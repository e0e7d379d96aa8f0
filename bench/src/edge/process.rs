//! Edge role in a process of its own: this program again, with only the role.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use rigbox_edge::{Config, Limits};
use rigbox_sys::spawn::{ChildSetup, configure_child};
use rigbox_testkit::dial::Node;
use rigbox_testkit::gateway::{BOOT, Gateway, WORKSPACE};
use serde::{Deserialize, Serialize};

use super::apps;
use crate::nginx::WORKERS;
use crate::{host, role};

/// First line of its standard input, whose end stops it.
#[derive(Serialize, Deserialize)]
struct Parameters {
    folder: PathBuf,
    listen: SocketAddr,
}

const LEASE: Duration = Duration::from_secs(10);

/// Runs the edge role until standard input ends.
pub(crate) fn serve() -> Result<()> {
    let Parameters { folder, listen } = role::parameters()?;
    let bound = rigbox_edge::bind(Config {
        listen,
        domain: "rigbox.localhost".to_owned(),
        gateway_socket: folder.join("gateway.sock"),
        dial_socket: folder.join("dial.sock"),
        workers: NonZeroUsize::new(WORKERS),
        limits: Limits::default(),
        tls: None,
    })?;
    Ok(role::runtime()?.block_on(bound.run(role::ended()))?)
}

/// Running edge role. Ends when dropped.
pub(super) struct Edge {
    child: Child,
    port: u16,
    _control: tokio::runtime::Runtime,
}

impl Edge {
    pub(super) fn start(folder: &Path, http: u16, websockets: u16) -> Result<Self> {
        let control = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        {
            let _inside = control.enter();
            apps::add_to(&Gateway::start(&folder.join("gateway.sock"), LEASE));
        }
        let node = Node::start(&folder.join("dial.sock"));
        for (port, address) in [(apps::HTTP_PORT, http), (apps::SOCKETS_PORT, websockets)] {
            node.listens(WORKSPACE, BOOT, port, SocketAddr::from((Ipv4Addr::LOCALHOST, address)));
        }
        let listen = free_port()?;
        let parameters = serde_json::to_string(&Parameters { folder: folder.to_owned(), listen })?;
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("serve-edge").stdin(Stdio::piped()).env("RUST_LOG", "error");
        // Ctrl-C is for the benchmark.
        configure_child(&mut command, ChildSetup { new_session: true, ..ChildSetup::default() });
        let mut edge = Self { child: command.spawn()?, port: listen.port(), _control: control };
        let input = edge.child.stdin.as_mut().context("edge's standard input")?;
        writeln!(input, "{parameters}")?;
        host::wait_listening(listen, "edge")?;
        Ok(edge)
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns a free port. Another process may take it until the start, which then fails.
pub(super) fn free_port() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}
