//! Who visits an app: what gateways ask of a host, of a credential, and of the code that a browser brings from the console.

use std::time::Duration;

use rigbox_core::app_access::{self, AppUser, CredentialSource};
use rigbox_core::authz::{Principal, ReadApp, Target, authorize};
use rigbox_core::ids::{AppId, UserId};
use rigbox_core::time::Timestamp;
use rigbox_store::tokens::{ApiKey, AppCode, TokenKey, WorkspaceKey};
use rigbox_store::{App, AppHandoff, AppWithWorkspace, Error, Store};
use secrecy::{ExposeSecret, SecretString};
use tracing::warn;

use crate::apps::tokens::{AppSession, AppTokens};
use crate::apps::urls::AppUrls;
use crate::clock;
use crate::identity::console_origin::ConsoleOrigin;
use crate::identity::sign_in::SESSION_IDLE_TIMEOUT;

/// A gateway asks again after this, so that a use is noted and an end by time is seen.
const IDENTITY_TTL: Duration = Duration::from_secs(60);
/// A browser is on its handoff from the console to the app for no longer.
const CODE_TTL: Duration = Duration::from_secs(60);
/// When a credential was used last is noted no more often than this.
const LAST_USED_INTERVAL: Duration = Duration::from_secs(60);

/// What was shown to an app's host.
pub enum PresentedCredential {
    Key(SecretString),
    Session(SecretString),
}

/// Whom it stands for.
pub enum Visitor {
    Unknown,
    Workspace,
    User(IdentifiedUser),
}

/// A user at an app.
pub struct IdentifiedUser {
    pub user: AppUser,
    /// To be requested for again then.
    pub until: Timestamp,
    pub assertion: String,
    pub assertion_until: Timestamp,
}

#[derive(Clone)]
pub struct AppVisitors {
    store: Store,
    token_key: TokenKey,
    tokens: AppTokens,
    domain: AppUrls,
    console: ConsoleOrigin,
}

impl AppVisitors {
    pub fn new(
        store: Store,
        token_key: TokenKey,
        tokens: AppTokens,
        domain: AppUrls,
        console: ConsoleOrigin,
    ) -> Self {
        Self { store, token_key, tokens, domain, console }
    }

    /// The app that a request's host means.
    pub fn app_at(&self, host: &str) -> Result<Option<AppWithWorkspace>, Error> {
        match self.domain.app_host(host) {
            Some(host) => Ok(self.store.app_at(&host)?.filter(|found| found.app.port.is_some())),
            None => Ok(None),
        }
    }

    pub fn origin(&self, app: &App) -> String {
        self.domain.origin(app)
    }

    /// Where a browser signs in for an app.
    pub fn sign_in_url(&self, app: &App) -> String {
        format!("{}/open/{}", self.console.origin(), app.id)
    }

    /// Whom a credential stands for at an app.
    pub async fn identify(&self, app: &AppId, shown: &PresentedCredential) -> Result<Visitor, Error> {
        let Some(found) = self.store.app(app)? else { return Ok(Visitor::Unknown) };
        match shown {
            PresentedCredential::Key(key) => self.by_key(&found.app, key.expose_secret()).await,
            PresentedCredential::Session(session) => {
                self.by_session(&found.app, session.expose_secret()).await
            }
        }
    }

    async fn by_key(&self, app: &App, key: &str) -> Result<Visitor, Error> {
        if let Some(key) = WorkspaceKey::parse(key) {
            let holder = self.store.workspace_key_principal(&self.token_key.hash(key.reveal())).await?;
            return Ok(if holder.is_some() { Visitor::Workspace } else { Visitor::Unknown });
        }
        let Some(key) = ApiKey::parse(key) else { return Ok(Visitor::Unknown) };
        let now = clock::now();
        let hash = self.token_key.hash(key.reveal());
        let Some((holder, ends)) = self.store.key_holder_until(&hash, now).await? else {
            return Ok(Visitor::Unknown);
        };
        let principal = holder.principal;
        let Some(user) = self.store.user(&principal.user).await? else { return Ok(Visitor::Unknown) };
        if holder.last_used_at.is_none_or(|last| now.since(last) >= LAST_USED_INTERVAL)
            && let rigbox_core::authz::Credential::Key(key) = &principal.credential
        {
            log_failure(self.store.key_used(key, now).await);
        }
        let user = AppUser {
            in_scope: covers(&principal, app),
            id: user.id,
            email: user.email,
            email_verified: user.email_verified,
            source: CredentialSource::Header,
        };
        self.identified(app, user, ends, now)
    }

