//! A workspace with its environment and its template's apps, made and started in one request; none of it stays when a part cannot be had.

use std::collections::BTreeMap;
use std::time::Duration;

use rigbox_core::authz::{
    CreateWorkspace, DeleteWorkspace, ManageApp, OperateWorkspace, Permit, Principal, ReadWorkspace, WriteEnv,
};
use rigbox_core::status::Status;
use rigbox_core::templates::{self, ExpectedApp};
use rigbox_store::{AppWithWorkspace, Workspace};
use secrecy::SecretString;

use crate::apps::{AppError, Apps, Change, NewApp};
use crate::environment::Environments;
use crate::error::ServiceError;
use crate::workspaces::{NewWorkspace, Workspaces};

/// Making a disk takes a moment.
const PROVISIONED_WITHIN: Duration = Duration::from_secs(60);

/// What is wanted.
pub struct Deployment {
    pub workspace: NewWorkspace,
    pub environment: BTreeMap<String, SecretString>,
    /// By the name that the template calls the app.
    pub params: BTreeMap<String, BTreeMap<String, String>>,
}

/// Why not.
#[derive(Debug, thiserror::Error)]
pub enum DeployError {
    #[error(transparent)]
    Workspace(#[from] ServiceError),
    #[error(transparent)]
    App(#[from] AppError),
}

#[derive(Clone)]
pub struct QuickDeploy {
    workspaces: Workspaces,
    environments: Environments,
    apps: Apps,
}

impl QuickDeploy {
    pub fn new(workspaces: Workspaces, environments: Environments, apps: Apps) -> Self {
        Self { workspaces, environments, apps }
    }

    /// Makes and starts it; the workspace as it is then, and its apps.
    pub async fn deploy(
        &self,
        permit: &Permit<CreateWorkspace>,
        wanted: Deployment,
    ) -> Result<(Workspace, Vec<AppWithWorkspace>), DeployError> {
        let template = wanted.workspace.template_id.as_deref().unwrap_or(templates::DEFAULT);
        let expected = templates::find(template).map_or(&[][..], |template| template.expected_apps);
        if let Some(unknown) =
            wanted.params.keys().find(|name| expected.iter().all(|app| app.name != name.as_str()))
        {
            let unknown: String = unknown.chars().take(64).collect();
            let message = format!("app_params: the template `{template}` has no app `{unknown}`");
            return Err(ServiceError::InvalidValue(message).into());
        }
        let id = self.workspaces.create(permit, &wanted.workspace, None, |made| made.id.to_string()).await?;
        match self.furnish(permit.principal(), &id, expected, &wanted).await {
            Ok(made) => Ok(made),
            Err(problem) => {
                self.take_back(permit.principal(), &id).await?;
                Err(problem)
            }
        }
    }

    async fn take_back(&self, owner: &Principal, id: &str) -> Result<(), DeployError> {
        let look: Permit<ReadWorkspace> = self.workspaces.authorize(owner, id).await?;
        // What is being made cannot be deleted yet.
        self.workspaces.wait_until_not(&look, Status::Provisioning, PROVISIONED_WITHIN).await?;
        let permit: Permit<DeleteWorkspace> = self.workspaces.authorize(owner, id).await?;
        self.workspaces.delete(&permit).await?;
        Ok(())
    }

    async fn furnish(
        &self,
        owner: &Principal,
        id: &str,
        expected: &[ExpectedApp],
        wanted: &Deployment,
    ) -> Result<(Workspace, Vec<AppWithWorkspace>), DeployError> {
        if !wanted.environment.is_empty() {
            let permit: Permit<WriteEnv> = self.workspaces.authorize(owner, id).await?;
            self.environments.set(&permit, wanted.environment.clone()).await?;
        }
        let permit: Permit<ManageApp> = self.workspaces.authorize(owner, id).await?;
        let mut apps = Vec::new();
        for app in expected {
            // Unique in the installation, as the id is.
            let name = format!("{}-{}", app.name, id.trim_start_matches("ws-"));
            let mut made = self.apps.create(&permit, NewApp::service(name, app.port), None).await?;
            if let Some(params) = wanted.params.get(app.name) {
                let params = params.iter().map(|(name, value)| (name.clone(), Some(value.clone()))).collect();
                let change = Change { params, ..Change::default() };
                made = self.apps.change(&permit, &made.app.id, &change, "app.params").await?;
            }
            apps.push(made);
        }
        let look: Permit<ReadWorkspace> = self.workspaces.authorize(owner, id).await?;
        self.workspaces.wait_until_not(&look, Status::Provisioning, PROVISIONED_WITHIN).await?;
        let permit: Permit<OperateWorkspace> = self.workspaces.authorize(owner, id).await?;
        Ok((self.workspaces.start(&permit).await?, apps))
    }
}
