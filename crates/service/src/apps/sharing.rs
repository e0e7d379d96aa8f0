//! Word to the people with whom an app is shared: an email to each new address, where a mail server is configured. It goes to every address
//! alike, so that it does not reveal who has an account.

use std::num::NonZeroU32;
use std::sync::Arc;

use rigbox_core::app_access::Visibility;
use rigbox_core::authz::{Principal, Scope};
use rigbox_core::ids::UserId;
use rigbox_core::plans::Plan;
use rigbox_store::{App, Store};
use tracing::warn;

use crate::identity::email::Mailer;
use crate::identity::email_quota::EmailQuota;

/// Emails that one user causes at once.
const BURST: NonZeroU32 = NonZeroU32::new(20).unwrap();
/// Maximum number of emails being sent at the same time.
const MAX_PENDING_EMAILS: usize = 16;

/// Sender of the emails.
#[derive(Clone)]
pub(super) struct SharingEmails {
    store: Store,
    mailer: Arc<Mailer>,
    quota: Arc<EmailQuota<UserId>>,
}

impl SharingEmails {
    pub(super) fn new(store: Store, mailer: Arc<Mailer>) -> Self {
        Self { store, mailer, quota: Arc::new(EmailQuota::new(BURST, MAX_PENDING_EMAILS)) }
    }

    /// Sends an email to each address that a change of an app has let in. The change itself never waits or fails for it. Code in a
    /// workspace sends none.
    pub(super) fn send(&self, principal: &Principal, previous: &App, app: &App, url: &str) {
        if matches!(principal.scope, Scope::OwnWorkspace(_)) || matches!(*self.mailer, Mailer::Log) {
            return;
        }
        for address in new_addresses(previous, app) {
            let Ok(permit) = self.quota.take(&principal.user) else {
                warn!(user = %principal.user, app = %app.name, "too many emails about shared apps; sent none to the rest");
                return;
            };
            let (mailer, address) = (Arc::clone(&self.mailer), address.to_owned());
            let (store, user) = (self.store.clone(), principal.user.clone());
            let (name, url) = (app.name.clone(), url.to_owned());
            tokio::spawn(async move {
                match store.user(&user).await {
                    Ok(Some(owner)) => {
                        mailer.send_shared_app(&address, &owner.email, name.as_str(), &url).await
                    }
                    Ok(None) => {}
                    Err(error) => warn!(%error, "failed to read the owner of a shared app"),
                }
                drop(permit);
            });
        }
    }
}

/// Returns the addresses on an app's list without an account, for the administrator, who creates accounts. To anyone else the answer would
/// reveal who has one, so it is empty.
pub(super) async fn without_account(
    store: &Store,
    principal: &Principal,
    app: &App,
) -> Result<Vec<String>, rigbox_store::Error> {
    let mut missing = Vec::new();
    if principal.plan == Plan::Owner && principal.scope == Scope::Account {
        for address in &app.shared_with {
            if store.user_by_email(address).await?.is_none() {
                missing.push(address.clone());
            }
        }
    }
    Ok(missing)
}

/// Returns the addresses on an app's list that could not open it before by that list.
fn new_addresses<'a>(previous: &'a App, app: &'a App) -> impl Iterator<Item = &'a str> {
    let listed = |app: &'a App| match app.visibility {
        Visibility::Privileged => app.shared_with.as_slice(),
        Visibility::Private | Visibility::Public => &[],
    };
    listed(app).iter().filter(move |address| !listed(previous).contains(address)).map(String::as_str)
}
