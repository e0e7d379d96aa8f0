//! OpenSSH of the benchmark `ssh`: the server behind both gateways, the bastion, and the client with its two ways to the server.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};
use rigbox_ssh_keys::private_key::PrivateKey;

use super::keys::{self, BOOT_SEED};
use crate::host;

/// Folder where a server is unpacked; `cargo xtask bench` sets it. Else the installed one is used.
const SERVER_FOLDER: &str = "RIGBOX_SSHD";
/// Library folder of Debian's packages, below that folder.
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";
/// Address of the server behind both gateways.
pub(super) const TARGET: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 22);
const BASTION: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 2022);
/// The only key exchange: what both have. OpenSSH's default among themselves takes longer.
const KEY_EXCHANGE: &str = "curve25519-sha256";

/// Way to the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// The SSH gateway.
    Gateway,
    /// `ssh -J` and a bastion.
    ProxyJump,
}

/// Running servers with their client. The servers end with the namespaces.
pub(super) struct OpenSsh {
    config: PathBuf,
    host_key: Vec<u8>,
    bastion: Child,
}

impl OpenSsh {
    /// Starts both servers, and waits until they listen. `gateway` is the address of the SSH gateway.
    pub(super) fn start(folder: &Path, cipher: &str, gateway: SocketAddr) -> Result<Self> {
        let user = keys::generate(folder, "user")?;
        let boot_key = PrivateKey::ed25519(&BOOT_SEED)?.public_line();
        let authorized = format!("{}{boot_key}\n", keys::public_line(&user)?);
        fs::write(folder.join("authorized_keys"), authorized)?;
        let host_key = keys::public(&start_server(folder, "target", TARGET, cipher)?.1)?;
        let (bastion, _) = start_server(folder, "bastion", BASTION, cipher)?;
        let config = folder.join("ssh_config");
        fs::write(&config, client_config(&user, cipher, gateway))?;
        Ok(Self { config, host_key, bastion })
    }

    /// Returns the host key of the server behind both gateways.
    pub(super) fn host_key(&self) -> &[u8] {
        &self.host_key
    }

    /// Returns the processes of the bastion but the one that listens.
    pub(super) fn bastion_sessions(&self) -> Result<Vec<u32>> {
        let mut sessions = Vec::new();
        for monitor in host::children(self.bastion.id())? {
            sessions.extend(host::children(monitor)?);
            sessions.push(monitor);
        }
        Ok(sessions)
    }

    /// Returns a client with `options` that runs `command` on the server. Its input and output are pipes.
    pub(super) fn client(&self, way: Way, options: &[&str], command: &[&str]) -> Command {
        let mut client = Command::new("ssh");
        client.arg("-F").arg(&self.config).args(options);
        match way {
            Way::Gateway => client.arg("gateway"),
            Way::ProxyJump => client.args(["-J", "bastion", "target"]),
        };
        // It runs the client for the bastion by the shell.
        client.args(command).env("SHELL", "/bin/sh").stdin(Stdio::piped()).stdout(Stdio::piped());
        client
    }
}

/// Starts a server in the foreground. Returns it with the path of its host key.
fn start_server(folder: &Path, name: &str, address: SocketAddr, cipher: &str) -> Result<(Child, PathBuf)> {
    let host_key = keys::generate(folder, &format!("{name}_host_key"))?;
    let config = folder.join(format!("{name}_config"));
    let text = format!(
        "ListenAddress {address}\nHostKey {host_key}\nAuthorizedKeysFile {folder}/authorized_keys\n\
         Ciphers {cipher}\nKexAlgorithms {KEY_EXCHANGE}\nLogLevel FATAL\nPidFile none\nUsePAM no\n\
         AuthenticationMethods publickey\nStrictModes no\nUseDNS no\nPrintMotd no\nPrintLastLog no\n\
         MaxStartups 10000\nMaxSessions 10000\n",
        host_key = host_key.display(),
        folder = folder.display()
    );
    fs::write(&config, text)?;
    let root = std::env::var_os(SERVER_FOLDER).map(PathBuf::from).unwrap_or_else(|| PathBuf::from("/"));
    // It runs itself again for each client, which takes a whole path.
    let mut command = Command::new(root.join("usr/sbin/sshd"));
    command.args(["-D", "-e", "-f"]).arg(&config).stdin(Stdio::null());
    command.env("LD_LIBRARY_PATH", root.join(LIBRARIES));
    let server = command.spawn().context("cannot run sshd; use `cargo xtask bench ssh`")?;
    host::wait_listening(address, name)?;
    Ok((server, host_key))
}

fn client_config(user: &Path, cipher: &str, gateway: SocketAddr) -> String {
    // The newest clients hide when keys are pressed, which takes longer than what is measured.
    let mut config = format!(
        "IgnoreUnknown ObscureKeystrokeTiming\nObscureKeystrokeTiming no\n\
         User developer\nIdentityFile {user}\nIdentitiesOnly yes\nBatchMode yes\nLogLevel ERROR\n\
         StrictHostKeyChecking no\nUserKnownHostsFile /dev/null\nGlobalKnownHostsFile /dev/null\n\
         Ciphers {cipher}\nKexAlgorithms {KEY_EXCHANGE}\n",
        user = user.display()
    );
    for (name, address) in [("gateway", gateway), ("target", TARGET), ("bastion", BASTION)] {
        let (ip, port) = (address.ip(), address.port());
        config.push_str(&format!("Host {name}\n HostName {ip}\n Port {port}\n"));
    }
    config
}
