//! Visitors of apps: lookup of the app behind a host, of the user behind a credential, and the handoff of a
//! browser from the console to an app.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use rigbox_core::app_access::{self, AppUser, CredentialSource};
use rigbox_core::authz::{Principal, ReadApp, Target, authorize};
use rigbox_core::ids::{AppId, UserId};
use rigbox_core::time::Timestamp;
use rigbox_store::tokens::{ApiKey, AppCode, TokenKey, WorkspaceKey};
use rigbox_store::{App, AppHandoff, AppWithWorkspace, Error, Store};
use secrecy::{ExposeSecret, SecretString};
use tracing::warn;

use crate::apps::domain_checks::DomainChecks;
use crate::apps::tokens::{AppSession, AppTokens};
use crate::apps::urls::AppUrls;
use crate::clock;
use crate::identity::authenticate::{Authenticator, LAST_USED_INTERVAL};
use crate::identity::console_origin::ConsoleOrigin;
use crate::identity::sign_in::SESSION_IDLE_TIMEOUT;

/// Interval at which a gateway asks again, so that uses are recorded and expiry is noticed.
const IDENTITY_TTL: Duration = Duration::from_secs(60);
/// Validity of the code of the handoff of a browser from the console to an app.
const CODE_TTL: Duration = Duration::from_secs(60);

/// Credential sent with a request to an app.
pub enum PresentedCredential {
    /// API key.
    Key(SecretString),
    /// Token of the app's cookie.
    Session(SecretString),
}

/// Identity behind a credential.
pub enum Visitor {
    /// The credential is invalid.
    Unknown,
    /// A workspace, by its own key.
    Workspace,
    /// A user.
    User(IdentifiedUser),
}

/// User at an app.
pub struct IdentifiedUser {
    /// The user.
    pub user: AppUser,
    /// Time until which the identity is valid.
    pub until: Timestamp,
    /// Signed assertion for the app.
    pub assertion: String,
    /// Time at which to replace the assertion.
    pub assertion_until: Timestamp,
}

/// Service for visitors of apps.
#[derive(Clone)]
pub struct AppVisitors {
    store: Store,
    token_key: TokenKey,
    tokens: AppTokens,
    urls: AppUrls,
    console: ConsoleOrigin,
    domains: DomainChecks,
    authenticator: Arc<Authenticator>,
}

impl AppVisitors {
    /// Creates the service.
    pub fn new(
        store: Store,
        token_key: TokenKey,
        tokens: AppTokens,
        urls: AppUrls,
        console: ConsoleOrigin,
        domains: DomainChecks,
        authenticator: Arc<Authenticator>,
    ) -> Self {
        Self { store, token_key, tokens, urls, console, domains, authenticator }
    }

    /// Returns the app that a request's host refers to.
    pub fn app_at(&self, host: &str) -> Result<Option<AppWithWorkspace>, Error> {
        match self.urls.app_host(host) {
            Some(host) => Ok(self.store.app_at(&host)?.filter(|found| found.app.port.is_some())),
            None => Ok(None),
        }
    }

    /// Returns the canonical origin of an app.
    pub fn origin(&self, app: &App) -> String {
        self.urls.origin(app)
    }

    /// Returns the name of an app, which is part of its address.
    pub fn name_of(&self, id: &str) -> Result<Option<String>, Error> {
        let Ok(id) = id.parse() else { return Ok(None) };
        Ok(self.store.app(&id)?.map(|found| found.app.name.to_string()))
    }

    /// Returns the URL at which a browser signs in to an app.
    pub fn sign_in_url(&self, app: &App) -> String {
        format!("{}/open/{}", self.console.origin(), app.id)
    }

    /// Returns the identity behind a credential at an app.
    /// `from` is the address of the client who presents it now.
    pub async fn identify(
        &self,
        app: &AppId,
        credential: &PresentedCredential,
        from: Option<IpAddr>,
    ) -> Result<Visitor, Error> {
        let Some(found) = self.store.app(app)? else { return Ok(Visitor::Unknown) };
        match credential {
            PresentedCredential::Key(key) => self.by_key(&found.app, key.expose_secret(), from).await,
            PresentedCredential::Session(session) => {
                self.by_session(&found.app, session.expose_secret()).await
            }
        }
    }

    async fn by_key(&self, app: &App, key: &str, from: Option<IpAddr>) -> Result<Visitor, Error> {
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
        let Some(user) = self.store.user(&holder.principal.user).await? else { return Ok(Visitor::Unknown) };
        let principal = match from {
            Some(from) => self.authenticator.record_use(holder, from, now),
            None => holder.principal,
        };
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
        // Use of an app keeps the session alive.
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
            self.tokens.assertion(app, &self.urls.origin(app), &user, now).map_err(Error::Random)?;
        let until = now.after(IDENTITY_TTL).min(ends.unwrap_or(Timestamp::from_unix_ms(i64::MAX)));
        Ok(Visitor::User(IdentifiedUser { user, until, assertion, assertion_until }))
    }

    /// Exchanges a code, which a browser brought to `host`, for a session at the app. Returns its token and the latest time at which it
    /// ends.
    pub async fn redeem(
        &self,
        app: &AppId,
        code: &str,
        state: &str,
        host: &str,
    ) -> Result<Option<(String, Timestamp)>, Error> {
        let Some(code) = AppCode::parse(code) else { return Ok(None) };
        let now = clock::now();
        let holder = self.store.redeem_app_code(&code, &self.token_key, app, state, host, now).await?;
        Ok(holder.map(|holder| {
            let session = AppSession { app: app.clone(), session: holder.id, ends_at: holder.ends_at };
            (self.tokens.seal_session(&session), holder.ends_at)
        }))
    }

    /// Returns the URL that hands a signed-in user's browser off to an app: with a code, back to the host at which
    /// the sign-in began (without one, that of the app's name). If that host may not have a code, the URL is the app's own, where another
    /// sign-in begins. Returns `None` if the user may not open the app.
    pub async fn hand_off(
        &self,
        principal: &Principal,
        app: &str,
        state: &str,
        began_at: Option<&str>,
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
        let named = self.urls.named_host(&found.app.name);
        let host = began_at.unwrap_or(&named);
        let is_domain = found.app.custom_domain.as_ref().is_some_and(|domain| domain.as_str() == host);
        if host != named && !(is_domain && self.domains.may_receive_code(&found.app).await?) {
            return Ok(Some(format!("{}/", self.urls.origin_at(&named))));
        }
        let code = AppCode::mint()?;
        let handoff = AppHandoff { app: &app, session, state, host, ttl: CODE_TTL };
        self.store.add_app_code(&code, &self.token_key, &handoff, clock::now()).await?;
        let origin = self.urls.origin_at(host);
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

/// Returns the access policy of an app.
fn policy_of(app: &App) -> app_access::AppPolicy {
    app_access::AppPolicy {
        id: app.id.clone(),
        workspace: app.workspace_id.clone(),
        owner: app.user_id.clone(),
        visibility: app.visibility,
        shared_with: app.shared_with.clone(),
    }
}

/// Returns whether the scope of a credential covers an app's workspace, no matter who owns it.
fn covers(principal: &Principal, app: &App) -> bool {
    let target = Target::Workspace { id: app.workspace_id.clone(), owner: principal.user.clone() };
    authorize::<ReadApp>(principal, target).is_ok()
}

/// Logs a failure that no one waits for. The next use tries again.
fn log_failure(outcome: Result<(), Error>) {
    if let Err(error) = outcome {
        warn!(%error, "failed to record the last use of a credential");
    }
}
