//! Sign-in by link: a link is requested by email address and used once, which starts a session. Neither
//! responses nor their timing reveal whether an address has an account.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use rigbox_core::authz::{Credential, EndCredential, Permit, Principal};
use rigbox_store::tokens::{LinkToken, SessionToken, TokenKey};
use rigbox_store::{AuditEvent, NewSession, Store, User};
use tracing::warn;

use crate::clock;
use crate::identity::console_origin::ConsoleOrigin;
use crate::identity::email::{self, Mailer};
use crate::identity::email_quota::{EmailQuota, Refused};

/// Validity of a link.
pub const LINK_TTL_MINUTES: u64 = 15;
/// Time after which an unused session ends.
pub const SESSION_IDLE_TIMEOUT: Duration = Duration::from_mins(30);
/// Time after which a session ends, however much it is used.
pub const SESSION_MAX_LIFETIME: Duration = Duration::from_hours(12);
/// Maximum number of emails being sent at the same time.
const MAX_PENDING_EMAILS: usize = 64;
/// Links for one address at once.
const LINK_BURST: NonZeroU32 = NonZeroU32::new(5).unwrap();

/// Error of signing in.
#[derive(Debug, thiserror::Error)]
pub enum SignInError {
    /// The address is invalid.
    #[error("email: `{0}` is not an email address. Expected for example ada@example.org.")]
    InvalidEmail(String),
    /// Too many links were requested for the address.
    #[error("Too many links were requested for this address. Check your email, or try again in {0} s.")]
    TooMany(u32),
    /// Too many emails are being sent.
    #[error("Too many emails are being sent. Try again.")]
    Busy,
    /// The link is unknown, has expired or was used.
    #[error("This link has expired or was already used. Request a new one.")]
    InvalidLink,
    /// The database failed.
    #[error(transparent)]
    Store(#[from] rigbox_store::Error),
}

/// Service for signing in.
pub struct SignIn {
    store: Store,
    token_key: TokenKey,
    mailer: Arc<Mailer>,
    console: ConsoleOrigin,
    quota: EmailQuota<String>,
}

impl SignIn {
    /// Creates the service.
    pub fn new(store: Store, token_key: TokenKey, mailer: Arc<Mailer>, console: ConsoleOrigin) -> Self {
        let quota = EmailQuota::new(LINK_BURST, MAX_PENDING_EMAILS);
        Self { store, token_key, mailer, console, quota }
    }

    /// Sends a link if there is an account with this address. `next` is appended to the link's query and
    /// names the page to open after signing in.
    pub fn send_link(&self, email: &str, next: Option<String>) -> Result<(), SignInError> {
        let address = email::parse_address(email)
            .ok_or_else(|| SignInError::InvalidEmail(email.chars().take(64).collect()))?;
        // Counted whether or not there is an account.
        let permit = self.quota.take(&address).map_err(|refused| match refused {
            Refused::TooMany(seconds) => SignInError::TooMany(seconds),
            Refused::Busy => SignInError::Busy,
        })?;
        let (store, token_key, mailer) =
            (self.store.clone(), self.token_key.clone(), Arc::clone(&self.mailer));
        let origin = self.console.origin().to_owned();
        // The response waits for none of it, so that it takes the same time for every address.
        tokio::spawn(async move {
            let link = match store.user_by_email(&address).await {
                Ok(Some(user)) if user.disabled_at.is_none() => {
                    new_link(&store, &token_key, &origin, &user, next.as_deref()).await
                }
                Ok(_) => return,
                Err(error) => Err(error),
            };
            match link {
                Ok(link) => mailer.send_link(&address, &link, LINK_TTL_MINUTES).await,
                Err(error) => warn!(%error, "failed to create a sign-in link"),
            }
            drop(permit);
        });
        Ok(())
    }

    /// Returns the user that a link signs in, without using the link.
    pub async fn user_of_link(&self, token: &str) -> Result<User, SignInError> {
        let token = LinkToken::parse(token).ok_or(SignInError::InvalidLink)?;
        let user = self.store.user_of_link(&token, &self.token_key, clock::now()).await?;
        user.ok_or(SignInError::InvalidLink)
    }

    /// Uses a link and starts a session.
    pub async fn follow(&self, token: &str, from: std::net::IpAddr) -> Result<SessionToken, SignInError> {
        let link = LinkToken::parse(token).ok_or(SignInError::InvalidLink)?;
        let token = SessionToken::mint()?;
        let session =
            NewSession { token: &token, idle: SESSION_IDLE_TIMEOUT, max_lifetime: SESSION_MAX_LIFETIME };
        let signed_in = self.store.sign_in(&link, session, &self.token_key, Some(from), clock::now()).await?;
        signed_in.map(|_| token).ok_or(SignInError::InvalidLink)
    }

    /// Ends the caller's session, or revokes the key that `rig login` created. Returns `false` for any other
    /// credential, which is left alone.
    pub async fn end(&self, permit: &Permit<EndCredential>) -> Result<bool, SignInError> {
        let principal: &Principal = permit.principal();
        let now = clock::now();
        match &principal.credential {
            Credential::Session(id) => {
                let event = AuditEvent::by(principal, "session.end", id);
                self.store.end_session(id, &event, now).await?;
                Ok(true)
            }
            Credential::Key(id) => {
                let event = AuditEvent::by(principal, "key.revoke", id);
                Ok(self.store.end_login_key(id, &event, now).await?)
            }
            Credential::Workspace(_) | Credential::SshKey(_) => Ok(false),
        }
    }
}

/// Creates a link that signs a user in once.
pub async fn new_link(
    store: &Store,
    token_key: &TokenKey,
    origin: &str,
    user: &User,
    next: Option<&str>,
) -> Result<String, rigbox_store::Error> {
    let token = LinkToken::mint()?;
    let now = clock::now();
    store
        .add_link(&user.id, &token, token_key, now.after(Duration::from_mins(LINK_TTL_MINUTES)), now)
        .await?;
    let next = next.map(|next| format!("&{next}")).unwrap_or_default();
    Ok(format!("{origin}/sign-in/link?token={}{next}", token.reveal()))
}
