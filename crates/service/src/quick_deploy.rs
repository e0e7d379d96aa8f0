//! Quick deploy: a workspace with its environment and its template's apps, created and started in one
//! request. If one part fails, everything is removed again.

use std::collections::BTreeMap;
use std::time::Duration;

use rigbox_core::authz::{
    CreateWorkspace, DeleteWorkspace, ManageApp, OperateWorkspace, Permit, Principal, ReadWorkspace, WriteEnv,
};
use rigbox_core::status::Status;
use rigbox_core::templates::{self, ExpectedApp};
use rigbox_store::{AppWithWorkspace, Workspace};
use secrecy::SecretString;

use crate::apps::{AppChange, AppError, Apps, NewApp};
use crate::environment::Environments;
use crate::error::ServiceError;
use crate::workspaces::{NewWorkspace, Workspaces};

/// Maximum time to wait for the workspace's disk.
const PROVISION_TIMEOUT: Duration = Duration::from_secs(60);

/// Specification of a deployment.
pub struct Deployment {
    /// The workspace.
    pub workspace: NewWorkspace,
    /// Environment variables.
    pub environment: BTreeMap<String, SecretString>,
    /// Parameters of the apps, by the names that the template gives them.
    pub params: BTreeMap<String, BTreeMap<String, String>>,
}

/// Error of a deployment.
#[derive(Debug, thiserror::Error)]
pub enum DeployError {
    /// The workspace failed.
    #[error(transparent)]
    Workspace(#[from] ServiceError),
    /// An app failed.
    #[error(transparent)]
    App(#[from] AppError),
}

/// Service for quick deploy.
#[derive(Clone)]
pub struct QuickDeploy {
    workspaces: Workspaces,
    environments: Environments,
    apps: Apps,
}

impl QuickDeploy {
    /// Creates the service.
    pub fn new(workspaces: Workspaces, environments: Environments, apps: Apps) -> Self {
        Self { workspaces, environments, apps }
    }

    /// Creates and starts a workspace with its apps, and returns them.
    pub async fn deploy(
        &self,
        permit: &Permit<CreateWorkspace>,
        spec: Deployment,
    ) -> Result<(Workspace, Vec<AppWithWorkspace>), DeployError> {
        let template = spec.workspace.template_id.as_deref().unwrap_or(templates::DEFAULT);
        let expected = templates::find(template).map_or(&[][..], |template| template.expected_apps);
        if let Some(unknown) =
            spec.params.keys().find(|name| expected.iter().all(|app| app.name != name.as_str()))
        {
            let unknown: String = unknown.chars().take(64).collect();
            let message =
                format!("app_params: Template `{template}` has no app `{unknown}`. Remove its parameters.");
            return Err(ServiceError::InvalidValue(message).into());
        }
        let id =
            self.workspaces.create(permit, &spec.workspace, None, |created| created.id.to_string()).await?;
        match self.set_up(permit.principal(), &id, expected, &spec).await {
            Ok(created) => Ok(created),
            Err(problem) => {
                self.roll_back(permit.principal(), &id).await?;
                Err(problem)
            }
        }
    }

    async fn roll_back(&self, owner: &Principal, id: &str) -> Result<(), DeployError> {
        let read: Permit<ReadWorkspace> = self.workspaces.authorize(owner, id).await?;
        // A workspace that is being provisioned cannot be deleted yet.
        self.workspaces.wait_until_not(&read, Status::Provisioning, PROVISION_TIMEOUT).await?;
        let permit: Permit<DeleteWorkspace> = self.workspaces.authorize(owner, id).await?;
        self.workspaces.delete(&permit).await?;
        Ok(())
    }

    async fn set_up(
        &self,
        owner: &Principal,
        id: &str,
        expected: &[ExpectedApp],
        spec: &Deployment,
    ) -> Result<(Workspace, Vec<AppWithWorkspace>), DeployError> {
        if !spec.environment.is_empty() {
            let permit: Permit<WriteEnv> = self.workspaces.authorize(owner, id).await?;
            self.environments.set(&permit, spec.environment.clone()).await?;
        }
        let permit: Permit<ManageApp> = self.workspaces.authorize(owner, id).await?;
        let mut apps = Vec::new();
        for app in expected {
            // Unique in the installation, because the id is.
            let name = format!("{}-{}", app.name, id.trim_start_matches("ws-"));
            let mut created = self.apps.create(&permit, NewApp::service(name, app.port), None).await?;
            if let Some(params) = spec.params.get(app.name) {
                let params = params.iter().map(|(name, value)| (name.clone(), Some(value.clone()))).collect();
                let change = AppChange { params, ..AppChange::default() };
                created = self.apps.change(&permit, &created.app.id, &change, "app.params").await?;
            }
            apps.push(created);
        }
        let read: Permit<ReadWorkspace> = self.workspaces.authorize(owner, id).await?;
        self.workspaces.wait_until_not(&read, Status::Provisioning, PROVISION_TIMEOUT).await?;
        let permit: Permit<OperateWorkspace> = self.workspaces.authorize(owner, id).await?;
        Ok((self.workspaces.start(&permit).await?, apps))
    }
}
