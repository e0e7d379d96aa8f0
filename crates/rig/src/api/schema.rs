//! JSON of the API: the fields that `rig` reads. Other fields of printed objects are passed on unchanged.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Workspace.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Vm {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) status: String,
    #[serde(default)]
    pub(crate) template_id: String,
    #[serde(default)]
    pub(crate) ram_mb: u32,
    #[serde(default)]
    pub(crate) vcpu_count: u32,
    #[serde(default)]
    pub(crate) disk_size_mb: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) agent: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) system: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) queue_position: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) failure_code: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) failure_reason: Option<String>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

impl Vm {
    /// Returns whether the status will change by itself.
    pub(crate) fn is_transitional(&self) -> bool {
        matches!(self.status.as_str(), "provisioning" | "starting" | "stopping" | "deleting")
    }
}

/// SSH settings of a workspace.
#[derive(Debug, Deserialize)]
pub(crate) struct SshSettings {
    pub(crate) start_on_connect: bool,
}

/// Response with one workspace.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct GetWorkspace {
    pub(crate) vm: Vm,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

/// Page of workspaces.
#[derive(Debug, Deserialize)]
pub(super) struct ListWorkspaces {
    pub(super) vms: Vec<Vm>,
    pub(super) next_cursor: Option<String>,
}

/// Response to a deletion.
#[derive(Debug, Deserialize)]
pub(super) struct Deletion {
    #[serde(default = "deleting")]
    pub(super) status: String,
}

/// Response to a change of the environment.
#[derive(Debug, Deserialize)]
pub(super) struct EnvironmentChange {
    #[serde(default)]
    pub(super) live: bool,
}

fn deleting() -> String {
    "deleting".to_owned()
}

/// Request for a new workspace.
#[derive(Debug, Default, Serialize)]
pub(crate) struct NewWorkspace<'a> {
    pub(crate) name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) template_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ram_mb: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) vcpu_count: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) disk_size_mb: Option<u32>,
}

/// App, with the fields that programs rely on; missing ones are left out.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct App {
    pub(crate) id: String,
    pub(crate) name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) workspace_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) url: Option<String>,
    #[serde(default)]
    pub(crate) port: u16,
    pub(crate) status: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) visibility: Option<String>,
    /// Users who may open it, if it is shared.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) allowed_emails: Vec<String>,
}

/// Response with one app.
#[derive(Debug, Deserialize)]
pub(super) struct GetApp {
    pub(super) app: App,
}

/// Page of apps.
#[derive(Debug, Deserialize)]
pub(super) struct ListApps {
    pub(super) apps: Vec<App>,
    pub(super) next_cursor: Option<String>,
}

/// SSH key, with the fields that programs rely on; missing ones are left out.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct SshKey {
    pub(crate) id: String,
    pub(crate) name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) fingerprint: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) last_used_at: Option<String>,
    #[serde(default)]
    pub(crate) public_key: String,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

impl SshKey {
    /// Returns the type of the key.
    pub(crate) fn key_type(&self) -> &str {
        self.public_key.split(' ').next().unwrap_or_default()
    }
}

/// Response with all SSH keys.
#[derive(Debug, Deserialize)]
pub(super) struct ListSshKeys {
    pub(super) ssh_keys: Vec<SshKey>,
}

/// The caller's account.
#[derive(Debug, Deserialize)]
pub(crate) struct User {
    pub(crate) id: String,
    pub(crate) email: String,
    #[serde(default)]
    pub(crate) plan: String,
    #[serde(default)]
    pub(crate) api_key: Option<CallerKey>,
}

/// API key of the caller.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct CallerKey {
    pub(crate) id: String,
    pub(crate) name: String,
    /// Role in `workspaces`; `None` for the whole account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) role: Option<String>,
    /// Ids of the workspaces that the key is limited to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) workspaces: Option<Vec<String>>,
}

/// Response with all templates.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Templates {
    pub(crate) templates: Vec<Template>,
}

/// Image with default sizes.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Template {
    pub(crate) id: String,
    #[serde(default)]
    pub(crate) description: String,
    #[serde(default)]
    pub(crate) ram_mb: u32,
    #[serde(default)]
    pub(crate) vcpu_count: u32,
    #[serde(default)]
    pub(crate) disk_size_mb: u32,
    #[serde(flatten)]
    rest: Map<String, Value>,
}
