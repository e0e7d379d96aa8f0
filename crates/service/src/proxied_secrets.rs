//! Credentials of users for one host each, which the proxy adds to requests of their workspaces.

use rigbox_core::authz::{ManageSecrets, Permit, ReadSecrets};
use rigbox_core::ids::WorkspaceId;
use rigbox_core::proxied_secret::{InvalidProxiedSecret, SecretHeader, SecretName, check_secret};
use rigbox_store::{AuditEvent, OpenedSecret, ProxiedSecret, Store};
use secrecy::{ExposeSecret, SecretString};

use crate::error::ServiceError;

/// Service for credentials.
#[derive(Clone)]
pub struct ProxiedSecrets {
    store: Store,
}

/// Credential as a user describes it.
#[derive(Debug)]
pub struct NewProxiedSecret {
    /// Host that gets it, with a port other than 443.
    pub host: String,
    /// Header that carries it.
    pub header: String,
    /// Text of the header, with `{}` in the credential's place.
    pub format: Option<String>,
    /// Id of the workspace that alone may use it.
    pub workspace: Option<String>,
    /// The credential.
    pub secret: SecretString,
}

/// Error for a request of a workspace with a credential.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The workspace may use none of that name.
    #[error(
        "This workspace has no proxied secret `{0}`. Outside of the workspace, `rig secret proxy ls` lists those of your account."
    )]
    NoSecret(String),
    /// The workspace's policy does not let it reach the host.
    #[error(
        "This workspace may not reach {0}: its network policy holds for the proxy too. Add the host to its list."
    )]
    HostNotAllowed(String),
    /// The workspace has switched its proxy off.
    #[error("The proxy is off in this workspace. `rig proxy on` switches it on again.")]
    SwitchedOff,
    /// The database failed.
    #[error(transparent)]
    Store(#[from] rigbox_store::Error),
}

impl ProxiedSecrets {
    /// Creates the service.
    pub fn new(store: Store) -> Self {
        Self { store }
    }

    /// Lists the caller's credentials, without their values.
    pub async fn list(&self, permit: &Permit<ReadSecrets>) -> Result<Vec<ProxiedSecret>, ServiceError> {
        Ok(self.store.proxied_secrets(&permit.principal().user).await?)
    }

    /// Stores a credential in place of another one of its name.
    pub async fn set(
        &self,
        permit: &Permit<ManageSecrets>,
        name: &str,
        new: NewProxiedSecret,
    ) -> Result<ProxiedSecret, ServiceError> {
        let NewProxiedSecret { host, header, format, workspace, secret: value } = new;
        check_secret(value.expose_secret())?;
        let not_an_id = |id: &String| ServiceError::NotAnId(id.chars().take(64).collect());
        let secret = ProxiedSecret {
            name: name.parse()?,
            workspace: workspace
                .map(|id| id.parse::<WorkspaceId>().map_err(|_| not_an_id(&id)))
                .transpose()?,
            host: host.parse()?,
            header: SecretHeader::new(&header, format.as_deref())?,
            updated_at: self.store.now(),
        };
        let target = format!("proxy/{} {}", secret.name, secret.host);
        let event = AuditEvent::by(permit.principal(), "secret.write", target);
        self.store.set_proxied_secret(&permit.principal().user, &secret, &value, &event).await?;
        Ok(secret)
    }

    /// Removes a credential. No later request has it.
    pub async fn remove(&self, permit: &Permit<ManageSecrets>, name: &str) -> Result<(), ServiceError> {
        let missing = || ServiceError::ProxiedSecretNotFound(name.chars().take(64).collect());
        let name: SecretName = name.parse().map_err(|_: InvalidProxiedSecret| missing())?;
        let event = AuditEvent::by(permit.principal(), "secret.delete", format!("proxy/{name}"));
        let user = &permit.principal().user;
        let is_removed = self.store.remove_proxied_secret(user, &name, &event, self.store.now()).await?;
        if is_removed { Ok(()) } else { Err(missing()) }
    }

    /// Returns a credential for one request of a workspace.
    ///
    /// # Errors
    /// [`OpenError`]
    pub async fn open(&self, workspace: &WorkspaceId, name: &str) -> Result<OpenedSecret, OpenError> {
        let missing = || OpenError::NoSecret(name.chars().take(64).filter(|c| !c.is_control()).collect());
        let parsed: SecretName = name.parse().map_err(|_: InvalidProxiedSecret| missing())?;
        let opened = self.store.open_proxied_secret(workspace, &parsed).await?.ok_or_else(missing)?;
        let host = &opened.secret.host;
        if opened.is_switched_off {
            Err(OpenError::SwitchedOff)
        } else if !opened.egress.allows_host(host.name(), host.port()) {
            Err(OpenError::HostNotAllowed(host.to_string()))
        } else {
            Ok(opened)
        }
    }
}
