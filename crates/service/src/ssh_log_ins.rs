//! Log-ins by SSH: who may open a session in which workspace, and the keys of boots. The gateway speaks with the clients; a signature of a
//! client is verified here, and counts once.

use std::net::IpAddr;

use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Salt};
use rigbox_core::authz::Principal;
use rigbox_core::ids::{GatewayId, SshKeyId, WorkspaceId};
use rigbox_core::ssh_names::{SshTarget, ssh_targets};
use rigbox_core::status::Status;
use rigbox_proto::guest::PrepareSshRequest;
use rigbox_ssh_keys::log_in::signed_text;
use rigbox_ssh_keys::public_key::{PublicKey, fingerprint};
use rigbox_ssh_keys::signature::{Verified, verify};
use rigbox_store::{
    AuditEvent, Error, NewSshSession, Page, SSH_SECRET_LEN, SshKeyOwner, SshSecret, Store, Workspace,
};
use tracing::{info, warn};
use zeroize::Zeroizing;

use crate::audit::AuditRecorder;
use crate::guests::client::{Guest, GuestClient, GuestError};
use crate::ssh_gateway_keys;
use crate::ssh_start::{Connecting, StartOnConnect};
use crate::workspaces::Workspaces;

/// Label that separates keys of boots from anything else that the secret may ever be used for.
const BOOT_KEY_LABEL: &[u8] = b"rigbox ssh boot key 1";

/// Log-in of a client, as the gateway has received it.
#[derive(Debug, Clone, Copy)]
pub struct SignedLogIn<'a> {
    /// Process that has received it.
    pub gateway: &'a GatewayId,
    /// Hash of the transport's key exchange, which the signature is for.
    pub session_id: &'a [u8],
    /// User name.
    pub user_name: &'a str,
    /// Algorithm of the signature.
    pub algorithm: &'a str,
    /// Public key, as SSH writes it.
    pub key: &'a [u8],
    /// Signature, as SSH writes it.
    pub signature: &'a [u8],
    /// Address of the client.
    pub from: Option<IpAddr>,
    /// False once the workspace was started for this log-in.
    pub may_start: bool,
}

/// Outcome of a log-in.
pub enum SshLogIn {
    /// Something is wrong, and nobody is told what.
    Refused,
    /// The workspace is theirs, and cannot be used now. With a text for its owner.
    Unavailable(String),
    /// The workspace is theirs, and starts for them: the same log-in counts when it runs. With a text for its owner.
    Starting(WorkspaceId, String),
    /// The session may begin.
    Granted(SshSession),
}

/// Session that may begin.
pub struct SshSession {
    /// Workspace.
    pub workspace: WorkspaceId,
    /// Id of its boot.
    pub boot: String,
    /// Key of the user.
    pub key: SshKeyId,
    /// Seed of the key that the VM admits during this boot.
    pub boot_key: Zeroizing<Vec<u8>>,
}

/// Decision about a session that is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SshReview {
    /// It may.
    GoesOn,
    /// The key was deleted, its user disabled, or the workspace is not theirs.
    Revoked,
    /// The boot has ended.
    BootEnded,
}

