//! Servers of the benchmark `api`: this program again, with only the control role.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rigbox_core::ids::UserId;
use rigbox_sys::spawn::{ChildSetup, configure_child};
use serde::{Deserialize, Serialize};

use super::database::Database;
use crate::control_config::control_config;
use crate::role;

/// First line of a server's standard input, whose end stops the server.
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
    child: Child,
    port: u16,
}

impl Server {
    pub(super) fn start(name: &'static str, database: &Database, bare: bool) -> Result<Self> {
        // Another process may take the port until the start, which then fails.
        let listen = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let bare = bare.then(|| database.user.clone());
        let parameters =
            serde_json::to_string(&Parameters { folder: database.folder.clone(), listen, bare })?;
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("serve-api").stdin(Stdio::piped()).env("RUST_LOG", "error");
        // Ctrl-C is for the benchmark.
        configure_child(&mut command, ChildSetup { new_session: true, ..ChildSetup::default() });
        let mut server = Self { name, child: command.spawn()?, port: listen.port() };
        // Stays open, because its end stops the server.
        let input = server.child.stdin.as_mut().context("the server's standard input")?;
        writeln!(input, "{parameters}")?;
        let deadline = Instant::now() + READY_TIMEOUT;
        while TcpStream::connect(listen).is_err() {
            let ended = server.child.try_wait()?;
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
        self.child.id()
    }

    pub(super) fn name(&self) -> &'static str {
        self.name
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
