//! SSH gateway in a process of its own: this program again, with only the role.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::Result;
use rigbox_ssh::{Config, Limits};
use rigbox_testkit::dial::Node;
use rigbox_testkit::gateway::{BOOT, WORKSPACE};
use serde::{Deserialize, Serialize};

use super::control;
use super::openssh::TARGET;
use crate::role::Process;
use crate::{host, role};

/// Address of the gateway.
pub(super) const LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 7022);
/// Port of every workspace's SSH server.
const SSH_PORT: u32 = 22;
/// Maximum number of connections, of all kinds: enough.
const MAX_CONNECTIONS: usize = 100_000;

/// Parameters of the process.
#[derive(Serialize, Deserialize)]
struct Parameters {
    folder: PathBuf,
}

fn control_socket(folder: &Path) -> PathBuf {
    folder.join("control.sock")
}

fn dial_socket(folder: &Path) -> PathBuf {
    folder.join("dial.sock")
}

/// Runs the role until standard input ends.
pub(crate) fn serve() -> Result<()> {
    let Parameters { folder } = role::parameters()?;
    let bound = rigbox_ssh::bind(Config {
        listen: LISTEN,
        control_socket: control_socket(&folder),
        dial_socket: dial_socket(&folder),
        streams: None,
        limits: Limits {
            connections: MAX_CONNECTIONS,
            connections_per_address: MAX_CONNECTIONS,
            sessions_per_workspace: MAX_CONNECTIONS,
            ..Limits::default()
        },
    })?;
    Ok(role::runtime()?.block_on(bound.run(role::ended()))?)
}

/// Running SSH gateway, with what plays control and the node. Ends with the namespaces.
pub(super) struct Gateway {
    process: Process,
    folder: PathBuf,
    _control: tokio::runtime::Runtime,
}

impl Gateway {
    /// Starts it in front of [`TARGET`], whose host key this is.
    pub(super) fn start(folder: &Path, host_key: &[u8]) -> Result<Self> {
        let control = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        {
            let _inside = control.enter();
            control::start(&control_socket(folder), host_key.to_vec())?;
        }
        Node::start(&dial_socket(folder)).listens(WORKSPACE, BOOT, SSH_PORT, TARGET);
        Ok(Self { process: start(folder)?, folder: folder.to_owned(), _control: control })
    }

    /// Starts it again, in a process that has not used any memory yet.
    pub(super) fn restart(&mut self) -> Result<()> {
        // It has the address.
        self.process.end();
        self.process = start(&self.folder)?;
        Ok(())
    }

    pub(super) fn pid(&self) -> u32 {
        self.process.pid()
    }
}

/// Starts the role, and waits until it listens.
fn start(folder: &Path) -> Result<Process> {
    let process = Process::start("serve-ssh", &Parameters { folder: folder.to_owned() })?;
    host::wait_listening(LISTEN, "the SSH gateway")?;
    Ok(process)
}