/// Failure to prepare a VM for a session.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// Another boot runs, or none.
    #[error("the workspace does not run this boot")]
    NotRunning,
    /// The VM's agent has failed.
    #[error(transparent)]
    Guest(#[from] GuestError),
    /// The database has failed.
    #[error(transparent)]
    Store(#[from] Error),
}

/// Service for log-ins by SSH.
#[derive(Clone)]
pub struct SshLogIns {
    store: Store,
    guests: GuestClient,
    audit: AuditRecorder,
    starter: StartOnConnect,
}

impl SshLogIns {
    /// Creates the service.
    pub fn new(store: Store, guests: GuestClient, audit: AuditRecorder, workspaces: Workspaces) -> Self {
        let starter = StartOnConnect::new(store.clone(), workspaces);
        Self { store, guests, audit, starter }
    }

    /// Returns the seeds of the keys by which clients know the gateway, the current one first.
    ///
    /// # Errors
    /// [`Error`]
    pub async fn host_key_seeds(&self) -> Result<Vec<Zeroizing<Vec<u8>>>, Error> {
        let current = self.store.ssh_secret(SshSecret::HostKey, self.store.now()).await?;
        let next = self.store.stored_ssh_secret(SshSecret::NextHostKey).await?;
        Ok(std::iter::once(current).chain(next).collect())
    }

    /// Returns whether a key is registered. The user name does not count: keys are public, so the answer would tell anybody the names of a
    /// key's owner.
    ///
    /// # Errors
    /// [`Error`]
    pub async fn accepts(&self, key: &[u8]) -> Result<bool, Error> {
        Ok(!self.owners(key).await?.is_empty())
    }

    /// Decides about a log-in, and records it.
    ///
    /// # Errors
    /// [`Error`]
    pub async fn log_in(&self, log_in: SignedLogIn<'_>) -> Result<SshLogIn, Error> {
        let SignedLogIn { gateway, session_id, user_name, algorithm, key, signature, from, may_start } =
            log_in;
        let text = signed_text(session_id, user_name, algorithm, key);
        let verified = verify(key, algorithm, &text, signature);
        let owners = self.owners(key).await?;
        let Ok(verified) = verified else {
            // No account is concerned for sure, so it is in the operator's log.
            info!(
                ?from,
                key = fingerprint(key),
                ?user_name,
                "refused a log-in by SSH: the signature is wrong"
            );
            return Ok(SshLogIn::Refused);
        };
        let Some((owner, principal, workspace)) = self.resolve(user_name, &owners).await? else {
            info!(?from, key = fingerprint(key), ?user_name, "refused a log-in by SSH: no such workspace");
            for (_, principal) in &owners {
                let principal = Principal { from, ..principal.clone() };
                self.audit.refused(
                    &principal,
                    "ssh",
                    &format!("no workspace `{user_name}` of {}", fingerprint(key)),
                );
            }
            return Ok(SshLogIn::Refused);
        };
        let principal = Principal { from, ..principal };
        let is_untouched = verified == Verified::SecurityKey { user_present: false };
        if is_untouched && !owner.no_touch_required {
            self.audit.refused(&principal, "ssh", "the security key was not touched");
            return Ok(SshLogIn::Refused);
        }
        let Some(boot) = running_boot(&workspace) else {
            // One that opened a session before starts nothing.
            if self.store.is_ssh_log_in_taken(session_id).await? {
                return Ok(SshLogIn::Refused);
            }
            let connecting = self.starter.connect(&principal, &workspace, may_start).await?;
            return Ok(match connecting {
                Connecting::Starting(text) => SshLogIn::Starting(workspace.id, text),
                Connecting::Unavailable(text) => SshLogIn::Unavailable(text),
            });
        };
        let id = &workspace.id;
        let event = AuditEvent::by(&principal, "ssh.open", format!("{id} {}", fingerprint(key)));
        let session =
            NewSshSession { id: session_id, gateway, workspace: id, principal: &principal, key: &owner.key };
        if !self.store.open_ssh_session(session, &event, self.store.now()).await? {
            warn!(workspace = %workspace.id, "a log-in was presented twice");
            return Ok(SshLogIn::Refused);
        }
        let boot_key = self.boot_key(boot).await?;
        let boot = boot.to_owned();
        Ok(SshLogIn::Granted(SshSession { workspace: workspace.id, boot, key: owner.key, boot_key }))
    }

    /// Has the VM admit its boot's key. Returns the host keys of its server, as SSH writes them.
    ///
    /// # Errors
    /// [`PrepareError`]
    pub async fn prepare_vm(&self, id: &WorkspaceId, boot: &str) -> Result<Vec<Vec<u8>>, PrepareError> {
        let workspace = self.store.workspace(id).await?.ok_or(PrepareError::NotRunning)?;
        if running_boot(&workspace) != Some(boot) {
            return Err(PrepareError::NotRunning);
        }
        let seed = self.boot_key(boot).await?;
        let request = PrepareSshRequest { gateway_key: ssh_gateway_keys::key(&seed)?.public_line() };
        let guest = Guest { workspace: id, owner: &workspace.user_id };
        let lines = self.guests.prepare_ssh(guest, request).await?;
        // Whatever else the guest says is ignored.
        let keys = lines.iter().filter_map(|line| PublicKey::parse(line).ok());
        Ok(keys.map(|key| key.blob().to_vec()).collect())
    }

    /// Decides once more about a session.
    ///
    /// # Errors
    /// [`Error`]
    pub async fn review(&self, id: &WorkspaceId, boot: &str, key: &SshKeyId) -> Result<SshReview, Error> {
        let Some(principal) = self.store.ssh_key_principal(key).await? else { return Ok(SshReview::Revoked) };
        match self.store.workspace(id).await? {
            Some(workspace) if workspace.user_id != principal.user => Ok(SshReview::Revoked),
            Some(workspace) if running_boot(&workspace) == Some(boot) => Ok(SshReview::GoesOn),
            Some(_) | None => Ok(SshReview::BootEnded),
        }
    }

    /// Returns those who have registered a key and may log in, the first one first.
    async fn owners(&self, key: &[u8]) -> Result<Vec<(SshKeyOwner, Principal)>, Error> {
        let mut owners = Vec::new();
        for owner in self.store.ssh_key_owners(&fingerprint(key)).await? {
            if owner.blob == key
                && let Some(principal) = self.store.ssh_key_principal(&owner.key).await?
            {
                owners.push((owner, principal));
            }
        }
        Ok(owners)
    }

    /// Returns the workspace that a user name means to the owners of a key, with the owner of both. A name alone is one of the first owner's:
    /// keys are public, so that anybody else may have registered this one too, to be taken for its owner.
    async fn resolve(
        &self,
        user_name: &str,
        owners: &[(SshKeyOwner, Principal)],
    ) -> Result<Option<(SshKeyOwner, Principal, Workspace)>, Error> {
        for target in ssh_targets(user_name) {
            let may_mean = match target {
                SshTarget::Id(..) => owners,
                SshTarget::Name(_) => owners.get(..1).unwrap_or_default(),
            };
            for (owner, principal) in may_mean {
                if let Some(workspace) = self.workspace_of(principal, &target).await? {
                    return Ok(Some((owner.clone(), principal.clone(), workspace)));
                }
            }
        }
        Ok(None)
    }

    async fn workspace_of(
        &self,
        principal: &Principal,
        target: &SshTarget,
    ) -> Result<Option<Workspace>, Error> {
        let found = match target {
            SshTarget::Id(id, name) => {
                let fits = |found: &Workspace| name.as_ref().is_none_or(|name| found.name == *name);
                self.store.workspace(id).await?.filter(fits)
            }
            SshTarget::Name(name) => {
                let page = Page { name: Some(name.to_string()), limit: 1, ..Page::default() };
                self.store.workspaces_of(principal, &page).await?.pop()
            }
        };
        Ok(found.filter(|workspace| workspace.user_id == principal.user))
    }

    /// Derives the seed of a boot's key (HKDF, RFC 5869), so that none is stored or delivered again.
    async fn boot_key(&self, boot: &str) -> Result<Zeroizing<Vec<u8>>, Error> {
        let secret = self.store.ssh_secret(SshSecret::BootKeys, self.store.now()).await?;
        let mut seed = Zeroizing::new(vec![0; SSH_SECRET_LEN]);
        let info = [BOOT_KEY_LABEL, boot.as_bytes()];
        let derived = Salt::new(HKDF_SHA256, &[]).extract(&secret);
        let filled = derived.expand(&info, SeedLen).and_then(|derived| derived.fill(&mut seed));
        filled.map_err(|_| Error::Damaged("a key of a boot cannot be derived".to_owned()))?;
        Ok(seed)
    }
}

/// Length of a seed, for HKDF.
struct SeedLen;

impl KeyType for SeedLen {
    fn len(&self) -> usize {
        SSH_SECRET_LEN
    }
}

/// Returns the boot that takes sessions.
fn running_boot(workspace: &Workspace) -> Option<&str> {
    let is_running = workspace.lifecycle.status == Status::Running;
    workspace.lifecycle.boot().filter(|_| is_running)
}
