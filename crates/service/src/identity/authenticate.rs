//! Authentication of API callers: by an API key, by a workspace's own key, or by a browser session. Takes plain values; reading them from
//! a request is up to the caller.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rigbox_core::authz::{Credential, Principal};
use rigbox_core::ids::WorkspaceId;
use rigbox_core::time::Timestamp;
use rigbox_store::tokens::{ApiKey, SessionToken, TokenKey, WorkspaceKey};
use rigbox_store::{Error, KeyHolder, Store};
use tracing::warn;

use crate::clock;
use crate::identity::open_requests::{Authenticated, CredentialRef};
use crate::identity::sign_in;

/// Minimum interval between two records of a credential's last use.
pub(crate) const LAST_USED_INTERVAL: Duration = Duration::from_secs(60);
/// Maximum number of recent uses to remember; the map is cleared when it is full.
const MAX_RECENT_USES: usize = 10_000;

/// Authenticator of API callers.
pub struct Authenticator {
    store: Store,
    token_key: TokenKey,
    /// Uses that are already recorded, by credential and address, so that not every request writes to the database.
    recent_uses: Mutex<HashMap<(Credential, IpAddr), Timestamp>>,
}

/// Reason that a caller is not authenticated.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// No credential.
    #[error("API key missing. Send it as `Authorization: Bearer rb_...`.")]
    Missing,
    /// A session cookie attached to a request from another site's page.
    #[error(
        "This request comes from a page of another site. A session is valid on the console's own pages only."
    )]
    CrossSite,
    /// Not a token.
    #[error("Invalid Authorization header. Expected `Bearer rb_` followed by 43 letters and digits.")]
    Malformed,
    /// A change from inside a workspace without the workspace's key.
    #[error("Changes require the workspace's own key. Read it from /run/rigbox/key (group `developer`).")]
    WorkspaceKey,
    /// Unknown, expired or revoked.
    #[error("Your API key or session is invalid or has expired. Sign in, or run `rig login`, again.")]
    Unknown,
    /// The database failed.
    #[error(transparent)]
    Store(#[from] Error),
}

/// Parts of a use that are not recorded yet.
struct UseToRecord {
    address: bool,
    time: bool,
}

impl Authenticator {
    /// Creates an authenticator.
    pub fn new(store: Store, token_key: TokenKey) -> Self {
        Self { store, token_key, recent_uses: Mutex::default() }
    }

    /// Authenticates the holder of an API key or a workspace key, as sent by a client at `from`.
    ///
    /// # Errors
    /// [`AuthError::Malformed`], [`AuthError::Unknown`], [`AuthError::Store`]
    pub async fn bearer(&self, token: &str, from: IpAddr) -> Result<Authenticated, AuthError> {
        // Lookups compare keyed hashes: their timing says nothing about the key.
        if let Some(key) = WorkspaceKey::parse(token) {
            let holder = self.workspace_key(&key).await?.ok_or(AuthError::Unknown)?;
            let principal = Principal { from: Some(from), ..holder.principal };
            return Ok(Authenticated { principal, ..holder });
        }
        let key = ApiKey::parse(token).ok_or(AuthError::Malformed)?;
        let now = clock::now();
        let hash = self.token_key.hash(key.reveal());
        let (holder, until) = self.store.key_holder_until(&hash, now).await?.ok_or(AuthError::Unknown)?;
        let principal = self.record_use(holder, from, now);
        Ok(Authenticated { principal, credential: CredentialRef::Key(hash), until })
    }

    /// Authenticates the user of a browser session, if it is valid.
    ///
    /// # Errors
    /// [`AuthError::Store`]
    pub async fn session(
        &self,
        token: &SessionToken,
        from: IpAddr,
    ) -> Result<Option<Authenticated>, AuthError> {
        let now = clock::now();
        let holder =
            self.store.session_principal(token, &self.token_key, sign_in::SESSION_IDLE_TIMEOUT, now).await?;
        let Some((holder, until)) = holder else { return Ok(None) };
        let Credential::Session(id) = &holder.principal.credential else { return Ok(None) };
        let (credential, until) = (CredentialRef::Session(id.clone()), Some(until));
        Ok(Some(Authenticated { principal: self.record_use(holder, from, now), credential, until }))
    }

