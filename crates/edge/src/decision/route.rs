//! Replies of control as values of `rigbox_core::app_access`. A reply with a value that this version does not know is invalid as a whole.

use std::sync::Arc;

use http::HeaderValue;
use rigbox_core::app_access::{AppPolicy, AppUser, Caller, CredentialSource, Visibility};
use rigbox_gateway::dial::Upstream;
use rigbox_proto::gateway;

/// App at a host name.
#[derive(Debug)]
pub(crate) struct Route {
    /// Epoch in which the route was requested.
    pub(crate) epoch: u64,
    pub(crate) app: AppPolicy,
    pub(crate) name: String,
    pub(crate) cors_origins: Vec<String>,
    pub(crate) state: AppState,
    pub(crate) sign_in_url: String,
    /// `scheme://host[:port]`.
    pub(crate) origin: String,
    /// True if browsers reach the app by TLS.
    pub(crate) secure: bool,
    pub(crate) host: String,
}

/// State of an app.
#[derive(Debug)]
pub(crate) enum AppState {
    Available(Arc<Upstream>),
    Stopped,
    WorkspaceNotRunning,
}

/// Identity behind a credential.
#[derive(Debug)]
pub(crate) struct Identity {
    /// Epoch in which the identity was requested.
    pub(crate) epoch: u64,
    pub(crate) caller: Caller,
    /// Identity to forward to the app, if the caller is a user.
    pub(crate) forwarded: Option<ForwardedIdentity>,
    /// Unix time in milliseconds from which control has to be asked again.
    pub(crate) until_ms: i64,
    /// As `until_ms`, for new requests: their assertion has to be valid for a while.
    pub(crate) fresh_until_ms: i64,
}

/// Identity of a user in the headers that an app receives.
#[derive(Debug, Clone)]
pub(crate) struct ForwardedIdentity {
    pub(crate) user: HeaderValue,
    pub(crate) email: HeaderValue,
    pub(crate) assertion: Option<HeaderValue>,
}

impl Route {
    /// Parses control's reply about `host`. Returns `None` if it is invalid.
    pub(crate) fn parse(host: &str, epoch: u64, route: gateway::Route) -> Option<Self> {
        let visibility = match route.visibility() {
            gateway::Visibility::Private => Visibility::Private,
            gateway::Visibility::Privileged => Visibility::Privileged,
            gateway::Visibility::Public => Visibility::Public,
            gateway::Visibility::Unspecified => return None,
        };
        let state = match route.state() {
            gateway::AppState::Available => AppState::Available(Arc::new(Upstream {
                workspace: route.workspace_id.clone(),
                boot: Some(route.boot_id.clone()).filter(|boot| !boot.is_empty())?,
                port: u16::try_from(route.port).ok().filter(|port| *port > 0)?,
            })),
            gateway::AppState::AppStopped => AppState::Stopped,
            gateway::AppState::WorkspaceNotRunning => AppState::WorkspaceNotRunning,
            gateway::AppState::Unspecified => return None,
        };
        let app = AppPolicy {
            id: route.app_id.parse().ok()?,
            workspace: route.workspace_id.parse().ok()?,
            owner: route.owner_id.parse().ok()?,
            visibility,
            shared_with: route.shared_with,
        };
        Some(Self {
            epoch,
            app,
            name: route.app_name,
            cors_origins: route.cors_origins,
            state,
            sign_in_url: route.sign_in_url,
            secure: route.origin.starts_with("https://"),
            origin: route.origin,
            host: host.to_owned(),
        })
    }

    /// Returns the destination of connections to the app, if it is available.
    pub(crate) fn upstream(&self) -> Option<&Arc<Upstream>> {
        match &self.state {
            AppState::Available(upstream) => Some(upstream),
            AppState::Stopped | AppState::WorkspaceNotRunning => None,
        }
    }
}

impl Identity {
    /// Parses control's reply about a credential from `source`. Returns `None` if it is invalid. An invalid credential is cached until
    /// `invalid_until_ms`.
    pub(crate) fn parse(
        source: CredentialSource,
        epoch: u64,
        identity: gateway::Identity,
        invalid_until_ms: i64,
    ) -> Option<Self> {
        let (caller, forwarded) = match identity.kind() {
            gateway::IdentityKind::Invalid => (Caller::Invalid, None),
            gateway::IdentityKind::Workspace => (Caller::Workspace, None),
            gateway::IdentityKind::User => {
                let user = AppUser {
                    id: identity.user_id.parse().ok()?,
                    email: identity.email.clone(),
                    email_verified: identity.email_verified,
                    in_scope: identity.in_scope,
                    source,
                };
                let value = |text: &str| HeaderValue::from_bytes(text.as_bytes()).ok();
                let mut assertion = value(&identity.assertion).filter(|assertion| !assertion.is_empty());
                if let Some(assertion) = &mut assertion {
                    assertion.set_sensitive(true);
                }
                let forwarded = ForwardedIdentity {
                    user: value(&identity.user_id)?,
                    email: value(&identity.email)?,
                    assertion,
                };
                (Caller::User(user), Some(forwarded))
            }
            gateway::IdentityKind::Unspecified => return None,
        };
        let end = |ms: i64| if ms == 0 { i64::MAX } else { ms };
        let until_ms = if forwarded.is_some() {
            end(identity.expires_unix_ms)
        } else {
            invalid_until_ms.min(end(identity.expires_unix_ms))
        };
        let fresh_until_ms = until_ms.min(end(identity.assertion_until_unix_ms));
        Some(Self { epoch, caller, forwarded, until_ms, fresh_until_ms })
    }
}
