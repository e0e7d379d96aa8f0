//! The edge role as a process of its own: this program again, with nothing else in it.

use std::io::{BufRead, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use prost::Message;
use rigbox_edge::{Config, Limits};
use rigbox_proto::dial::{DialRequest, DialResponse};
use rigbox_sys::fdpass;
use rigbox_sys::spawn::{ChildSetup, configure_child};
use serde::{Deserialize, Serialize};

use super::table;

/// What it is told on its standard input, which it then reads until it may end.
#[derive(Serialize, Deserialize)]
struct Order {
    folder: PathBuf,
    listen: SocketAddr,
}

/// As many as nginx has.
pub(super) const WORKERS: usize = 2;
const READY_WITHIN: Duration = Duration::from_secs(20);

/// The edge role until standard input ends.
pub(crate) fn serve() -> Result<()> {
    let mut order = String::new();
    std::io::stdin().lock().read_line(&mut order)?;
    let Order { folder, listen } = serde_json::from_str(&order)?;
    let bound = rigbox_edge::bind(Config {
        listen,
        domain: "rigbox.localhost".to_owned(),
        gateway_socket: folder.join("gateway.sock"),
        dial_socket: folder.join("dial.sock"),
        cores: NonZeroUsize::new(WORKERS),
        limits: Limits::default(),
        tls: None,
    })?;
    // As `rigboxd` runs it.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let end = async {
        let _ = tokio::task::spawn_blocking(|| std::io::stdin().lock().read_to_end(&mut Vec::new())).await;
    };
    Ok(runtime.block_on(bound.run(end))?)
}

/// It runs until this value ends.
pub(super) struct Edge {
    child: Child,
    port: u16,
    _neighbours: tokio::runtime::Runtime,
}

impl Edge {
    pub(super) fn start(folder: &Path, http: u16, websockets: u16) -> Result<Self> {
        let neighbours =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        {
            let _inside = neighbours.enter();
            table::serve(&folder.join("gateway.sock"))?;
        }
        dial(&folder.join("dial.sock"), http, websockets)?;
        let listen = free_port()?;
        let order = serde_json::to_string(&Order { folder: folder.to_owned(), listen })?;
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("serve-edge").stdin(Stdio::piped()).env("RUST_LOG", "error");
        // A Ctrl-C is for the bench.
        configure_child(&mut command, ChildSetup { new_session: true, ..ChildSetup::default() });
        let mut edge = Self { child: command.spawn()?, port: listen.port(), _neighbours: neighbours };
        let input = edge.child.stdin.as_mut().context("edge's standard input")?;
        writeln!(input, "{order}")?;
        wait_for(listen, "edge")?;
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
        // One that has ended already is fine.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Free now; whoever takes it meanwhile makes the start fail.
pub(super) fn free_port() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

pub(super) fn wait_for(address: SocketAddr, what: &str) -> Result<()> {
    let deadline = Instant::now() + READY_WITHIN;
    while TcpStream::connect(address).is_err() {
        anyhow::ensure!(Instant::now() < deadline, "{what} does not answer at {address}");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// The node's socket for gateways: connects to this host's own ports.
fn dial(socket: &Path, http: u16, websockets: u16) -> Result<()> {
    let listener = fdpass::listen(socket)?;
    std::thread::Builder::new().name("dial".into()).spawn(move || {
        while let Ok(peer) = rustix::net::accept(&listener) {
            let answer = || -> Result<()> {
                let (message, _) = fdpass::receive(&peer, 1024)?;
                let request = DialRequest::decode(message.as_slice())?;
                let port = if request.port == table::HTTP_PORT { http } else { websockets };
                let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
                fdpass::send(&peer, &DialResponse::default().encode_to_vec(), &[stream.as_fd()])?;
                Ok(())
            };
            // Whoever asked sees the end of the socket.
            drop(answer());
        }
    })?;
    Ok(())
}
