//! Errors that services share, and the small functions that produce them.

use rigbox_core::ai::own_key::InvalidOwnAi;
use rigbox_core::authz::{Action, Denied, Permit};
use rigbox_core::environment::InvalidVariable;
use rigbox_core::ids::WorkspaceId;
use rigbox_core::lifecycle::IllegalTransition;
use rigbox_core::names::InvalidName;
use rigbox_core::proxied_secret::InvalidProxiedSecret;
use rigbox_core::resources::ResourceError;
use rigbox_ssh_keys::public_key::PublicKeyError;

use crate::nodes::api::NodeError;

/// Error of a service.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// The workspace does not exist, or the caller may not know of it.
    #[error("Workspace `{0}` not found.")]
    NotFound(String),
    /// The text is not an id of a workspace: a name, for example.
    #[error("Workspace `{0}` not found. Use its id, such as ws-abcdefgh, not its name.")]
    NotAnId(String),
    /// The caller lacks the permission.
    #[error("{0}")]
    Denied(Denied),
    /// The workspace's name is invalid.
    #[error(transparent)]
    InvalidName(#[from] InvalidName),
    /// The resources are invalid.
    #[error(transparent)]
    InvalidResources(#[from] ResourceError),
    /// A value is invalid; the message names the field.
    #[error("{0}")]
    InvalidValue(String),
    /// The workspace's status does not allow the request.
    #[error(transparent)]
    IllegalTransition(#[from] IllegalTransition),
    /// Another workspace of the user has the name.
    #[error("You already have a workspace named `{0}`. Choose another name or delete it.")]
    NameTaken(String),
    /// A limit of the plan would be exceeded.
    #[error("{}", quota(limit_name, *limit, *used))]
    Quota {
        /// Name of the limit.
        limit_name: &'static str,
        /// Value of the limit.
        limit: u64,
        /// Current usage.
        used: u64,
    },
    /// The node lacks the memory to run the workspace.
    #[error(
        "The machine has {free_mb} MiB of memory free, and the workspace needs {needed_mb} MiB. Stop another workspace, or ask the administrator to."
    )]
    NodeFull {
        /// Memory that the workspace needs in MiB.
        needed_mb: u64,
        /// Memory that no running workspace has in MiB.
        free_mb: u64,
    },
    /// An environment variable is invalid.
    #[error("env_vars: {0}")]
    InvalidVariable(#[from] InvalidVariable),
    /// A setting of AI calls is invalid.
    #[error("{field}: {error}")]
    InvalidAi {
        /// Field of the request.
        field: &'static str,
        /// Problem of its value.
        error: InvalidOwnAi,
    },
    /// A proxied secret is invalid.
    #[error("{}: {}", .0.field(), .0)]
    InvalidProxiedSecret(#[from] InvalidProxiedSecret),
    /// The proxied secret does not exist.
    #[error("Proxied secret `{0}` not found.")]
    ProxiedSecretNotFound(String),
    /// The environment variable does not exist.
    #[error("Variable `{0}` not found in the workspace.")]
    VariableNotFound(String),
    /// The environment would be too large.
    #[error(
        "The limit {limit_name} of {limit} would be exceeded. Remove variables, or store large values in files."
    )]
    EnvironmentTooLarge {
        /// Name of the limit.
        limit_name: &'static str,
        /// Value of the limit.
        limit: u64,
    },
    /// The idempotency key was used for a different request.
    #[error("This Idempotency-Key was already used for a different request. Use a new one.")]
    IdempotencyKeyReused,
    /// The API key does not exist.
    #[error("API key `{0}` not found.")]
    KeyNotFound(String),
    /// The SSH key does not exist.
    #[error("SSH key `{0}` not found.")]
    SshKeyNotFound(String),
    /// The user has registered the SSH key before.
    #[error("This key is already registered as `{name}` ({id}).")]
    SshKeyExists {
        /// Id of the registered key.
        id: String,
        /// Its name.
        name: String,
    },
    /// The SSH key is not one, or is not accepted.
    #[error("public_key: {0}")]
    InvalidSshKey(#[from] PublicKeyError),
    /// The request was repeated, and its secret was shown the first time.
    #[error(
        "This request already created the key `{0}`, and its secret was shown then. Rotate the key for a new secret."
    )]
    SecretAlreadyShown(String),
    /// The node failed.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// The database failed.
    #[error(transparent)]
    Store(rigbox_store::Error),
    /// Unexpected failure.
    #[error("{0}")]
    Internal(String),
}

impl From<rigbox_store::Error> for ServiceError {
    fn from(error: rigbox_store::Error) -> Self {
        match error {
            rigbox_store::Error::Quota { limit_name, limit, used } => Self::Quota { limit_name, limit, used },
            rigbox_store::Error::NodeFull { needed_mb, free_mb } => Self::NodeFull { needed_mb, free_mb },
            rigbox_store::Error::KeyReused => Self::IdempotencyKeyReused,
            rigbox_store::Error::NoWorkspace(id) => Self::NotFound(id.to_string()),
            rigbox_store::Error::SshKeyExists { id, name } => Self::SshKeyExists { id: id.to_string(), name },
            other => Self::Store(other),
        }
    }
}

fn quota(limit_name: &str, limit: u64, used: u64) -> String {
    match limit_name {
        "max_vms" => format!("You have {used} of {limit} workspaces. Delete one that you do not need."),
        "max_api_keys" => format!("You have {used} of {limit} API keys. Revoke one that you do not need."),
        "max_ssh_keys" => format!("You have {used} of {limit} SSH keys. Remove one that you do not need."),
        "max_proxied_secrets" => {
            format!("You have {used} of {limit} proxied secrets. Remove one that you do not need.")
        }
        "max_ram_total_mb" => format!(
            "Your workspaces have {used} of {limit} MiB of memory. Request less, or delete one that you do not need."
        ),
        "max_disk_total_mb" => format!(
            "Your workspaces have {used} of {limit} MiB of disk. Request less, or delete one that you do not need."
        ),
        other => {
            format!(
                "The limit {other} of {limit} would be exceeded. Delete what you do not need, or request less."
            )
        }
    }
}

/// Returns the workspace of a permit.
pub fn id_of<A: Action>(permit: &Permit<A>) -> Result<&WorkspaceId, ServiceError> {
    permit.workspace().ok_or_else(|| ServiceError::Internal(format!("{} has no workspace", A::NAME)))
}

/// Returns the random bytes of a new id.
pub fn random_id() -> Result<[u8; 5], ServiceError> {
    let mut random = [0; 5];
    getrandom::fill(&mut random).map_err(|error| ServiceError::Internal(error.to_string()))?;
    Ok(random)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_of_a_quota_says_how_much_is_used() {
        for (limit_name, start) in [
            ("max_vms", "You have 2 of 3 workspaces. Delete"),
            ("max_api_keys", "You have 2 of 3 API keys. Revoke"),
            ("max_ssh_keys", "You have 2 of 3 SSH keys. Remove"),
            ("max_ram_total_mb", "Your workspaces have 2 of 3 MiB of memory."),
            ("max_disk_total_mb", "Your workspaces have 2 of 3 MiB of disk."),
            ("max_other", "The limit max_other of 3 would be exceeded."),
        ] {
            let message = ServiceError::Quota { limit_name, limit: 3, used: 2 }.to_string();
            assert!(message.starts_with(start), "{message}");
        }
    }
}
