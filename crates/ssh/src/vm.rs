//! Connection to the SSH server of a VM: dialed until it listens, verified by the host key that the VM's agent tells, and logged in to with
//! the key of this boot.

use std::time::Duration;

use rigbox_core::dialing::SshPermit;
use rigbox_core::ids::WorkspaceId;
use rigbox_gateway::dial::{DialError, Upstream};
use rigbox_shares::Place;
use rigbox_ssh_keys::private_key::PrivateKey;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::authentication::{self, USERAUTH};
use crate::connection::{Connection, Error};
use crate::control::Decision;
use crate::socket;
use crate::state::Gateway;
use crate::transport::Transport;

/// User of the VM.
const USER: &str = "developer";
const SSH_PORT: u16 = 22;
/// Time after which the client is told that its VM's server is waited for.
const PATIENCE: Duration = Duration::from_secs(1);
const RETRY_DELAY: Duration = Duration::from_millis(100);

/// Failure to connect a client to its VM.
pub(crate) enum ConnectError {
    /// The client's connection has failed.
    Client(Error),
    /// The VM's server cannot be reached. With a text for the client.
    Vm(String),
}

/// Failure of one attempt.
#[derive(Debug, thiserror::Error)]
enum AttemptError {
    #[error("its agent does not answer: {0}")]
    Agent(String),
    #[error("it has no host key yet")]
    NoHostKey,
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error(transparent)]
    Connection(#[from] Error),
    #[error("it refuses the key of the gateway")]
    Refused,
    #[error("it did not answer in time")]
    TimedOut,
}

/// Connects to the VM's server, and tells the client if that takes long. A client that hangs up ends it.
pub(crate) async fn connect<S: AsyncRead + AsyncWrite + Unpin>(
    gateway: &Gateway,
    client: &mut Connection<S>,
    decision: &Decision,
    permit: &SshPermit,
    boot_key: &PrivateKey,
) -> Result<Connection<TcpStream>, ConnectError> {
    let _place = wait_for_turn(gateway, client, decision).await?;
    let mut waiting = Waiting::new(client, "Waiting for the SSH server of the workspace.\r\n");
    let deadline = Instant::now() + gateway.limits.vm;
    loop {
        let attempt = attempt(gateway, decision, permit, boot_key);
        let attempt = waiting.until(tokio::time::timeout_at(deadline, attempt)).await?;
        let error = match attempt.unwrap_or(Err(AttemptError::TimedOut)) {
            Ok(connection) => return Ok(connection),
            Err(error) => error,
        };
        if Instant::now() >= deadline || matches!(error, AttemptError::Dial(DialError::NoVm)) {
            tracing::info!(%error, workspace = %decision.workspace, "no connection to the SSH server of a VM");
            return Err(ConnectError::Vm(unreachable_text(decision, &error)));
        }
        waiting.until(tokio::time::sleep(RETRY_DELAY)).await?;
    }
}

/// Waits until few others are being logged in to the VM, and tells the client if that takes long.
async fn wait_for_turn<S: AsyncRead + AsyncWrite + Unpin>(
    gateway: &Gateway,
    client: &mut Connection<S>,
    decision: &Decision,
) -> Result<Place<WorkspaceId>, ConnectError> {
    let turn = gateway.vm_log_ins.wait(decision.workspace.clone());
    let turn = tokio::time::timeout(gateway.limits.log_in, turn);
    let mut waiting = Waiting::new(client, "Waiting for other log-ins to the workspace.\r\n");
    waiting.until(turn).await?.map_err(|_| {
        ConnectError::Vm("Too many clients log in to this workspace at once. Try again.".to_owned())
    })
}

/// Client that waits for its VM.
struct Waiting<'a, S> {
    client: &'a mut Connection<S>,
    text: &'static str,
    /// Time at which it is told, unless it has been.
    tell_at: Instant,
    has_been_told: bool,
}

impl<'a, S: AsyncRead + AsyncWrite + Unpin> Waiting<'a, S> {
    fn new(client: &'a mut Connection<S>, text: &'static str) -> Self {
        Self { client, text, tell_at: Instant::now() + PATIENCE, has_been_told: false }
    }

    /// Waits for `work`. A client that is gone needs nothing of it.
    async fn until<T>(&mut self, work: impl Future<Output = T>) -> Result<T, ConnectError> {
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return Ok(done),
                error = self.client.ended() => return Err(ConnectError::Client(error)),
                () = tokio::time::sleep_until(self.tell_at), if !self.has_been_told => {}
            }
            self.has_been_told = true;
            self.client.send(&authentication::banner(self.text)).await.map_err(ConnectError::Client)?;
        }
    }
}

async fn attempt(
    gateway: &Gateway,
    decision: &Decision,
    permit: &SshPermit,
    boot_key: &PrivateKey,
) -> Result<Connection<TcpStream>, AttemptError> {
    let prepared = gateway.control.prepare_vm(decision).await;
    let host_keys = prepared.map_err(|error| AttemptError::Agent(error.to_string()))?;
    let host_key = host_keys.into_iter().next().ok_or(AttemptError::NoHostKey)?;
    let upstream =
        Upstream { workspace: decision.workspace.to_string(), boot: decision.boot.clone(), port: SSH_PORT };
    let stream = gateway.dialer.dial(permit, &upstream).await?;
    socket::prepare(&stream);
    let mut server = Connection::new(stream, Transport::client(host_key).map_err(Error::from)?);
    server.open().await?;
    log_in(&mut server, boot_key).await?;
    Ok(server)
}

async fn log_in(server: &mut Connection<TcpStream>, boot_key: &PrivateKey) -> Result<(), AttemptError> {
    server.send(&authentication::service_request(USERAUTH)).await?;
    if !authentication::is_service_accept(&server.receive().await?) {
        return Err(AttemptError::Connection(Error::Unexpected));
    }
    let session_id = server.session_id().ok_or(Error::Unexpected)?;
    let request = authentication::log_in_request(session_id, USER, boot_key);
    let request = request.map_err(|_| Error::from(crate::transport::Error::Crypto))?;
    server.send(&request).await?;
    loop {
        let message = server.receive().await?;
        if authentication::is_success(&message) {
            server.logged_in();
            return Ok(());
        }
        if !authentication::is_banner(&message) {
            return Err(AttemptError::Refused);
        }
    }
}

fn unreachable_text(decision: &Decision, error: &AttemptError) -> String {
    match error {
        AttemptError::Dial(DialError::NoVm) => "The workspace has stopped.".to_owned(),
        AttemptError::TimedOut => format!(
            "The SSH server of this workspace did not answer in time. If the workspace is not just busy, look at the server by \
             `rig exec {} -- systemctl status ssh`.",
            decision.workspace
        ),
        _ => format!(
            "The SSH server of this workspace cannot be used ({error}). Look at it by `rig exec {} -- systemctl status ssh`.",
            decision.workspace
        ),
    }
}
