//! Workspaces over the API: found by name or id, made, moved from state to state, and waited for.

use std::collections::BTreeMap;
use std::time::Duration;

use reqwest::Method;
use serde_json::{Map, Value, json};

use super::shapes::{Deletion, EnvironmentChange, ListWorkspaces};
use super::{ANSWER, Api, ApiError, GetWorkspace, NewWorkspace, Vm};
use crate::name;

/// How long the server holds a question back until there is news.
const HOLD_S: &str = "30";
const HELD: Duration = Duration::from_secs(60);

impl Api {
    /// All of the caller's workspaces.
    pub(crate) async fn workspaces(&self) -> Result<Vec<Vm>, ApiError> {
        self.pages("workspaces", &[], |page: ListWorkspaces| (page.vms, page.next_cursor)).await
    }

    /// The workspace with this id or name. What looks like an id is one, unless there is none of it.
    pub(crate) async fn find(&self, text: &str) -> Result<Vm, ApiError> {
        if name::looks_like_id(text) {
            match self.get::<GetWorkspace>(&["workspaces", text]).await {
                Err(error) if error.is_not_found() => {}
                found => return Ok(found?.vm),
            }
        }
        self.find_name(text).await
    }

    /// The workspace with this id or name; without one, that in which this runs.
    pub(crate) async fn find_or_own(&self, text: Option<&str>) -> Result<Vm, ApiError> {
        match text {
            Some(text) => self.find(text).await,
            None if self.config().is_inside() => {
                let own = self.workspaces().await?.into_iter().next();
                own.ok_or_else(|| {
                    ApiError::not_found("the bridge does not know this workspace: not found".to_owned())
                })
            }
            None => Err(ApiError::Usage { message: "which workspace? Say so with -w".to_owned() }),
        }
    }

    /// Does something to the workspace with this id or name; an id is not looked up first.
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
            let page: ListWorkspaces = self.get_with(&["workspaces"], &[("name", text)], ANSWER).await?;
            vms = page.vms;
        }
        vms.into_iter().find(|vm| vm.name == text).ok_or_else(|| {
            ApiError::not_found(format!("workspace `{text}` not found: `rig workspace ls` lists yours"))
        })
    }

    /// Makes a workspace; it is not started. `once` keeps a repeated request from making two.
    pub(crate) async fn create(&self, new: &NewWorkspace<'_>, once: &str) -> Result<GetWorkspace, ApiError> {
        let request = self.request(Method::POST, &["workspaces"], &[])?;
        self.call(request.header("Idempotency-Key", once).json(new).timeout(ANSWER)).await
    }

    /// `start`, `stop`, `cancel` or `retry`: answers at once, with the state it is in now.
    pub(crate) async fn operate(&self, id: &str, operation: &str) -> Result<GetWorkspace, ApiError> {
        self.send(Method::POST, &["workspaces", id, operation]).await
    }

    /// Asks for the removal; the status it is in now.
    pub(crate) async fn delete(&self, id: &str) -> Result<String, ApiError> {
        let answer: Deletion = self.send(Method::DELETE, &["workspaces", id]).await?;
        Ok(answer.status)
    }

    /// The workspace once its status is another one, or after a while.
    pub(crate) async fn news(&self, id: &str, status: &str) -> Result<GetWorkspace, ApiError> {
        let query = [("wait_until_not", status), ("timeout_s", HOLD_S)];
        self.get_with(&["workspaces", id], &query, HELD).await
    }

    /// The environment: names, and what stands for their values.
    pub(crate) async fn environment(&self, id: &str) -> Result<Map<String, Value>, ApiError> {
        self.get(&["workspaces", id, "env"]).await
    }

    /// Sets variables; whether the workspace has them already.
    pub(crate) async fn set_variables(
        &self,
        id: &str,
        variables: &BTreeMap<&str, String>,
    ) -> Result<bool, ApiError> {
        let request = self.request(Method::POST, &["workspaces", id, "env"], &[])?;
        let request = request.json(&json!({"env_vars": variables})).timeout(ANSWER);
        Ok(self.call::<EnvironmentChange>(request).await?.live)
    }

    /// Removes a variable; whether the workspace knows already.
    pub(crate) async fn unset_variable(&self, id: &str, name: &str) -> Result<bool, ApiError> {
        Ok(self.send::<EnvironmentChange>(Method::DELETE, &["workspaces", id, "env", name]).await?.live)
    }
}
