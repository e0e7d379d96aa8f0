//! Whose request this is: by the key in `Authorization: Bearer`, an API key of a user or the key that a running workspace has of itself,
//! or by the session in the cookie of the console.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use http::header::AUTHORIZATION;
use http::{HeaderMap, Method};
use rigbox_core::authz::{Credential, Principal};
use rigbox_core::ids::WorkspaceId;
use rigbox_core::time::Timestamp;
use rigbox_store::tokens::{ApiKey, TokenKey, WorkspaceKey};
use rigbox_store::{Error, KeyHolder, Store};
use tracing::warn;

use crate::clock;
use crate::console::Console;
use crate::service::sign_in;

/// When a key was used last is noted no more often than this.
const USED_EVERY: Duration = Duration::from_secs(60);

pub(crate) struct Auth {
    store: Store,
    token_key: TokenKey,
    console: Console,
    /// Credentials and addresses that are on record, and when that was, so that not every request asks the database.
    seen: Mutex<HashMap<(Credential, IpAddr), Timestamp>>,
}

/// As many are remembered; then all are forgotten and requested for again.
const MOST_SEEN: usize = 10_000;

/// Why nobody is known.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AuthError {
    #[error("no API key: send `Authorization: Bearer rb_...`")]
    Missing,
    #[error("this request comes from a page that is not the console's own: a session counts there only")]
    CrossSite,
    #[error("the Authorization header holds no API key: expected `Bearer rb_` and 43 letters and digits")]
    Malformed,
    #[error(
        "what changes something needs the workspace's own key: it is in /run/rigbox/key, for the group `developer`"
    )]
    WorkspaceKey,
    #[error("this API key is not known: it may have ended or been revoked; log in again")]
    Unknown,
    #[error(transparent)]
    Store(#[from] Error),
}

/// What of a use is not on record yet.
struct ToNote {
    /// Where it came from.
    place: bool,
    /// That it was now.
    time: bool,
}

impl Auth {
    pub(crate) fn new(store: Store, token_key: TokenKey, console: Console) -> Self {
        Self { store, token_key, console, seen: Mutex::default() }
    }

    /// What is to be noted of a use; the next caller is told that it was.
    fn to_note(
        &self,
        principal: &Principal,
        from: IpAddr,
        last_used_at: Option<Timestamp>,
        now: Timestamp,
    ) -> ToNote {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.len() >= MOST_SEEN {
            seen.clear();
        }
        match seen.entry((principal.credential.clone(), from)) {
            Entry::Vacant(entry) => {
                entry.insert(now);
                ToNote { place: true, time: last_used_at.is_none_or(|last| now.since(last) >= USED_EVERY) }
            }
            Entry::Occupied(mut entry) => {
                let time = now.since(*entry.get()) >= USED_EVERY;
                if time {
                    entry.insert(now);
                }
                ToNote { place: false, time }
            }
        }
    }

    /// Who calls the API.
    pub(crate) async fn principal(
        &self,
        method: &Method,
        headers: &HeaderMap,
        from: IpAddr,
    ) -> Result<Principal, AuthError> {
        if headers.contains_key(AUTHORIZATION) {
            return self.bearer(headers, from).await;
        }
        match self.visitor(headers, from).await? {
            // A browser sends its cookie whatever page asks.
            Some(_) if !self.console.is_own(method, headers) => Err(AuthError::CrossSite),
            Some(principal) => Ok(principal),
            None => Err(AuthError::Missing),
        }
    }

    /// The workspace that is at the other end of its bridge, and whom a request from there is made by: looking needs no key, all else
    /// the workspace's own, and none other counts.
    pub(crate) async fn bridged(
        &self,
        workspace: &WorkspaceId,
        method: &Method,
        headers: &HeaderMap,
    ) -> Result<(Principal, Option<Principal>), AuthError> {
        let own = self.store.workspace_principal(workspace).await?.ok_or(AuthError::Unknown)?;
        if !headers.contains_key(AUTHORIZATION) {
            let looks = method.is_safe().then(|| own.clone());
            return Ok((own, looks));
        }
        let shown = Self::bearer_token(headers)?;
        let holder = match WorkspaceKey::parse(shown) {
            Some(key) => self.store.workspace_key_principal(&self.token_key.hash(key.reveal())).await?,
            None => None,
        };
        let fits = holder.filter(|holder| holder.scope == own.scope);
        Ok((own, fits))
    }

    /// Who looks at a page of the console, if they are signed in.
    pub(crate) async fn visitor(
        &self,
        headers: &HeaderMap,
        from: IpAddr,
    ) -> Result<Option<Principal>, AuthError> {
        if !self.console.is_asked(headers) {
            return Ok(None);
        }
        let Some(token) = self.console.session(headers) else { return Ok(None) };
        let now = clock::now();
        let holder = self.store.session_principal(&token, &self.token_key, sign_in::IDLE, now).await?;
        Ok(holder.map(|holder| self.known(holder, from, now)))
    }

    fn bearer_token(headers: &HeaderMap) -> Result<&str, AuthError> {
        let mut values = headers.get_all(AUTHORIZATION).iter();
        let value = values.next().ok_or(AuthError::Missing)?;
        if values.next().is_some() {
            return Err(AuthError::Malformed);
        }
        let (scheme, key) =
            value.to_str().ok().and_then(|text| text.split_once(' ')).ok_or(AuthError::Malformed)?;
        let key = Some(key.trim()).filter(|_| scheme.eq_ignore_ascii_case("bearer"));
        key.ok_or(AuthError::Malformed)
    }

    async fn bearer(&self, headers: &HeaderMap, from: IpAddr) -> Result<Principal, AuthError> {
        let key = Self::bearer_token(headers)?;
        // Look-ups compare keyed hashes: their time says nothing about the key.
        if let Some(key) = WorkspaceKey::parse(key) {
            let holder = self.store.workspace_key_principal(&self.token_key.hash(key.reveal())).await?;
            return holder
                .map(|principal| Principal { from: Some(from), ..principal })
                .ok_or(AuthError::Unknown);
        }
        let key = ApiKey::parse(key).ok_or(AuthError::Malformed)?;
        let now = clock::now();
        let holder = self.store.key_holder(&self.token_key.hash(key.reveal()), now).await?;
        Ok(self.known(holder.ok_or(AuthError::Unknown)?, from, now))
    }

    /// Somebody known, with what is to be noted about it. Whoever calls does not wait for that.
    fn known(&self, holder: KeyHolder, from: IpAddr, now: Timestamp) -> Principal {
        let KeyHolder { mut principal, last_used_at } = holder;
        principal.from = Some(from);
        let to_note = self.to_note(&principal, from, last_used_at, now);
        if to_note.place {
            let (store, principal) = (self.store.clone(), principal.clone());
            tokio::spawn(async move {
                if let Err(error) = store.key_used_from(&principal, now).await {
                    warn!(%error, "where a key was used from could not be noted");
                }
            });
        }
        if to_note.time {
            let (store, credential) = (self.store.clone(), principal.credential.clone());
            tokio::spawn(async move {
                let noted = match &credential {
                    Credential::Key(key) => store.key_used(key, now).await,
                    Credential::Session(session) => store.session_used(session, sign_in::IDLE, now).await,
                    Credential::Workspace(_) => Ok(()),
                };
                if let Err(error) = noted {
                    warn!(%error, "when a credential was used last could not be noted");
                }
            });
        }
        principal
    }
}
