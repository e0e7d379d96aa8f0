//! What control says, in the words of `rigbox_core::app_access`. A text that is none of ours makes the whole answer count for nothing.

use std::sync::Arc;

use http::HeaderValue;
use rigbox_core::app_access::{AppPolicy, AppUser, Caller, CredentialSource, Visibility};
use rigbox_proto::gateway;

use crate::headers::Person;

/// What stands at a host name.
#[derive(Debug)]
pub(crate) struct Route {
    /// The moment of what control has said (see `known`): it was asked after this one.
    pub(crate) moment: u64,
    pub(crate) app: AppPolicy,
    pub(crate) name: String,
    pub(crate) cors_origins: Vec<String>,
    pub(crate) state: State,
    pub(crate) sign_in_url: String,
    /// `scheme://host[:port]`.
    pub(crate) origin: String,
    /// Browsers speak TLS with it.
    pub(crate) secure: bool,
    pub(crate) host: String,
}

/// Whether the app can be reached.
#[derive(Debug)]
pub(crate) enum State {
    Up(Arc<Upstream>),
    AppStopped,
    WorkspaceDown,
}

/// What a connection leads to: a port of one boot of one VM.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Upstream {
    pub(crate) workspace: String,
    pub(crate) boot: String,
    pub(crate) port: u16,
}

/// Whom a credential stands for.
#[derive(Debug)]
pub(crate) struct Identity {
    pub(crate) moment: u64,
    pub(crate) caller: Caller,
    /// What the app is told, if the caller is a user.
    pub(crate) person: Option<Person>,
    /// Unix time, ms, from which on control has to be asked again.
    pub(crate) until_ms: i64,
    /// As `until_ms`, for new requests: their assertion has to last.
    pub(crate) fresh_until_ms: i64,
}

impl Route {
    /// Control's answer about `host`; `None` if it makes no sense.
    pub(crate) fn read(host: &str, moment: u64, route: gateway::Route) -> Option<Self> {
        let visibility = match route.visibility() {
            gateway::Visibility::Private => Visibility::Private,
            gateway::Visibility::Privileged => Visibility::Privileged,
            gateway::Visibility::Public => Visibility::Public,
            gateway::Visibility::Unspecified => return None,
        };
        let state = match route.state() {
            gateway::AppState::Available => State::Up(Arc::new(Upstream {
                workspace: route.workspace_id.clone(),
                boot: Some(route.boot_id.clone()).filter(|boot| !boot.is_empty())?,
                port: u16::try_from(route.port).ok().filter(|port| *port > 0)?,
            })),
            gateway::AppState::AppStopped => State::AppStopped,
            gateway::AppState::WorkspaceNotRunning => State::WorkspaceDown,
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
            moment,
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

    /// What a connection to it leads to, if it can be reached.
    pub(crate) fn upstream(&self) -> Option<&Arc<Upstream>> {
        match &self.state {
            State::Up(upstream) => Some(upstream),
            State::AppStopped | State::WorkspaceDown => None,
        }
    }
}

impl Identity {
    /// Control's answer about a credential that came `by`; `None` if it makes no sense. `forget_ms`: until when one that does not
    /// count is remembered.
    pub(crate) fn read(
        by: CredentialSource,
        moment: u64,
        identity: gateway::Identity,
        forget_ms: i64,
    ) -> Option<Self> {
        let (caller, person) = match identity.kind() {
            gateway::IdentityKind::Invalid => (Caller::Invalid, None),
            gateway::IdentityKind::Workspace => (Caller::Workspace, None),
            gateway::IdentityKind::User => {
                let user = AppUser {
                    id: identity.user_id.parse().ok()?,
                    email: identity.email.clone(),
                    email_verified: identity.email_verified,
                    in_scope: identity.in_scope,
                    by,
                };
                let text = |text: &str| HeaderValue::from_bytes(text.as_bytes()).ok();
                let mut assertion = text(&identity.assertion).filter(|text| !text.is_empty());
                if let Some(assertion) = &mut assertion {
                    assertion.set_sensitive(true);
                }
                let person =
                    Person { user: text(&identity.user_id)?, email: text(&identity.email)?, assertion };
                (Caller::User(user), Some(person))
            }
            gateway::IdentityKind::Unspecified => return None,
        };
        let end = |ms: i64| if ms == 0 { i64::MAX } else { ms };
        let until_ms = if person.is_some() {
            end(identity.expires_unix_ms)
        } else {
            forget_ms.min(end(identity.expires_unix_ms))
        };
        let fresh_until_ms = until_ms.min(end(identity.assertion_until_unix_ms));
        Some(Self { moment, caller, person, until_ms, fresh_until_ms })
    }
}
