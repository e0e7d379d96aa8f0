//! Control's decisions about log-ins and sessions.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;

use rigbox_core::dialing::SshPermit;
use rigbox_core::ids::{GatewayId, WorkspaceId};
use rigbox_gateway::active_grants::EndReason;
use rigbox_gateway::control_client::{ControlClient, Question};
use rigbox_gateway::epochs::Epochs;
use rigbox_proto::ssh::log_in_response::Outcome;
use rigbox_proto::ssh::review_response::Verdict;
use rigbox_proto::ssh::ssh_gateway_client::SshGatewayClient;
use rigbox_proto::ssh::{
    AttachRequest, CloseRequest, Granted, HostKeysRequest, LogInRequest, OfferKeyRequest, PrepareVmRequest,
    ReviewRequest,
};
use rigbox_proto::transport::client::Channel;
use rigbox_ssh_keys::private_key::PrivateKey;
use tonic::{Response, Status};

use crate::relay::Passed;

/// Client of the gateway's own questions.
const OWN: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// Maximum number of host keys.
const MAX_HOST_KEYS: usize = 4;

/// Error of a request to control.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ControlError {
    /// Control does not respond, or refuses.
    #[error("control does not respond: {0}")]
    Unavailable(Status),
    /// The reply is invalid.
    #[error("control's reply about {0} is invalid: all roles have to be of one version")]
    InvalidReply(&'static str),
}

impl From<Status> for ControlError {
    fn from(status: Status) -> Self {
        Self::Unavailable(status)
    }
}

/// Outcome of a log-in.
pub(crate) enum LogInOutcome {
    /// The key, the signature, the user name or all of them are wrong.
    Refused,
    /// Text for the owner of the workspace.
    Unavailable(String),
    /// The workspace starts, with a text for its owner. The same log-in counts when it runs.
    Starting(WorkspaceId, String),
    Granted(Session),
}

/// Session that control has granted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Decision {
    pub(crate) workspace: WorkspaceId,
    pub(crate) boot: String,
    pub(crate) key: String,
}

/// Session with what it takes to begin it.
pub(crate) struct Session {
    pub(crate) decision: Decision,
    pub(crate) permit: SshPermit,
    /// Key that the VM admits during this boot.
    pub(crate) boot_key: PrivateKey,
}

/// End of a session, as control is told of it.
#[derive(Debug, Clone)]
pub(crate) struct SessionEnd {
    pub(crate) session_id: Vec<u8>,
    /// Workspace, unless the session has never begun.
    pub(crate) workspace: Option<WorkspaceId>,
    pub(crate) client: IpAddr,
    pub(crate) passed: Passed,
}

/// Control.
#[derive(Debug)]
pub(crate) struct Control {
    client: ControlClient,
    /// Id of this process.
    own: GatewayId,
    pub(crate) epochs: Epochs,
}

impl Control {
    pub(crate) fn new(socket: &Path, own: GatewayId) -> Self {
        Self { client: ControlClient::new(socket), own, epochs: Epochs::default() }
    }

    /// Returns the id of this process.
    pub(crate) fn own_id(&self) -> &GatewayId {
        &self.own
    }

    /// Attaches this process to control, and returns when that has ended.
    pub(crate) async fn attach(&self) -> Result<(), Status> {
        let request = AttachRequest { gateway_id: self.own.to_string() };
        let attached =
            self.ask(Question::LogIn(OWN.into()), async |mut control| control.attach(request).await);
        let mut attached = attached.await?;
        while attached.message().await?.is_some() {}
        Ok(())
    }

    /// Returns the client, for the watch.
    pub(crate) fn client(&self) -> &ControlClient {
        &self.client
    }

    async fn ask<T>(
        &self,
        question: Question<'_>,
        ask: impl AsyncFnOnce(SshGatewayClient<Channel>) -> Result<Response<T>, Status>,
    ) -> Result<T, Status> {
        self.client.request(question, async |channel| ask(SshGatewayClient::new(channel)).await).await
    }

