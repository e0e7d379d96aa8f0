//! Signing in: a link is requested for by e-mail address and followed once, which begins a session. Whether there is a user with an address
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
use crate::console::Console;
use crate::mail::{self, Mailer};

/// A link is good for so long.
pub(crate) const LINK_MINUTES: u64 = 15;
/// A session that is not used ends after this.
pub(crate) const IDLE: Duration = Duration::from_mins(30);
/// However much it is used, it ends after this.
pub(crate) const LONGEST: Duration = Duration::from_hours(12);
/// Letters on their way at one time.
const MOST_LETTERS: usize = 64;
/// Links for one address: five at once, then one every three minutes.
const LINKS_AT_ONCE: NonZeroU32 = NonZeroU32::new(5).unwrap();
const LINK_EVERY: Duration = Duration::from_mins(3);
/// Addresses that are remembered before those that have been quiet are forgotten.
const MOST_ADDRESSES: usize = 10_000;

/// Why not.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SignInProblem {
    #[error("email: `{0}` is no e-mail address: expected e.g. ada@example.org")]
    InvalidEmail(String),
    #[error("too many links were requested for this address: look for the letters, or try again in {0} s")]
    TooMany(u32),
    #[error("too many letters are on their way: try again")]
    Busy,
    #[error(
        "this link is not good (any more): each is good once, for {LINK_MINUTES} minutes; ask for another"
    )]
    InvalidLink,
    #[error(transparent)]
    Store(#[from] rigbox_store::Error),
}

pub(crate) struct SignIn {
    store: Store,
    token_key: TokenKey,
    mailer: Arc<Mailer>,
    console: Console,
    letters: Arc<Semaphore>,
    by_address: DefaultKeyedRateLimiter<String>,
}

impl SignIn {
    pub(crate) fn new(store: Store, token_key: TokenKey, mailer: Mailer, console: Console) -> Self {
        let quota = Quota::with_period(LINK_EVERY).unwrap_or(Quota::per_hour(LINKS_AT_ONCE));
        Self {
            store,
            token_key,
            mailer: Arc::new(mailer),
            console,
            letters: Arc::new(Semaphore::new(MOST_LETTERS)),
            by_address: RateLimiter::keyed(quota.allow_burst(LINKS_AT_ONCE)),
        }
    }

    /// Has a link sent, if there is a user to send it to; `next` is what its query says besides, of where it leads.
    pub(crate) fn ask(&self, email: &str, next: Option<String>) -> Result<(), SignInProblem> {
        let address = mail::address(email)
            .ok_or_else(|| SignInProblem::InvalidEmail(email.chars().take(64).collect()))?;
        if self.by_address.len() >= MOST_ADDRESSES {
            self.by_address.retain_recent();
        }
        // Counted whether or not there is such a user.
        self.by_address.check_key(&address).map_err(|not_until| {
            let wait = not_until.wait_time_from(governor::clock::Clock::now(self.by_address.clock()));
            SignInProblem::TooMany(u32::try_from(wait.as_secs()).unwrap_or(u32::MAX).saturating_add(1))
        })?;
        let letter = Arc::clone(&self.letters).try_acquire_owned().map_err(|_| SignInProblem::Busy)?;
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
                Ok(link) => mailer.send_link(&address, &link, LINK_MINUTES).await,
                Err(error) => warn!(%error, "a sign-in link could not be made"),
            }
            drop(letter);
        });
        Ok(())
    }

    /// Who a link would sign in; it is not used up.
    pub(crate) async fn look(&self, token: &str) -> Result<User, SignInProblem> {
        let token = LinkToken::parse(token).ok_or(SignInProblem::InvalidLink)?;
        let user = self.store.user_of_link(&token, &self.token_key, clock::now()).await?;
        user.ok_or(SignInProblem::InvalidLink)
    }

    /// Uses a link up and begins a session.
    pub(crate) async fn follow(
        &self,
        token: &str,
        from: std::net::IpAddr,
    ) -> Result<SessionToken, SignInProblem> {
        let link = LinkToken::parse(token).ok_or(SignInProblem::InvalidLink)?;
        let token = SessionToken::mint()?;
        let session = NewSession { token: &token, idle: IDLE, max_lifetime: LONGEST };
        let signed_in = self.store.sign_in(&link, session, &self.token_key, Some(from), clock::now()).await?;
        signed_in.map(|_| token).ok_or(SignInProblem::InvalidLink)
    }

    /// Ends the caller's session, or the key that `rig login` made; another key is left alone: `false`.
    pub(crate) async fn end(&self, permit: &Permit<EndCredential>) -> Result<bool, SignInProblem> {
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

/// A link that signs a user in once.
pub(crate) async fn new_link(
    store: &Store,
    token_key: &TokenKey,
    origin: &str,
    user: &User,
    next: Option<&str>,
) -> Result<String, rigbox_store::Error> {
    let token = LinkToken::mint()?;
    let now = clock::now();
    store.add_link(&user.id, &token, token_key, now.after(Duration::from_mins(LINK_MINUTES)), now).await?;
    let next = next.map(|next| format!("&{next}")).unwrap_or_default();
    Ok(format!("{origin}/sign-in/link?token={}{next}", token.reveal()))
}
