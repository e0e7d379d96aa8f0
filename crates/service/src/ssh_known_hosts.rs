//! Where clients reach the SSH gateway, and the host keys by which they know it.

use std::sync::Arc;
use std::time::Duration;

use rigbox_ssh_keys::private_key::PrivateKey;
use rigbox_store::Error;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::ssh_gateway_keys;
use crate::ssh_log_ins::SshLogIns;

/// Port that clients take without being told.
const DEFAULT_PORT: u16 = 22;
/// Time for which the lines are kept: anybody may ask for them, and the keys hardly ever change.
const MAX_AGE: Duration = Duration::from_secs(5);

/// Lines as they were read last.
struct Kept {
    read: Instant,
    lines: Vec<String>,
}

/// Lines of `known_hosts` for the gateway.
#[derive(Clone)]
pub struct KnownHosts {
    log_ins: SshLogIns,
    /// Host, and the port unless it is the default one, as sshd(8) writes them.
    pattern: String,
    kept: Arc<Mutex<Option<Kept>>>,
}

impl KnownHosts {
    /// Creates the lines' source for a gateway at this address.
    pub fn new(log_ins: SshLogIns, host: &str, port: u16) -> Self {
        let pattern = if port == DEFAULT_PORT { host.to_owned() } else { format!("[{host}]:{port}") };
        Self { log_ins, pattern, kept: Arc::default() }
    }

    /// Returns the lines, the current key first.
    ///
    /// # Errors
    /// [`Error`]
    pub async fn lines(&self) -> Result<Vec<String>, Error> {
        let mut kept = self.kept.lock().await;
        if let Some(Kept { read, lines }) = &*kept
            && read.elapsed() < MAX_AGE
        {
            return Ok(lines.clone());
        }
        let lines = self.read().await?;
        *kept = Some(Kept { read: Instant::now(), lines: lines.clone() });
        Ok(lines)
    }

    async fn read(&self) -> Result<Vec<String>, Error> {
        let seeds = self.log_ins.host_key_seeds().await?;
        let line = |key: PrivateKey| format!("{} {}", self.pattern, key.public_line());
        seeds.iter().map(|seed| ssh_gateway_keys::key(seed).map(line)).collect()
    }
}
