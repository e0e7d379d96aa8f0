//! Record of a session at control: opened by a log-in, and closed here with what has passed, however the session ends.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use rigbox_core::ids::WorkspaceId;
use rigbox_proto::ssh::LogInRequest;
use tokio::runtime::Handle;

use crate::control::{ControlError, LogInOutcome, SessionEnd};
use crate::relay::Passed;
use crate::state::Gateway;

/// Delay before control is told once more. Sessions need a log-in at control, so while it is away no more are waiting than there were.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// Record of a session.
pub(crate) struct SessionRecord {
    gateway: Arc<Gateway>,
    session_id: Vec<u8>,
    client: IpAddr,
    workspace: Option<WorkspaceId>,
    /// True from the request to open the session until it is known not to be open.
    may_be_open: bool,
    pub(crate) passed: Passed,
}

impl SessionRecord {
    pub(crate) fn new(gateway: &Arc<Gateway>, session_id: &[u8], client: IpAddr) -> Self {
        let (gateway, session_id) = (Arc::clone(gateway), session_id.to_vec());
        Self { gateway, session_id, client, workspace: None, may_be_open: false, passed: Passed::default() }
    }

    /// Asks control to open the session. It may have done so even if its answer is lost.
    pub(crate) async fn open(&mut self, request: LogInRequest) -> Result<LogInOutcome, ControlError> {
        let before = std::mem::replace(&mut self.may_be_open, true);
        let outcome = self.gateway.control.log_in(self.client, request).await;
        if let Ok(LogInOutcome::Granted(session)) = &outcome {
            self.workspace = Some(session.decision.workspace.clone());
        }
        self.may_be_open = before || matches!(outcome, Ok(LogInOutcome::Granted(_)) | Err(_));
        outcome
    }

    /// Tells control that the session has ended. If that fails, it is told again in the background.
    pub(crate) async fn close(mut self) {
        let closed = self.gateway.control.close(&self.end()).await;
        match closed {
            Ok(()) => self.may_be_open = false,
            Err(error) => tracing::warn!(%error, "end of a session not recorded yet"),
        }
    }

    fn end(&self) -> SessionEnd {
        let (session_id, workspace) = (self.session_id.clone(), self.workspace.clone());
        SessionEnd { session_id, workspace, client: self.client, passed: self.passed }
    }
}

impl Drop for SessionRecord {
    fn drop(&mut self) {
        // Without a runtime the process ends, and control finds that by itself.
        let (true, Ok(runtime)) = (self.may_be_open, Handle::try_current()) else { return };
        let (gateway, end) = (Arc::clone(&self.gateway), self.end());
        runtime.spawn(async move {
            while let Err(error) = gateway.control.close(&end).await {
                tracing::debug!(%error, "end of a session not recorded yet");
                tokio::time::sleep(RETRY_DELAY).await;
            }
        });
    }
}
