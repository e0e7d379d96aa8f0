//! Access to apps. [`decide`] is the whole decision table and the only way to obtain an [`AppPermit`],
//! without which no gateway opens a connection to a VM.

mod fetch_metadata;
#[cfg(test)]
mod tests;

use std::fmt;
use std::str::FromStr;

use crate::ids::{AppId, UserId, WorkspaceId};

pub use fetch_metadata::{FetchMetadata, Initiator};

/// Audience of an app, smallest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Visibility {
    /// Only its owner.
    Private,
    /// Its owner and users whose verified email address is on its sharing list.
    Privileged,
    /// Everyone.
    Public,
}

/// Error for a text that is not a visibility.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a valid visibility. Use private, privileged or public.")]
pub struct InvalidVisibility(String);

impl Visibility {
    /// All visibilities, narrowest first.
    pub const ALL: [Self; 3] = [Self::Private, Self::Privileged, Self::Public];

    /// Returns the wire name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Private => "private",
            Self::Privileged => "privileged",
            Self::Public => "public",
        }
    }
}

impl FromStr for Visibility {
    type Err = InvalidVisibility;

    fn from_str(text: &str) -> Result<Self, InvalidVisibility> {
        Self::ALL
            .into_iter()
            .find(|visibility| visibility.as_str() == text)
            .ok_or_else(|| InvalidVisibility(text.chars().take(64).collect()))
    }
}

impl fmt::Display for Visibility {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Facts about an app that the access decision depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppPolicy {
    /// Id of the app.
    pub id: AppId,
    /// Workspace that serves the app.
    pub workspace: WorkspaceId,
    /// Owner of the app.
    pub owner: UserId,
    /// Audience of the app.
    pub visibility: Visibility,
    /// Lower-case email addresses that [`Visibility::Privileged`] admits.
    pub shared_with: Vec<String>,
}

/// Caller of an app, after its credential has been checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Caller {
    /// No platform credential was presented.
    Anonymous,
    /// The credential is unknown, revoked, expired, or belongs to another app.
    Invalid,
    /// A workspace's own key. Code in a VM does not act as the VM's owner.
    Workspace,
    /// An identified user.
    User(AppUser),
}

/// User identified at an app.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppUser {
    /// Id of the user.
    pub id: UserId,
    /// Email address in lower case.
    pub email: String,
    /// True if the user has proved ownership of the address.
    pub email_verified: bool,
    /// True if the credential's scope covers the app's workspace.
    pub in_scope: bool,
    /// Where in the request the credential was found.
    pub source: CredentialSource,
}

/// Place of a credential in a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CredentialSource {
    /// A header, which a program sets deliberately.
    Header,
    /// A cookie, which a browser attaches whichever page caused the request.
    Cookie,
}

/// Kind of request, as far as access depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RequestKind {
    /// A browser navigates a top-level tab to a page.
    Navigation,
    /// The opening handshake of a WebSocket.
    WebSocket,
    /// A CORS preflight.
    Preflight {
        /// True if the requesting origin is one of the app's `cors_origins`.
        listed: bool,
    },
    /// Any other request.
    Other,
}

/// Reason for refusing a request, with the response that follows from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// 302: the browser is redirected to sign in.
    SignIn,
    /// 403: no credential.
    MissingCredential,
    /// 403: the credential is not, or no longer, valid.
    InvalidCredential,
    /// 403: the user does not have access to the app.
    NotAllowed,
    /// 403: a cookie attached to a request that another site caused.
    CrossSite,
    /// 204 with CORS headers.
    PreflightAllowed,
    /// 403: the origin is not allowed.
    PreflightDenied,
}

/// Proof that a request may reach an app.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppPermit {
    app: AppId,
    workspace: WorkspaceId,
    user: Option<UserId>,
}

impl AppPermit {
    /// Returns the app the permit is for.
    pub fn app(&self) -> &AppId {
        &self.app
    }

    /// Returns the workspace the permit allows to dial.
    pub fn workspace(&self) -> &WorkspaceId {
        &self.workspace
    }

    /// Returns the user whose identity is forwarded to the app, if any.
    pub fn user(&self) -> Option<&UserId> {
        self.user.as_ref()
    }
}

/// Decides whether a request may reach an app.
///
/// A public app refuses nothing: there, an invalid credential only means that no identity is forwarded.
///
/// # Errors
/// [`Refusal`]: the response to send instead.
pub fn decide(
    app: &AppPolicy,
    caller: &Caller,
    kind: RequestKind,
    initiator: Initiator,
) -> Result<AppPermit, Refusal> {
    let permit = |user: Option<&AppUser>| AppPermit {
        app: app.id.clone(),
        workspace: app.workspace.clone(),
        user: user.map(|user| user.id.clone()),
    };
    let user = match caller {
        Caller::User(user) => Some(user),
        Caller::Anonymous | Caller::Invalid | Caller::Workspace => None,
    };
    let intended = user.is_none_or(|user| is_intended(user.source, kind, initiator));
    if app.visibility == Visibility::Public {
        return Ok(permit(user.filter(|user| intended && user.in_scope)));
    }
    if let RequestKind::Preflight { listed } = kind {
        return Err(if listed { Refusal::PreflightAllowed } else { Refusal::PreflightDenied });
    }
    match caller {
        Caller::Anonymous if kind == RequestKind::Navigation => Err(Refusal::SignIn),
        Caller::Anonymous => Err(Refusal::MissingCredential),
        Caller::Invalid | Caller::Workspace => Err(Refusal::InvalidCredential),
        Caller::User(user) if !can_view(app, user) => Err(Refusal::NotAllowed),
        Caller::User(_) if !intended => Err(Refusal::CrossSite),
        Caller::User(user) => Ok(permit(Some(user))),
    }
}

/// Returns whether the user has access to the app, regardless of how the request was made.
pub fn can_view(app: &AppPolicy, user: &AppUser) -> bool {
    let listed = || user.email_verified && app.shared_with.contains(&user.email);
    user.in_scope
        && match app.visibility {
            Visibility::Public => true,
            Visibility::Privileged => user.id == app.owner || listed(),
            Visibility::Private => user.id == app.owner,
        }
}

/// Returns whether a change lets more people see an app. Code inside a VM is not allowed to make such a
/// change.
pub fn widens_visibility(before: (Visibility, &[String]), after: (Visibility, &[String])) -> bool {
    match (before.0, after.0) {
        (Visibility::Public, _) | (_, Visibility::Private) => false,
        (_, Visibility::Public) => true,
        (Visibility::Private, Visibility::Privileged) => true,
        (Visibility::Privileged, Visibility::Privileged) => {
            after.1.iter().any(|email| !before.1.contains(email))
        }
    }
}

/// Returns whether the credential's holder intended this request (protection against CSRF). To a browser all
/// apps of an installation are one site, so it attaches their cookies to requests that any of them causes.
fn is_intended(source: CredentialSource, kind: RequestKind, initiator: Initiator) -> bool {
    match (source, kind) {
        (CredentialSource::Header, _) | (CredentialSource::Cookie, RequestKind::Navigation) => true,
        (CredentialSource::Cookie, _) => initiator == Initiator::SameOrigin,
    }
}
