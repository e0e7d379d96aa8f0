//! Control, which knows users, money and prices: the setup, of whose changes it tells, and the models of a workspace.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rigbox_core::ids::WorkspaceId;
use rigbox_proto::ai::ai_client::AiClient;
use rigbox_proto::ai::{
    GetSetupRequest, ListModelsRequest, OpenOwnCallRequest, OpenOwnCallResponse, OpenSecretRequest, Provider,
    WatchRequest, open_own_call_response, open_secret_response,
};
use rigbox_proto::transport::client::Channel;
use rigbox_proto::transport::unix;
use rigbox_shares::{Bounds, Shares};
use tonic::{Response, Status};

use crate::setup::Setup;
use crate::tables::Tables;

/// Timeout of one request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Time after which a setup that was not confirmed does not count.
const SETUP_LIFETIME: Duration = Duration::from_secs(5);
/// Time before a refusal is passed on, of what is asked for on a connection of its own: each costs control more than the workspace.
const REFUSAL_DELAY: Duration = Duration::from_millis(100);
/// Calls with users' own keys that are opened at once: each is a transaction, and costs no credits.
const OPENING: Bounds = Bounds { total: 32, per_key: 4 };
/// Delay after a watch that ended.
const RETRY_DELAY: Duration = Duration::from_millis(200);

/// Control.
pub(crate) struct Control {
    socket: PathBuf,
    channel: Channel,
    /// Names this run of the proxy.
    pub(crate) run_id: String,
    /// Calls with users' own keys that are being opened.
    opening: Shares<WorkspaceId>,
    /// Tables that ship.
    tables: Tables,
    /// The latest setup, and when it came.
    latest: Mutex<Option<(Arc<Setup>, Instant)>>,
}

impl Control {
    /// Connects lazily.
    pub(crate) fn new(socket: &Path, run_id: String, tables: Tables) -> Self {
        let (channel, opening) = (unix::channel(socket), Shares::new(OPENING));
        Self { socket: socket.to_owned(), channel, opening, run_id, tables, latest: Mutex::new(None) }
    }

    /// Returns the setup, or none if control has not confirmed it lately.
    pub(crate) fn setup(&self) -> Option<Arc<Setup>> {
        let latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        let (setup, at) = latest.as_ref()?;
        (at.elapsed() < SETUP_LIFETIME).then(|| setup.clone())
    }

    /// Follows the setup for as long as it is polled.
    pub(crate) async fn watch(&self) {
        loop {
            let error = match self.follow().await {
                Ok(()) => "control ended it".to_owned(),
                Err(status) => status.message().to_owned(),
            };
            tracing::debug!(%error, "watch on the AI setup ended; reconnecting");
            tokio::time::sleep(RETRY_DELAY).await;
        }
    }

    async fn follow(&self) -> Result<(), Status> {
        let request = WatchRequest { run_id: self.run_id.clone() };
        let mut notices = self.client().watch(request).await?.into_inner();
        loop {
            let next = tokio::time::timeout(SETUP_LIFETIME, notices.message()).await;
            let next = next.map_err(|_| Status::deadline_exceeded("control has sent nothing for 5 s"))?;
            let Some(notice) = next? else { return Ok(()) };
            // Taken before the work on it.
            let now = Instant::now();
            let changed = if notice.changed { Some(Arc::new(self.get_setup().await?)) } else { None };
            let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
            match (changed, latest.as_mut()) {
                (Some(setup), _) => *latest = Some((setup, now)),
                (None, Some((_, at))) => *at = now,
                (None, None) => return Err(Status::internal("control has confirmed what it never told")),
            }
        }
    }

    async fn get_setup(&self) -> Result<Setup, Status> {
        let mut client = self.client_for_secrets();
        let reply = reply(client.get_setup(GetSetupRequest {})).await?;
        let latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(Setup::new(reply, &self.tables, latest.as_ref().map(|(before, _)| before.as_ref())))
    }

    /// Records a call with the user's own key, and gets the key.
    pub(crate) async fn open_own_call(
        &self,
        workspace: &WorkspaceId,
        request: OpenOwnCallRequest,
    ) -> Result<OpenOwnCallResponse, Status> {
        let _place = self.opening.wait(workspace.clone()).await;
        let mut client = self.client_for_secrets();
        let reply = reply(client.open_own_call(request)).await?;
        if !matches!(reply.outcome, Some(open_own_call_response::Outcome::OwnKey(_))) {
            tokio::time::sleep(REFUSAL_DELAY).await;
        }
        Ok(reply)
    }

    /// Gets a user's credential for one request of a workspace.
    pub(crate) async fn open_secret(
        &self,
        workspace: &WorkspaceId,
        name: &str,
    ) -> Result<Option<open_secret_response::Outcome>, Status> {
        let request = OpenSecretRequest { workspace_id: workspace.to_string(), name: name.to_owned() };
        let mut client = self.client_for_secrets();
        let reply = reply(client.open_secret(request)).await?;
        if !matches!(reply.outcome, Some(open_secret_response::Outcome::Secret(_))) {
            tokio::time::sleep(REFUSAL_DELAY).await;
        }
        Ok(reply.outcome)
    }

    /// Connects for one request: what control's side of a connection has written lies in its buffers until it closes.
    fn client_for_secrets(&self) -> AiClient<Channel> {
        AiClient::new(unix::channel(&self.socket))
    }

    fn client(&self) -> AiClient<Channel> {
        AiClient::new(self.channel.clone())
    }

    /// Lists the models of a workspace.
    pub(crate) async fn models(
        &self,
        workspace: &WorkspaceId,
        provider: Provider,
    ) -> Result<Vec<String>, Status> {
        let request = ListModelsRequest { workspace_id: workspace.to_string(), provider: provider.into() };
        Ok(reply(self.client().list_models(request)).await?.models)
    }
}

/// Awaits control's reply to a request.
async fn reply<T>(request: impl Future<Output = Result<Response<T>, Status>>) -> Result<T, Status> {
    let reply = tokio::time::timeout(REQUEST_TIMEOUT, request).await;
    Ok(reply.map_err(|_| Status::deadline_exceeded("no reply within 5 s"))??.into_inner())
}
