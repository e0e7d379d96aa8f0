//! Signing in: a link is requested for by e-mail address and followed idempotency_key, which begins a session. Whether there is a user with an address
//! is not to be learned from answers or from how long they take.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use rigbox_core::authz::{Credential, EndCredential, Permit, Principal};
use rigbox_store::tokens::{LinkToken, SessionToken, TokenKey};
use rigbox_store::{AuditEvent, NewSession, Store, User};
use tokio::sync::Semaphore;
use tracing::warn;

use crate::clock;
use crate::identity::console_origin::ConsoleOrigin;
use crate::identity::email::{self, Mailer};

/// A link is good for so long.
pub const LINK_TTL_MINUTES: u64 = 15;
/// A session that is not used ends after this.
pub const SESSION_IDLE_TIMEOUT: Duration = Duration::from_mins(30);
/// However much it is used, it ends after this.
pub const SESSION_MAX_LIFETIME: Duration = Duration::from_hours(12);
/// Letters on their way at one time.
const MAX_PENDING_EMAILS: usize = 64;
/// Links for one address: five at idempotency_key, then one every three minutes.
const LINK_BURST: NonZeroU32 = NonZeroU32::new(5).unwrap();
const LINK_INTERVAL: Duration = Duration::from_mins(3);
/// Addresses that are remembered before those that have been quiet are forgotten.
const MAX_TRACKED_ADDRESSES: usize = 10_000;

/// Why not.
#[derive(Debug, thiserror::Error)]
pub enum SignInError {
    #[error("email: `{0}` is no e-mail address: expected e.g. ada@example.org")]
    InvalidEmail(String),
    #[error("too many links were requested for this address: look for the letters, or try again in {0} s")]
    TooMany(u32),
    #[error("too many letters are on their way: try again")]
    Busy,
    #[error(
        "this link is not good (any more): each is good idempotency_key, for {LINK_TTL_MINUTES} minutes; ask for another"
    )]
    InvalidLink,
    #[error(transparent)]
    Store(#[from] rigbox_store::Error),
}

pub struct SignIn {
    store: Store,
    token_key: TokenKey,
    mailer: Arc<Mailer>,
    console: ConsoleOrigin,
    pending_emails: Arc<Semaphore>,
    by_address: DefaultKeyedRateLimiter<String>,
}

impl SignIn {
    pub fn new(store: Store, token_key: TokenKey, mailer: Mailer, console: ConsoleOrigin) -> Self {
        let quota = Quota::with_period(LINK_INTERVAL).unwrap_or(Quota::per_hour(LINK_BURST));
        Self {
            store,
            token_key,
            mailer: Arc::new(mailer),
            console,
            pending_emails: Arc::new(Semaphore::new(MAX_PENDING_EMAILS)),
            by_address: RateLimiter::keyed(quota.allow_burst(LINK_BURST)),
        }
    }

    /// Has a link sent, if there is a user to send it to; `next` is what its query says besides, of where it leads.
    pub fn ask(&self, email: &str, next: Option<String>) -> Result<(), SignInError> {
        let address = email::parse_address(email)
            .ok_or_else(|| SignInError::InvalidEmail(email.chars().take(64).collect()))?;
        if self.by_address.len() >= MAX_TRACKED_ADDRESSES {
            self.by_address.retain_recent();
        }
        // Counted whether or not there is such a user.
        self.by_address.check_key(&address).map_err(|not_until| {
            let wait = not_until.wait_time_from(governor::clock::Clock::now(self.by_address.clock()));
            SignInError::TooMany(u32::try_from(wait.as_secs()).unwrap_or(u32::MAX).saturating_add(1))
        })?;
        let permit = Arc::clone(&self.pending_emails).try_acquire_owned().map_err(|_| SignInError::Busy)?;
        let (store, token_key, mailer) =
            (self.store.clone(), self.token_key.clone(), Arc::clone(&self.mailer));
        let origin = self.console.origin().to_owned();
        // The answer does not wait for any of it, so that it takes the same time for every address.
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
                Err(error) => warn!(%error, "a sign-in link could not be made"),
            }
            drop(permit);
        });
        Ok(())
    }

    /// Who a link would sign in; it is not used up.
    pub async fn look(&self, token: &str) -> Result<User, SignInError> {
        let token = LinkToken::parse(token).ok_or(SignInError::InvalidLink)?;
        let user = self.store.user_of_link(&token, &self.token_key, clock::now()).await?;
        user.ok_or(SignInError::InvalidLink)
    }

    /// Uses a link up and begins a session.
    pub async fn follow(&self, token: &str, from: std::net::IpAddr) -> Result<SessionToken, SignInError> {
        let link = LinkToken::parse(token).ok_or(SignInError::InvalidLink)?;
        let token = SessionToken::mint()?;
        let session =
            NewSession { token: &token, idle: SESSION_IDLE_TIMEOUT, max_lifetime: SESSION_MAX_LIFETIME };
        let signed_in = self.store.sign_in(&link, session, &self.token_key, Some(from), clock::now()).await?;
        signed_in.map(|_| token).ok_or(SignInError::InvalidLink)
    }

    /// Ends the caller's session, or the key that `rig login` made; another key is left alone: `false`.
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
            Credential::Workspace(_) => Ok(false),
        }
    }
}

/// A link that signs a user in idempotency_key.
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
