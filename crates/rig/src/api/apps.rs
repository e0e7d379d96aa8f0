//! Requests for apps.

use super::schema::{GetApp, ListApps};
use super::{Api, ApiError, App, RESPONSE_TIMEOUT};
use crate::name;

impl Api {
    /// Lists the caller's apps, or those of one workspace.
    pub(crate) async fn apps(&self, workspace: Option<&str>) -> Result<Vec<App>, ApiError> {
        let query: Vec<_> = workspace.map(|id| ("workspace_id", id)).into_iter().collect();
        self.pages("apps", &query, |page: ListApps| (page.apps, page.next_cursor)).await
    }

    /// Finds an app by id or name. An id wins.
    pub(crate) async fn find_app(&self, text: &str) -> Result<App, ApiError> {
        if name::looks_like_app_id(text) {
            match self.get::<GetApp>(&["apps", text]).await {
                Err(error) if error.is_not_found() => {}
                found => return Ok(found?.app),
            }
        }
        let mut apps = Vec::new();
        if name::is_name(text) {
            let page: ListApps = self.get_with(&["apps"], &[("name", text)], RESPONSE_TIMEOUT).await?;
            apps = page.apps;
        }
        let found = apps.into_iter().find(|app| app.name == text);
        found.ok_or_else(|| {
            ApiError::not_found(format!("app `{text}` not found; `rig app ls` lists your apps"))
        })
    }
}