    /// Authenticates the workspace at the other end of its bridge. Returns the workspace, and the principal of the request, if it has
    /// one: reading needs no key (`is_safe`), anything else the workspace's own key, and no other key is accepted.
    ///
    /// # Errors
    /// [`AuthError::Unknown`], [`AuthError::Store`]
    pub async fn workspace(
        &self,
        workspace: &WorkspaceId,
        token: Option<&str>,
        is_safe: bool,
    ) -> Result<(Principal, Option<Authenticated>), AuthError> {
        let own = self.store.workspace_principal(workspace).await?.ok_or(AuthError::Unknown)?;
        let Some(token) = token else {
            let credential = CredentialRef::Workspace(workspace.clone());
            let reader = Authenticated { principal: own.clone(), credential, until: None };
            return Ok((own, is_safe.then_some(reader)));
        };
        let holder = match WorkspaceKey::parse(token) {
            Some(key) => self.workspace_key(&key).await?,
            None => None,
        };
        let holder = holder.filter(|holder| holder.principal.scope == own.scope);
        Ok((own, holder))
    }

    /// Returns the workspace whose own key this is.
    async fn workspace_key(&self, key: &WorkspaceKey) -> Result<Option<Authenticated>, AuthError> {
        let hash = self.token_key.hash(key.reveal());
        let Some(principal) = self.store.workspace_key_principal(&hash).await? else { return Ok(None) };
        let Credential::Workspace(id) = &principal.credential else { return Ok(None) };
        let credential = CredentialRef::WorkspaceKey(id.clone(), hash);
        Ok(Some(Authenticated { principal, credential, until: None }))
    }

    /// Returns the parts of a use that need recording, and marks them as recorded.
    fn use_to_record(
        &self,
        principal: &Principal,
        from: IpAddr,
        last_used_at: Option<Timestamp>,
        now: Timestamp,
    ) -> UseToRecord {
        let mut recent_uses = self.recent_uses.lock().unwrap_or_else(PoisonError::into_inner);
        if recent_uses.len() >= MAX_RECENT_USES {
            recent_uses.clear();
        }
        match recent_uses.entry((principal.credential.clone(), from)) {
            Entry::Vacant(entry) => {
                entry.insert(now);
                let time = last_used_at.is_none_or(|last| now.since(last) >= LAST_USED_INTERVAL);
                UseToRecord { address: true, time }
            }
            Entry::Occupied(mut entry) => {
                let time = now.since(*entry.get()) >= LAST_USED_INTERVAL;
                if time {
                    entry.insert(now);
                }
                UseToRecord { address: false, time }
            }
        }
    }

    /// Returns the principal of a valid credential, and records its use in the background.
    pub(crate) fn record_use(&self, holder: KeyHolder, from: IpAddr, now: Timestamp) -> Principal {
        let KeyHolder { mut principal, last_used_at } = holder;
        principal.from = Some(from);
        let use_to_record = self.use_to_record(&principal, from, last_used_at, now);
        if use_to_record.address {
            let (store, principal) = (self.store.clone(), principal.clone());
            tokio::spawn(async move {
                if let Err(error) = store.key_used_from(&principal, now).await {
                    warn!(%error, "failed to record the address of a key's use");
                }
            });
        }
        if use_to_record.time {
            let (store, credential) = (self.store.clone(), principal.credential.clone());
            tokio::spawn(async move {
                let recorded = match &credential {
                    Credential::Key(key) => store.key_used(key, now).await,
                    Credential::Session(session) => {
                        store.session_used(session, sign_in::SESSION_IDLE_TIMEOUT, now).await
                    }
                    Credential::Workspace(_) | Credential::SshKey(_) => Ok(()),
                };
                if let Err(error) = recorded {
                    warn!(%error, "failed to record the time of a credential's use");
                }
            });
        }
        principal
    }
}
