//! Who may see an app: [`decide`] is the whole table, and the only maker of a [`Permit`], without which no gateway opens a connection to
//! a VM.

mod source;
#[cfg(test)]
mod tests;

use std::fmt;
use std::str::FromStr;

use crate::ids::{AppId, UserId, WorkspaceId};

pub use source::{Source, Told};

/// To whom an app shows itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Visibility {
    /// Its owner.
    Private,
    /// Its owner, and users whose verified e-mail address is on its list.
    Privileged,
    /// Everybody.
    Public,
}

/// A text that is no visibility.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a visibility: expected private, privileged or public")]
pub struct BadVisibility(String);

impl Visibility {
    /// All of them, the narrowest first.
    pub const ALL: [Self; 3] = [Self::Private, Self::Privileged, Self::Public];

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Private => "private",
            Self::Privileged => "privileged",
            Self::Public => "public",
        }
    }
}

impl FromStr for Visibility {
    type Err = BadVisibility;

    fn from_str(text: &str) -> Result<Self, BadVisibility> {
        Self::ALL
            .into_iter()
            .find(|visibility| visibility.as_str() == text)
            .ok_or_else(|| BadVisibility(text.chars().take(64).collect()))
    }
}

impl fmt::Display for Visibility {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An app, as far as the decision goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct App {
    /// Which one.
    pub id: AppId,
    /// Where it runs.
    pub workspace: WorkspaceId,
    /// Whose it is.
    pub owner: UserId,
    /// To whom it shows itself.
    pub visibility: Visibility,
    /// E-mail addresses in lower case, for [`Visibility::Privileged`].
    pub shared_with: Vec<String>,
}

/// Who asks, once the credential has been checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Caller {
    /// No credential of the platform was shown.
    Nobody,
    /// One that is unknown, revoked, expired or another app's.
    Invalid,
    /// A workspace's own key: code in a VM is not its owner.
    Workspace,
    /// A user.
    User(User),
}

/// A user who was identified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Which one.
    pub id: UserId,
    /// The address, in lower case.
    pub email: String,
    /// The user has shown that the address is theirs.
    pub email_verified: bool,
    /// The credential's own limits cover this app's workspace.
    pub in_scope: bool,
    /// How the credential came.
    pub by: By,
}

/// How a credential came with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum By {
    /// In a header that a program sets on purpose.
    Key,
    /// In a cookie, which a browser sends along whoever made it ask.
    Cookie,
}

/// What kind of request it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A browser goes to a page at the top level of a tab.
    Navigation,
    /// A WebSocket is opened.
    WebSocket,
    /// A browser asks whether a page of another origin may ask (CORS); is that origin one of the app's `cors_origins`?
    Preflight {
        /// See above.
        listed: bool,
    },
    /// Anything else.
    Other,
}

/// Why a request goes no further.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// 302: the browser is sent to sign in.
    SignIn,
    /// 403: no credential.
    NoCredential,
    /// 403: the credential does not count, or not any more.
    BadCredential,
    /// 403: a user, but not one of those.
    NotAllowed,
    /// 403: a cookie that came along with what another site made the browser ask.
    ForeignSite,
    /// 204 with CORS headers.
    PreflightAllowed,
    /// 403.
    PreflightRefused,
}

/// Proof that a request may reach an app.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Permit {
    app: AppId,
    workspace: WorkspaceId,
    user: Option<UserId>,
}

impl Permit {
    /// The app that may be reached.
    pub fn app(&self) -> &AppId {
        &self.app
    }

    /// The workspace that may be dialled.
    pub fn workspace(&self) -> &WorkspaceId {
        &self.workspace
    }

    /// The user whom the app is told of; none if nobody counts as one here.
    pub fn user(&self) -> Option<&UserId> {
        self.user.as_ref()
    }
}

/// Decides.
///
/// A public app is everybody's, so nothing is refused there: a credential that would not count only does not say who asks.
///
/// # Errors
/// [`Refusal`]: what is answered instead.
pub fn decide(app: &App, caller: &Caller, kind: Kind, source: Source) -> Result<Permit, Refusal> {
    let permit = |user: Option<&User>| Permit {
        app: app.id.clone(),
        workspace: app.workspace.clone(),
        user: user.map(|user| user.id.clone()),
    };
    let user = match caller {
        Caller::User(user) => Some(user),
        Caller::Nobody | Caller::Invalid | Caller::Workspace => None,
    };
    let meant = user.is_none_or(|user| is_meant(user.by, kind, source));
    if app.visibility == Visibility::Public {
        return Ok(permit(user.filter(|user| meant && user.in_scope)));
    }
    if let Kind::Preflight { listed } = kind {
        return Err(if listed { Refusal::PreflightAllowed } else { Refusal::PreflightRefused });
    }
    match caller {
        Caller::Nobody if kind == Kind::Navigation => Err(Refusal::SignIn),
        Caller::Nobody => Err(Refusal::NoCredential),
        Caller::Invalid | Caller::Workspace => Err(Refusal::BadCredential),
        Caller::User(user) if !may_see(app, user) => Err(Refusal::NotAllowed),
        Caller::User(_) if !meant => Err(Refusal::ForeignSite),
        Caller::User(user) => Ok(permit(Some(user))),
    }
}

/// Whether the user may see the app at all, however the request came.
pub fn may_see(app: &App, user: &User) -> bool {
    let listed = || user.email_verified && app.shared_with.contains(&user.email);
    user.in_scope
        && match app.visibility {
            Visibility::Public => true,
            Visibility::Privileged => user.id == app.owner || listed(),
            Visibility::Private => user.id == app.owner,
        }
}

/// Whether an app that showed itself to `before` would show itself to more people: what code in a VM may not decide by itself.
pub fn widens(before: (Visibility, &[String]), after: (Visibility, &[String])) -> bool {
    match (before.0, after.0) {
        (Visibility::Public, _) | (_, Visibility::Private) => false,
        (_, Visibility::Public) => true,
        (Visibility::Private, Visibility::Privileged) => true,
        (Visibility::Privileged, Visibility::Privileged) => {
            after.1.iter().any(|email| !before.1.contains(email))
        }
    }
}

/// Whether a credential was sent because its holder wants this request. Apps of one installation are one site to a browser, so its
/// cookies come along with what a page of any of them makes it ask.
fn is_meant(by: By, kind: Kind, source: Source) -> bool {
    match (by, kind) {
        (By::Key, _) | (By::Cookie, Kind::Navigation) => true,
        (By::Cookie, _) => source == Source::Own,
    }
}
