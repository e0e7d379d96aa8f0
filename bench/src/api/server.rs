//! The servers of the bench `api`: this program again, as a process with nothing but the control role in it.

use std::io::{BufRead, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rigbox_control::Config;
use rigbox_core::ids::UserId;
use rigbox_core::plans::Plans;
use rigbox_sys::spawn::{ChildSetup, configure_child};
use serde::{Deserialize, Serialize};

use super::database::Database;

/// What a server is told on its standard input, which it then reads until it may end.
#[derive(Serialize, Deserialize)]
struct Order {
    folder: PathBuf,
    listen: SocketAddr,
    /// Whose workspaces it lists without asking who asks.
    bare: Option<String>,
}

/// As the control role of `rigboxd`.
const THREADS: usize = 2;
const READY_WITHIN: Duration = Duration::from_secs(60);

/// The control role until standard input ends.
pub(crate) fn serve() -> Result<()> {
    let mut order = String::new();
    std::io::stdin().lock().read_line(&mut order)?;
    let Order { folder, listen, bare } = serde_json::from_str(&order)?;
    let config = config(&folder, listen);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(THREADS).enable_all().build()?;
    let end = async {
        let _ = tokio::task::spawn_blocking(|| std::io::stdin().lock().read_to_end(&mut Vec::new())).await;
    };
    match bare {
        None => runtime.block_on(rigbox_control::run(config, end))?,
        Some(user) => runtime.block_on(rigbox_control::run_bare(config, user.parse::<UserId>()?, end))?,
    }
    Ok(())
}

/// The control role of the database in `folder`.
pub(super) fn config(folder: &Path, listen: SocketAddr) -> Config {
    Config {
        database: folder.join("rigbox.db"),
        token_key: folder.join("token.key"),
        master_key: rigbox_control::KeySource::File(folder.join("master.key")),
        api_listen: listen,
        public_api_url: format!("http://{listen}"),
        console_url: format!("http://console.localhost:{}", listen.port()),
        mail: None,
        // Nobody is there, and none of this asks them.
        node_socket: folder.join("node.sock"),
        guestio_socket: folder.join("guestio.sock"),
        dns: vec![],
        apps_url: "http://rigbox.localhost:7080".to_owned(),
        bridge: None,
        gateways: None,
        timeouts: rigbox_control::Timeouts::default(),
        plans: Plans::default(),
    }
}

/// A server that runs; it ends with this value, and with this program.
pub(super) struct Server {
    name: &'static str,
    child: Child,
    port: u16,
}

impl Server {
    pub(super) fn start(name: &'static str, database: &Database, bare: bool) -> Result<Self> {
        // Free now; whoever takes it meanwhile makes the start fail.
        let listen = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let bare = bare.then(|| database.user.clone());
        let order = serde_json::to_string(&Order { folder: database.folder.clone(), listen, bare })?;
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("serve-api").stdin(Stdio::piped()).env("RUST_LOG", "error");
        // A Ctrl-C is for the bench.
        configure_child(&mut command, ChildSetup { new_session: true, ..ChildSetup::default() });
        let mut server = Self { name, child: command.spawn()?, port: listen.port() };
        // Kept open: its end is the server's.
        let input = server.child.stdin.as_mut().context("the server's standard input")?;
        writeln!(input, "{order}")?;
        let deadline = Instant::now() + READY_WITHIN;
        while TcpStream::connect(listen).is_err() {
            let ended = server.child.try_wait()?;
            anyhow::ensure!(
                ended.is_none() && Instant::now() < deadline,
                "{name} does not answer: {ended:?}"
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
        // One that has ended already is fine.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
