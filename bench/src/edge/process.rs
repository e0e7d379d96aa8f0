//! Edge role in a process of its own: this program again, with only the role.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use rigbox_edge::{Config, Limits};
use rigbox_testkit::dial::Node;
use rigbox_testkit::gateway::{BOOT, Gateway, WORKSPACE};
use serde::{Deserialize, Serialize};

use super::apps;
use crate::nginx::WORKERS;
use crate::role::Process;
use crate::{host, role};

/// Parameters of the process.
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
    process: Process,
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
        let process = Process::start("serve-edge", &Parameters { folder: folder.to_owned(), listen })?;
        host::wait_listening(listen, "edge")?;
        Ok(Self { process, port: listen.port(), _control: control })
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    pub(super) fn pid(&self) -> u32 {
        self.process.pid()
    }
}

/// Returns a free port. Another process may take it until the start, which then fails.
pub(super) fn free_port() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}
