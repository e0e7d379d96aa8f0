//! Completion of names. The shell calls `rig` itself for it, which asks the server; without an answer in time there is none.

use std::ffi::OsStr;
use std::time::Duration;

use clap_complete::engine::{ArgValueCompleter, CompletionCandidate};
use serde_json::{Map, Value};

use crate::api::{Api, ApiError, Templates};
use crate::config::Config;

/// Longer than this, people type the name themselves.
const TIMEOUT: Duration = Duration::from_millis(1500);

/// Completes names of workspaces.
pub(crate) fn workspaces() -> ArgValueCompleter {
    completer(async |api| Ok(api.workspaces().await?.into_iter().map(|vm| (vm.name, vm.status)).collect()))
}

/// Completes names of apps.
pub(crate) fn apps() -> ArgValueCompleter {
    completer(async |api| {
        Ok(api.apps(None).await?.into_iter().map(|app| (app.name, app.url.unwrap_or_default())).collect())
    })
}

/// Completes names of templates.
pub(crate) fn templates() -> ArgValueCompleter {
    completer(async |api| {
        let found: Templates = api.get(&["templates"]).await?;
        Ok(found.templates.into_iter().map(|template| (template.id, template.description)).collect())
    })
}

/// Completes names of API keys.
pub(crate) fn api_keys() -> ArgValueCompleter {
    completer(async |api| {
        let response: Map<String, Value> = api.get(&["api-keys"]).await?;
        let keys = response.get("api_keys").and_then(Value::as_array).cloned().unwrap_or_default();
        let text = |key: &Value, field: &str| key.get(field).and_then(Value::as_str).map(str::to_owned);
        Ok(keys.iter().filter_map(|key| Some((text(key, "name")?, text(key, "id")?))).collect())
    })
}

/// Completes names of SSH keys.
pub(crate) fn ssh_keys() -> ArgValueCompleter {
    completer(async |api| {
        let keys = api.ssh_keys().await?;
        Ok(keys.into_iter().map(|key| (key.name, key.fingerprint.unwrap_or_default())).collect())
    })
}

/// Returns a completer of what `list` returns: names, each with a description.
fn completer(
    list: impl AsyncFn(&Api) -> Result<Vec<(String, String)>, ApiError> + Copy + Send + Sync + 'static,
) -> ArgValueCompleter {
    ArgValueCompleter::new(move |current: &OsStr| {
        let names = listed(list).unwrap_or_default();
        let fits = |name: &str| current.to_str().is_some_and(|current| name.starts_with(current));
        names
            .into_iter()
            .filter(|(name, _)| fits(name))
            .map(|(name, help)| CompletionCandidate::new(name).help(Some(help.into())))
            .collect::<Vec<_>>()
    })
}

fn listed(
    list: impl AsyncFn(&Api) -> Result<Vec<(String, String)>, ApiError>,
) -> Option<Vec<(String, String)>> {
    let api = Api::new(&Config::load().ok()?).ok()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
    runtime.block_on(async { tokio::time::timeout(TIMEOUT, list(&api)).await }).ok()?.ok()
}
