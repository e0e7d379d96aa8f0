//! Our proxy in a process of its own. It asks control, and takes connections from what plays the node.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use rigbox_ai::{Config, Limits, Peer};
use rigbox_testkit::blocking::eventually;

use super::addresses::NODE;
use super::certificate;
use super::process::{self, Role};
use super::stream_client::StreamClient;
use crate::role::{self, Process};

/// Time until calls are answered.
const READY_TIMEOUT: Duration = Duration::from_secs(20);

/// Socket on which it takes connections of VMs.
pub(super) fn bridge_socket(folder: &Path) -> PathBuf {
    folder.join("ai-bridge.sock")
}

/// Runs the role until standard input ends.
pub(super) fn serve(folder: &Path) -> Result<()> {
    let uid = rustix::process::geteuid().as_raw();
    let bound = rigbox_ai::bind(Config {
        bridge: Peer { socket: bridge_socket(folder), uid },
        control_socket: folder.join("ai.sock"),
        // Nobody listens there, and no call here is for the API.
        api_socket: folder.join("bridge.sock"),
        // Nobody asks there for tests of keys.
        operator: Peer { socket: folder.join("ai-operator.sock"), uid },
        extra_authorities: Some(certificate::path(folder)),
        proxy: None,
        dns: Vec::new(),
        blocked_networks: Vec::new(),
        limits: Limits::default(),
    })?;
    Ok(role::runtime()?.block_on(bound.run(role::ended()))?)
}

/// Starts the role, and waits until it answers a call. Control and what plays the node run.
pub(super) fn start(folder: &Path) -> Result<Process> {
    let process = process::start(Role::Proxy, folder)?;
    eventually("the AI proxy answers a call", READY_TIMEOUT, || {
        StreamClient::open(NODE)?.first_token().map(Some)
    })?;
    Ok(process)
}
