//! SSH settings of a workspace.

use reqwest::Method;
use serde_json::json;

use crate::api::{Api, SshSettings};
use crate::failure::Failure;

/// Returns whether a workspace is started when its owner connects, after setting that if `start` is given.
pub(super) async fn start_on_connect(api: &Api, id: &str, start: Option<bool>) -> Result<bool, Failure> {
    let path = ["workspaces", id, "ssh"];
    let settings: SshSettings = match start {
        None => api.get(&path).await?,
        Some(start) => {
            let body = json!({"start_on_connect": start});
            api.call(api.request(Method::PATCH, &path, &[])?.json(&body)).await?
        }
    };
    Ok(settings.start_on_connect)
}
