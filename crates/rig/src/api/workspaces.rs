//! Requests for workspaces.

use std::collections::BTreeMap;
use std::time::Duration;

use reqwest::Method;
use serde_json::{Map, Value, json};

use super::schema::{Deletion, EnvironmentChange, ListWorkspaces};
use super::{Api, ApiError, GetWorkspace, NewWorkspace, RESPONSE_TIMEOUT, Vm};
use crate::name;

/// Seconds for which the server holds a request until the status changes.
const HOLD_S: &str = "30";
const HOLD_TIMEOUT: Duration = Duration::from_secs(60);

impl Api {
    /// Lists the caller's workspaces.
    pub(crate) async fn workspaces(&self) -> Result<Vec<Vm>, ApiError> {
        self.pages("workspaces", &[], |page: ListWorkspaces| (page.vms, page.next_cursor)).await
    }

    /// Returns a workspace.
    pub(crate) async fn workspace(&self, id: &str) -> Result<GetWorkspace, ApiError> {
        self.get(&["workspaces", id]).await
    }

    /// Finds a workspace by id or name. An id wins.
    pub(crate) async fn find(&self, text: &str) -> Result<Vm, ApiError> {
        if name::looks_like_id(text) {
            match self.workspace(text).await {
                Err(error) if error.is_not_found() => {}
                found => return Ok(found?.vm),
            }
        }
        self.find_name(text).await
    }

    /// Finds a workspace by id or name, by default the one that `rig` runs in.
    pub(crate) async fn find_or_current(&self, text: Option<&str>) -> Result<Vm, ApiError> {
        match text {
            Some(text) => self.find(text).await,
            None if self.config().is_inside() => {
                let own = self.workspaces().await?.into_iter().next();
                own.ok_or_else(|| ApiError::not_found("this workspace was not found".to_owned()))
            }
            None => Err(ApiError::Usage { message: "missing workspace; name it with -w".to_owned() }),
        }
    }

    /// Runs `act` with a workspace's id, given its id or name. An id needs no lookup.
    pub(crate) async fn with_id<T>(
        &self,
        text: &str,
        act: impl AsyncFn(&str) -> Result<T, ApiError>,
    ) -> Result<T, ApiError> {
        if name::looks_like_id(text) {
            match act(text).await {
                Err(error) if error.is_not_found() => {}
                done => return done,
            }
        }
        act(&self.find_name(text).await?.id).await
    }

    async fn find_name(&self, text: &str) -> Result<Vm, ApiError> {
        let mut vms = Vec::new();
        if name::is_name(text) {
            let page: ListWorkspaces =
                self.get_with(&["workspaces"], &[("name", text)], RESPONSE_TIMEOUT).await?;
            vms = page.vms;
        }
        vms.into_iter().find(|vm| vm.name == text).ok_or_else(|| {
            ApiError::not_found(format!(
                "workspace `{text}` not found; `rig workspace ls` lists your workspaces"
            ))
        })
    }

    /// Creates a workspace without starting it. The idempotency key keeps a retry from creating a second one.
    pub(crate) async fn create(
        &self,
        new: &NewWorkspace<'_>,
        idempotency_key: &str,
    ) -> Result<GetWorkspace, ApiError> {
        let request = self.request(Method::POST, &["workspaces"], &[])?;
        self.call(request.header("Idempotency-Key", idempotency_key).json(new).timeout(RESPONSE_TIMEOUT))
            .await
    }

    /// Requests `start`, `stop`, `cancel` or `retry`, and returns the workspace without waiting.
    pub(crate) async fn operate(&self, id: &str, operation: &str) -> Result<GetWorkspace, ApiError> {
        self.send(Method::POST, &["workspaces", id, operation]).await
    }

    /// Requests the deletion, and returns the current status.
    pub(crate) async fn delete(&self, id: &str) -> Result<String, ApiError> {
        let deletion: Deletion = self.send(Method::DELETE, &["workspaces", id]).await?;
        Ok(deletion.status)
    }

    /// Returns the workspace when its status is no longer `status`, or after a while.
    pub(crate) async fn wait_for_change(&self, id: &str, status: &str) -> Result<GetWorkspace, ApiError> {
        let query = [("wait_until_not", status), ("timeout_s", HOLD_S)];
        self.get_with(&["workspaces", id], &query, HOLD_TIMEOUT).await
    }

    /// Returns the workspace when its system is no longer starting, or after a while.
    pub(crate) async fn wait_for_system(&self, id: &str) -> Result<GetWorkspace, ApiError> {
        let query = [("wait_until_system_not", "starting"), ("timeout_s", HOLD_S)];
        self.get_with(&["workspaces", id], &query, HOLD_TIMEOUT).await
    }

    /// Sends a signal to a command.
    pub(crate) async fn signal(&self, id: &str, process: &str, name: &str) -> Result<(), ApiError> {
        let request = self.request(Method::POST, &["workspaces", id, "processes", process, "signal"], &[])?;
        self.open(request.json(&json!({"signal": name})).timeout(RESPONSE_TIMEOUT)).await.map(drop)
    }

    /// Returns the environment: names and masked values.
    pub(crate) async fn environment(&self, id: &str) -> Result<Map<String, Value>, ApiError> {
        self.get(&["workspaces", id, "env"]).await
    }

    /// Sets variables, and returns whether they are live in the workspace.
    pub(crate) async fn set_variables(
        &self,
        id: &str,
        variables: &BTreeMap<&str, String>,
    ) -> Result<bool, ApiError> {
        let request = self.request(Method::POST, &["workspaces", id, "env"], &[])?;
        let request = request.json(&json!({"env_vars": variables})).timeout(RESPONSE_TIMEOUT);
        Ok(self.call::<EnvironmentChange>(request).await?.live)
    }

    /// Removes a variable, and returns whether the change is live in the workspace.
    pub(crate) async fn unset_variable(&self, id: &str, name: &str) -> Result<bool, ApiError> {
        Ok(self.send::<EnvironmentChange>(Method::DELETE, &["workspaces", id, "env", name]).await?.live)
    }
}
