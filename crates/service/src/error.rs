//! Errors that services share, and the small functions that produce them.

use rigbox_core::authz::{Action, Denied, Permit};
use rigbox_core::environment::InvalidVariable;
use rigbox_core::ids::WorkspaceId;
use rigbox_core::lifecycle::IllegalTransition;
use rigbox_core::names::InvalidName;
use rigbox_core::resources::ResourceError;

use crate::nodes::client::NodeError;

/// Why not.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    #[error("no workspace `{0}`: not found")]
    NotFound(String),
    #[error("{0}")]
    Denied(Denied),
    #[error(transparent)]
    InvalidName(#[from] InvalidName),
    #[error(transparent)]
    ResourceError(#[from] ResourceError),
    #[error("{0}")]
    InvalidValue(String),
    #[error(transparent)]
    Illegal(#[from] IllegalTransition),
    #[error("you have a workspace named `{0}` already: choose another name or delete it")]
    NameTaken(String),
    #[error(
        "the limit {limit_name} of {limit} would be exceeded: remove what is not needed, or ask for less"
    )]
    Quota { limit_name: &'static str, limit: u64 },
    #[error("env_vars: {0}")]
    InvalidVariable(#[from] InvalidVariable),
    #[error("the workspace has no variable `{0}`: not found")]
    NoVariable(String),
    #[error(
        "the limit {limit_name} of {limit} would be exceeded: remove variables, or put large values into files"
    )]
    EnvironmentTooLarge { limit_name: &'static str, limit: u64 },
    #[error("this Idempotency-Key was used for another request: use a new one")]
    KeyReused,
    #[error("no API key `{0}`: not found")]
    NoKey(String),
    #[error(
        "this was done before and made the key `{0}`, whose secret was shown then: rotate it for another"
    )]
    ShownOnce(String),
    #[error(transparent)]
    Node(#[from] NodeError),
    #[error(transparent)]
    Store(rigbox_store::Error),
    #[error("{0}")]
    Internal(String),
}

impl From<rigbox_store::Error> for ServiceError {
    fn from(error: rigbox_store::Error) -> Self {
        match error {
            rigbox_store::Error::Quota { limit_name, limit } => Self::Quota { limit_name, limit },
            rigbox_store::Error::KeyReused => Self::KeyReused,
            rigbox_store::Error::NoWorkspace(id) => Self::NotFound(id.to_string()),
            other => Self::Store(other),
        }
    }
}

pub fn id_of<A: Action>(permit: &Permit<A>) -> Result<&WorkspaceId, ServiceError> {
    permit.workspace().ok_or_else(|| ServiceError::Internal(format!("{} names no workspace", A::NAME)))
}

/// What a new id is made of.
pub fn random_id() -> Result<[u8; 5], ServiceError> {
    let mut random = [0; 5];
    getrandom::fill(&mut random).map_err(|error| ServiceError::Internal(error.to_string()))?;
    Ok(random)
}
