//! Start of a workspace whose owner connects by SSH while it is stopped.

use rigbox_core::authz::{OperateWorkspace, Principal, Target, authorize};
use rigbox_core::names::WorkspaceName;
use rigbox_core::status::{Request, Status};
use rigbox_store::{Error, Store, Workspace};
use tracing::warn;

use crate::error::ServiceError;
use crate::workspaces::Workspaces;

/// State of a workspace that is not running, for somebody who connects.
pub(crate) enum Connecting {
    /// It will run. With a text for its owner.
    Starting(String),
    /// It will not run by itself. With a text for its owner.
    Unavailable(String),
}

/// Starts workspaces whose setting allows it.
#[derive(Clone)]
pub(crate) struct StartOnConnect {
    store: Store,
    workspaces: Workspaces,
}

impl StartOnConnect {
    pub(crate) fn new(store: Store, workspaces: Workspaces) -> Self {
        Self { store, workspaces }
    }

    /// Starts a workspace that is stopped. One that was started before for the same log-in is not started again.
    pub(crate) async fn connect(
        &self,
        principal: &Principal,
        workspace: &Workspace,
        may_start: bool,
    ) -> Result<Connecting, Error> {
        let (name, status) = (&workspace.name, workspace.lifecycle.status);
        if !self.store.start_on_connect(&workspace.id).await?.unwrap_or_default() {
            return Ok(Connecting::Unavailable(unavailable_text(workspace)));
        }
        Ok(match status {
            Status::Starting => starting(name),
            Status::Stopping => Connecting::Starting(format!(
                "The workspace `{name}` is stopping, and will be started after that."
            )),
            Status::Provisioned | Status::Stopped if may_start => self.start(principal, workspace).await,
            _ => Connecting::Unavailable(unavailable_text(workspace)),
        })
    }

    async fn start(&self, principal: &Principal, workspace: &Workspace) -> Connecting {
        let (name, target) = (
            &workspace.name,
            Target::Workspace { id: workspace.id.clone(), owner: workspace.user_id.clone() },
        );
        let started = match authorize::<OperateWorkspace>(principal, target) {
            Ok(permit) => self.workspaces.start(&permit).await.map(drop),
            Err(denied) => Err(ServiceError::Denied(denied)),
        };
        match started {
            // Somebody else may have been first.
            Ok(()) | Err(ServiceError::IllegalTransition(_)) => starting(name),
            Err(error @ (ServiceError::NodeFull { .. } | ServiceError::Quota { .. })) => {
                Connecting::Unavailable(format!("The workspace `{name}` cannot be started. {error}"))
            }
            Err(error) => {
                warn!(%error, workspace = %workspace.id, "a workspace was not started for its owner");
                Connecting::Unavailable(format!(
                    "The workspace `{name}` cannot be started at the moment. Try again."
                ))
            }
        }
    }
}

fn starting(name: &WorkspaceName) -> Connecting {
    Connecting::Starting(format!("The workspace `{name}` is starting."))
}

fn unavailable_text(workspace: &Workspace) -> String {
    let (name, status) = (&workspace.name, workspace.lifecycle.status);
    let may_start = workspace
        .lifecycle
        .allowed()
        .iter()
        .any(|request| matches!(request, Request::Start | Request::Retry));
    if may_start {
        format!("The workspace `{name}` is {status}. Start it: rig workspace start {name}")
    } else {
        format!("The workspace `{name}` is {status}. Try again when it is running.")
    }
}
