//! Apps over the API: listed, and found by name or id.

use super::shapes::{GetApp, ListApps};
use super::{ANSWER, Api, ApiError, App};
use crate::name;

impl Api {
    /// All of the caller's apps, or those of one workspace.
    pub(crate) async fn apps(&self, workspace: Option<&str>) -> Result<Vec<App>, ApiError> {
        let query: Vec<_> = workspace.map(|id| ("workspace_id", id)).into_iter().collect();
        self.pages("apps", &query, |page: ListApps| (page.apps, page.next_cursor)).await
    }

    /// The app with this id or name. What looks like an id is one, unless there is none of it.
    pub(crate) async fn find_app(&self, text: &str) -> Result<App, ApiError> {
        if name::looks_like_app_id(text) {
            match self.get::<GetApp>(&["apps", text]).await {
                Err(error) if error.is_not_found() => {}
                found => return Ok(found?.app),
            }
        }
        let mut apps = Vec::new();
        if name::is_name(text) {
            let page: ListApps = self.get_with(&["apps"], &[("name", text)], ANSWER).await?;
            apps = page.apps;
        }
        let found = apps.into_iter().find(|app| app.name == text);
        found.ok_or_else(|| ApiError::not_found(format!("app `{text}` not found: `rig app ls` lists yours")))
    }
}