    /// Returns the keys by which clients know the gateway.
    pub(crate) async fn host_keys(&self) -> Result<Arc<[PrivateKey]>, ControlError> {
        let reply = self.ask(Question::LogIn(OWN.into()), async |mut control| {
            control.host_keys(HostKeysRequest {}).await
        });
        let seeds = reply.await?.seeds;
        let keys = seeds.iter().take(MAX_HOST_KEYS).map(|seed| PrivateKey::ed25519(seed));
        let keys =
            keys.collect::<Result<Vec<_>, _>>().map_err(|_| ControlError::InvalidReply("host keys"))?;
        if keys.is_empty() { Err(ControlError::InvalidReply("host keys")) } else { Ok(keys.into()) }
    }

    /// Returns whether a key is registered.
    pub(crate) async fn accepts(&self, client: IpAddr, key: &[u8]) -> Result<bool, ControlError> {
        let request = OfferKeyRequest { key: key.to_vec().into() };
        let reply =
            self.ask(Question::LogIn(client.into()), async |mut control| control.offer_key(request).await);
        Ok(reply.await?.accepted)
    }

    /// Decides about a log-in.
    pub(crate) async fn log_in(
        &self,
        client: IpAddr,
        request: LogInRequest,
    ) -> Result<LogInOutcome, ControlError> {
        let reply =
            self.ask(Question::LogIn(client.into()), async |mut control| control.log_in(request).await);
        Ok(match reply.await?.outcome {
            Some(Outcome::Refused(_)) => LogInOutcome::Refused,
            Some(Outcome::Unavailable(text)) => LogInOutcome::Unavailable(text),
            Some(Outcome::Starting(starting)) => {
                let id = starting.workspace_id.parse().map_err(|_| ControlError::InvalidReply("a log-in"))?;
                LogInOutcome::Starting(id, starting.text)
            }
            Some(Outcome::Granted(granted)) => {
                LogInOutcome::Granted(session(granted).ok_or(ControlError::InvalidReply("a log-in"))?)
            }
            None => return Err(ControlError::InvalidReply("a log-in")),
        })
    }

    /// Has the VM admit its boot's key. Returns the host keys of its server.
    pub(crate) async fn prepare_vm(&self, decision: &Decision) -> Result<Vec<Vec<u8>>, ControlError> {
        let request =
            PrepareVmRequest { workspace_id: decision.workspace.to_string(), boot_id: decision.boot.clone() };
        let reply = self.ask(Question::Review(&decision.workspace), async |mut control| {
            control.prepare_vm(request).await
        });
        Ok(reply.await?.host_keys.into_iter().take(MAX_HOST_KEYS).map(Into::into).collect())
    }

    /// Decides once more about a session.
    pub(crate) async fn review(&self, decision: &Decision) -> Result<(), EndReason> {
        let request = ReviewRequest {
            workspace_id: decision.workspace.to_string(),
            boot_id: decision.boot.clone(),
            key_id: decision.key.clone(),
        };
        let reply = self
            .ask(Question::Review(&decision.workspace), async |mut control| control.review(request).await);
        // Without an answer the permission cannot be verified.
        let verdict = reply.await.map_err(|_| EndReason::LeaseLapsed)?.verdict();
        match verdict {
            Verdict::GoesOn => Ok(()),
            Verdict::BootEnded => Err(EndReason::UpstreamGone),
            Verdict::Revoked | Verdict::Unspecified => Err(EndReason::Revoked),
        }
    }

    /// Records the end of a session.
    pub(crate) async fn close(&self, end: &SessionEnd) -> Result<(), ControlError> {
        let SessionEnd { session_id, workspace, client, passed } = end;
        let request = CloseRequest {
            session_id: session_id.clone().into(),
            bytes_to_vm: passed.to_server,
            bytes_to_client: passed.to_client,
        };
        let question = match workspace {
            Some(workspace) => Question::Review(workspace),
            None => Question::LogIn((*client).into()),
        };
        let reply = self.ask(question, async |mut control| control.close(request).await);
        Ok(reply.await.map(drop)?)
    }
}

fn session(granted: Granted) -> Option<Session> {
    let workspace: WorkspaceId = granted.workspace_id.parse().ok()?;
    let boot_key = PrivateKey::ed25519(&granted.boot_key).ok()?;
    let permit = SshPermit::granted(workspace.clone());
    let decision = Decision { workspace, boot: granted.boot_id, key: granted.key_id };
    Some(Session { decision, permit, boot_key })
}
