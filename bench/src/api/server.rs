//! Servers of the benchmark `api`: this program again, with only the control role.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Result;
use rigbox_core::ids::UserId;
use serde::{Deserialize, Serialize};

use super::database::Database;
use crate::control_config::control_config;
use crate::role::{self, Process};

/// Parameters of a server.
#[derive(Serialize, Deserialize)]
struct Parameters {
    folder: PathBuf,
    listen: SocketAddr,
    /// User whose workspaces are listed without authorization.
    bare: Option<String>,
}

const READY_TIMEOUT: Duration = Duration::from_secs(60);

/// Runs the control role until standard input ends.
pub(crate) fn serve() -> Result<()> {
    let Parameters { folder, listen, bare } = role::parameters()?;
    let config = control_config(&folder, listen);
    let (runtime, end) = (role::runtime()?, role::ended());
    match bare {
        None => runtime.block_on(rigbox_control::run(config, end))?,
        Some(user) => runtime.block_on(rigbox_control::run_bare(config, user.parse::<UserId>()?, end))?,
    }
    Ok(())
}

/// Running server. Ends when dropped, and with this process.
pub(super) struct Server {
    name: &'static str,
    process: Process,
    port: u16,
}

impl Server {
    pub(super) fn start(name: &'static str, database: &Database, bare: bool) -> Result<Self> {
        // Another process may take the port until the start, which then fails.
        let listen = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let bare = bare.then(|| database.user.clone());
        let parameters = Parameters { folder: database.folder.clone(), listen, bare };
        let mut server =
            Self { name, process: Process::start("serve-api", &parameters)?, port: listen.port() };
        let deadline = Instant::now() + READY_TIMEOUT;
        while TcpStream::connect(listen).is_err() {
            let ended = server.process.ending()?;
            anyhow::ensure!(
                ended.is_none() && Instant::now() < deadline,
                "{name} does not respond: {ended:?}"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(server)
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    pub(super) fn pid(&self) -> u32 {
        self.process.pid()
    }

    pub(super) fn name(&self) -> &'static str {
        self.name
    }
}
