//! Idle sessions, by a client that is small enough for many: our own transport, in this process. And a few of OpenSSH's through the bastion.

use std::net::SocketAddr;
use std::process::Child;
use std::time::Duration;

use anyhow::{Context, Result};
use futures_util::{StreamExt, TryStreamExt};
use rigbox_ssh::authentication::{self, USERAUTH};
use rigbox_ssh::connection::Connection;
use rigbox_ssh::transport::Transport;
use rigbox_ssh_keys::private_key::PrivateKey;
use rigbox_testkit::blocking::eventually;
use tokio::net::TcpStream;

use super::keys::{GATEWAY_SEED, USER_SEED};
use super::openssh::{OpenSsh, Way};
use crate::memory;

/// Sessions that are opened at once.
const CONCURRENT: usize = 8;
const JUMP_TIMEOUT: Duration = Duration::from_secs(60);
/// Processes of the bastion for a session: one that watches, and one of the user.
const PROCESSES: usize = 2;

/// Opens `count` sessions of the gateway at `address`. They end when dropped.
pub(super) async fn open(address: SocketAddr, count: usize) -> Result<Vec<Connection<TcpStream>>> {
    let sessions = futures_util::stream::iter(0..count).map(|_| log_in(address));
    sessions.buffer_unordered(CONCURRENT).try_collect().await
}

async fn log_in(address: SocketAddr) -> Result<Connection<TcpStream>> {
    let host_key = PrivateKey::ed25519(&GATEWAY_SEED)?.public();
    let stream = TcpStream::connect(address).await?;
    let mut connection = Connection::new(stream, Transport::client(host_key)?);
    connection.open().await?;
    connection.send(&authentication::service_request(USERAUTH)).await?;
    anyhow::ensure!(authentication::is_service_accept(&connection.receive().await?), "no log-ins");
    let session_id = connection.session_id().context("no key exchange")?;
    let key = PrivateKey::ed25519(&USER_SEED)?;
    let request = authentication::log_in_request(session_id, "workspace", &key)?;
    connection.send(&request).await?;
    anyhow::ensure!(authentication::is_success(&connection.receive().await?), "the log-in was refused");
    Ok(connection)
}

/// Returns the memory in kB that the bastion has for each of `count` sessions.
pub(super) fn memory_of_bastion(ssh: &OpenSsh, count: usize) -> Result<f64> {
    let clients = (0..count).map(|_| Ok(ssh.client(Way::ProxyJump, &["-N"], &[]).spawn()?));
    let clients = Clients(clients.collect::<Result<_>>()?);
    let sessions = eventually("all sessions of the bastion", JUMP_TIMEOUT, || {
        Ok(Some(ssh.bastion_sessions()?).filter(|processes| processes.len() == count * PROCESSES))
    })?;
    let all = sessions.iter().map(|pid| memory::pss_kb(*pid)).sum::<Result<u32>>()?;
    drop(clients);
    Ok(f64::from(all) / count as f64)
}

/// Clients, which are killed when dropped.
struct Clients(Vec<Child>);

impl Drop for Clients {
    fn drop(&mut self) {
        for client in &mut self.0 {
            // It may have ended already.
            let _ = client.kill();
            let _ = client.wait();
        }
    }
}
