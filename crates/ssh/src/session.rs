//! One client: its log-in, the connection to its VM, and the relay between them until either side ends it or the permission is gone.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use rigbox_core::dialing::SshPermit;
use rigbox_gateway::active_grants::{ActiveGrant, EndReason};
use rigbox_gateway::connections::{BusyGuard, ConnectionGuard};
use rigbox_ssh_keys::private_key::PrivateKey;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::authentication;
use crate::connection::{Connection, Error};
use crate::control::{Decision, Session};
use crate::disconnect::{BY_APPLICATION, TOO_MANY_CONNECTIONS};
use crate::host_keys::HostKeys;
use crate::log_in;
use crate::log_in_end::{Admission, LogInEnd};
use crate::relay::{Passed, relay};
use crate::session_record::SessionRecord;
use crate::start;
use crate::state::Gateway;
use crate::transport::Transport;
use crate::vm;

/// Idle time after which a session ends: sessions may be idle, and a peer that is gone is found by probes.
const NEVER: Duration = Duration::from_secs(u32::MAX as u64);

/// Serves a client in a task of its own, which ends with its place.
pub(crate) fn spawn<S>(gateway: &Arc<Gateway>, stream: S, client: IpAddr, place: ConnectionGuard)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (gateway, connection) = (Arc::clone(gateway), Arc::clone(place.connection()));
    let task = tokio::spawn(async move {
        if let Err(error) = serve(&gateway, stream, client, Arc::new(place)).await {
            tracing::debug!(%client, %error, "connection ended");
        }
    });
    connection.set_task(task.abort_handle());
}

/// Serves one client until its connection ends.
async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    gateway: &Arc<Gateway>,
    stream: S,
    client: IpAddr,
    place: Arc<ConnectionGuard>,
) -> Result<(), Error> {
    let mut connection = Connection::new(stream, Transport::server(gateway.host_keys.get())?);
    connection.open().await?;
    let mut record = SessionRecord::new(gateway, connection.session_id().ok_or(Error::Unexpected)?, client);
    let end = log_in::accept(gateway, &mut connection, client, &mut record).await?;
    let workspace = match &end {
        LogInEnd::Decided(Admission::Granted(session)) => session.decision.workspace.clone(),
        LogInEnd::Decided(Admission::Ended { reason, text }) => {
            return connection.disconnect(*reason, text).await;
        }
        LogInEnd::Starting(starting) => starting.workspace.clone(),
    };
    // From here on, the workspace's start or the session's grant bounds the connection, and no longer the time of a log-in.
    let (Some(busy), Ok(_session_place)) = (BusyGuard::new(&place), gateway.sessions.take(workspace)) else {
        let text = "This workspace has too many SSH sessions. End one, then try again.";
        return connection.disconnect(TOO_MANY_CONNECTIONS, text).await;
    };
    let admission = match end {
        LogInEnd::Decided(admission) => admission,
        LogInEnd::Starting(starting) => start::wait(&mut connection, starting, &mut record).await?,
    };
    let Session { decision, permit, boot_key } = match admission {
        Admission::Granted(session) => session,
        Admission::Ended { reason, text } => return connection.disconnect(reason, &text).await,
    };
    let grant = gateway.grants.start(decision, i64::MAX, busy, NEVER);
    let result = run(gateway, connection, &grant, &permit, &boot_key, &mut record.passed).await;
    drop(grant);
    record.close().await;
    result
}

/// Runs a session. Returns how it ended.
async fn run<S: AsyncRead + AsyncWrite + Unpin>(
    gateway: &Arc<Gateway>,
    mut client: Connection<S>,
    grant: &ActiveGrant<Decision>,
    permit: &SshPermit,
    boot_key: &PrivateKey,
    passed: &mut Passed,
) -> Result<(), Error> {
    // What has changed since control's answer, before the session could hear of it.
    let granted = gateway.control.review(grant.decision()).await;
    let connected = match granted {
        Ok(()) => {
            let connected = vm::connect(gateway, &mut client, grant.decision(), permit, boot_key);
            grant.run_until_ended(connected).await
        }
        Err(reason) => Err(reason),
    };
    let server = match connected {
        Ok(Ok(server)) => server,
        Ok(Err(vm::ConnectError::Client(error))) => return Err(error),
        Ok(Err(vm::ConnectError::Vm(text))) => return client.disconnect(BY_APPLICATION, &text).await,
        Err(reason) => return client.disconnect(BY_APPLICATION, end_text(reason)).await,
    };
    let session_id = client.session_id().ok_or(Error::Unexpected)?;
    let host_keys = HostKeys::new(gateway.host_keys.get(), session_id);
    begin(&mut client, &host_keys).await?;
    let end = async { end_text(ended(grant).await).to_owned() };
    relay(client, server, &host_keys, passed, end).await
}

/// Tells a client that it is logged in, and the keys by which it may know the gateway.
async fn begin<S: AsyncRead + AsyncWrite + Unpin>(
    client: &mut Connection<S>,
    host_keys: &HostKeys,
) -> Result<(), Error> {
    client.send(&authentication::succeeded()).await?;
    client.logged_in();
    client.send(&host_keys.announcement()).await
}

async fn ended(grant: &ActiveGrant<Decision>) -> EndReason {
    match grant.run_until_ended(std::future::pending::<std::convert::Infallible>()).await {
        Ok(never) => match never {},
        Err(reason) => reason,
    }
}

fn end_text(reason: EndReason) -> &'static str {
    match reason {
        EndReason::Revoked => "Your access to this workspace has ended.",
        EndReason::UpstreamGone => "The workspace has stopped.",
        EndReason::IdleTimeout => "Nothing has moved for too long.",
        EndReason::ShutDown => "The SSH gateway is restarting. Connect again.",
        EndReason::LeaseLapsed => "Rigbox cannot verify your access at the moment. Try again.",
    }
}
