//! Requests for SSH keys.

use reqwest::Method;
use serde_json::{Map, Value, json};

use super::schema::{ListSshKeys, SshKey};
use super::{Api, ApiError, RESPONSE_TIMEOUT};

const ROUTE: &str = "ssh-keys";

impl Api {
    /// Lists the caller's SSH keys.
    pub(crate) async fn ssh_keys(&self) -> Result<Vec<SshKey>, ApiError> {
        Ok(self.get::<ListSshKeys>(&[ROUTE]).await?.ssh_keys)
    }

    /// Registers a public key.
    pub(crate) async fn add_ssh_key(&self, name: &str, public_key: &str) -> Result<SshKey, ApiError> {
        let request = self.request(Method::POST, &[ROUTE], &[])?.timeout(RESPONSE_TIMEOUT);
        self.call(request.json(&json!({"name": name, "public_key": public_key}))).await
    }

    pub(crate) async fn remove_ssh_key(&self, id: &str) -> Result<Map<String, Value>, ApiError> {
        self.send(Method::DELETE, &[ROUTE, id]).await
    }
}