    async fn by_session(&self, app: &App, session: &str) -> Result<Visitor, Error> {
        let now = clock::now();
        let Some(session) = self.tokens.open_session(session, &app.id, now) else {
            return Ok(Visitor::Unknown);
        };
        let Some(holder) = self.store.session_holder(&session, now).await? else {
            return Ok(Visitor::Unknown);
        };
        // Who is at work in an app is at work.
        if holder.idle_at.since(now) + LAST_USED_INTERVAL <= SESSION_IDLE_TIMEOUT {
            log_failure(self.store.session_used(&holder.id, SESSION_IDLE_TIMEOUT, now).await);
        }
        let user = AppUser {
            id: holder.user,
            email: holder.email,
            email_verified: true,
            in_scope: true,
            source: CredentialSource::Cookie,
        };
        self.identified(app, user, Some(holder.ends_at), now)
    }

    fn identified(
        &self,
        app: &App,
        user: AppUser,
        ends: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<Visitor, Error> {
        let (assertion, assertion_until) =
            self.tokens.assertion(app, &self.domain.origin(app), &user, now).map_err(Error::Random)?;
        let until = now.after(IDENTITY_TTL).min(ends.unwrap_or(Timestamp::from_unix_ms(i64::MAX)));
        Ok(Visitor::User(IdentifiedUser { user, until, assertion, assertion_until }))
    }

    /// Turns the code that a browser brought into a session of the app, and says until when that lasts at max.
    pub async fn redeem(
        &self,
        app: &AppId,
        code: &str,
        state: &str,
    ) -> Result<Option<(String, Timestamp)>, Error> {
        let Some(code) = AppCode::parse(code) else { return Ok(None) };
        let now = clock::now();
        let holder = self.store.redeem_app_code(&code, &self.token_key, app, state, now).await?;
        Ok(holder.map(|holder| {
            let session = AppSession { app: app.clone(), session: holder.id, ends_at: holder.ends_at };
            (self.tokens.seal_session(&session), holder.ends_at)
        }))
    }

    /// Sends somebody who is signed in on to an app with a code, if they may see it; to nowhere otherwise.
    pub async fn hand_off(
        &self,
        principal: &Principal,
        app: &str,
        state: &str,
    ) -> Result<Option<String>, Error> {
        let Ok(app) = app.parse::<AppId>() else { return Ok(None) };
        let (Some(found), rigbox_core::authz::Credential::Session(session)) =
            (self.store.app(&app)?, &principal.credential)
        else {
            return Ok(None);
        };
        if found.app.port.is_none() || !self.can_view(&principal.user, &found.app).await? {
            return Ok(None);
        }
        let code = AppCode::mint()?;
        let now = clock::now();
        let handoff = AppHandoff { app: &app, session, state, ttl: CODE_TTL };
        self.store.add_app_code(&code, &self.token_key, &handoff, now).await?;
        // The host is the app's own, whatever was requested for.
        let origin = self.domain.origin(&found.app);
        Ok(Some(format!("{origin}/.rigbox/callback?code={}&state={state}", code.reveal())))
    }

    async fn can_view(&self, user: &UserId, app: &App) -> Result<bool, Error> {
        let Some(user) = self.store.user(user).await? else { return Ok(false) };
        let user = AppUser {
            id: user.id,
            email: user.email,
            email_verified: user.email_verified,
            in_scope: true,
            source: CredentialSource::Cookie,
        };
        Ok(app_access::can_view(&policy_of(app), &user))
    }
}

/// An app, as the table of who may see it has it.
fn policy_of(app: &App) -> app_access::AppPolicy {
    app_access::AppPolicy {
        id: app.id.clone(),
        workspace: app.workspace_id.clone(),
        owner: app.user_id.clone(),
        visibility: app.visibility,
        shared_with: app.shared_with.clone(),
    }
}

/// Whether a key's own limits cover an app's workspace, whosever that is.
fn covers(principal: &Principal, app: &App) -> bool {
    let target = Target::Workspace { id: app.workspace_id.clone(), owner: principal.user.clone() };
    authorize::<ReadApp>(principal, target).is_ok()
}

/// Nobody waits for it, and it is tried again at the next use.
fn log_failure(outcome: Result<(), Error>) {
    if let Err(error) = outcome {
        warn!(%error, "when a credential was used last could not be noted");
    }
}
