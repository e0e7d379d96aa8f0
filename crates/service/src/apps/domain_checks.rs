//! Repeated checks of verified custom domains: daily, and before a sign-in code goes to one. A domain may have lapsed and be somebody else's
//! by now.

use std::time::Duration;

use rigbox_store::{App, Error, Store};
use tracing::{info, warn};

use crate::apps::domain_verification::DomainVerifier;
use crate::clock;
use crate::gateways::Gateways;

/// Age of a proof at which it is made again.
const MAX_PROOF_AGE: Duration = Duration::from_hours(24);
/// Time for which a domain stays verified although DNS does not answer.
const MAX_SILENCE: Duration = Duration::from_hours(7 * 24);
/// Age of a proof up to which a sign-in code may go to the domain.
const CODE_PROOF_AGE: Duration = Duration::from_secs(60);
const CHECK_INTERVAL: Duration = Duration::from_secs(300);
/// Domains checked in one interval.
const MAX_CHECKS: u32 = 200;

/// Checks of custom domains.
#[derive(Clone)]
pub struct DomainChecks {
    store: Store,
    verifier: DomainVerifier,
    gateways: Gateways,
}

impl DomainChecks {
    /// Creates the service.
    pub fn new(store: Store, verifier: DomainVerifier, gateways: Gateways) -> Self {
        Self { store, verifier, gateways }
    }

    /// Checks domains daily, for as long as it is polled.
    pub async fn run(&self) {
        loop {
            if let Err(error) = self.check_all().await {
                warn!(%error, "failed to check custom domains");
            }
            tokio::time::sleep(CHECK_INTERVAL).await;
        }
    }

    async fn check_all(&self) -> Result<(), Error> {
        let before = clock::earlier(clock::now(), MAX_PROOF_AGE);
        for id in self.store.domains_proved_before(before, MAX_CHECKS).await? {
            if let Some(found) = self.store.app(&id)? {
                self.is_proved(&found.app, MAX_PROOF_AGE).await?;
            }
        }
        Ok(())
    }

    /// Returns whether a sign-in code may go to an app's custom domain now.
    ///
    /// # Errors
    /// Failures of the database.
    pub async fn may_receive_code(&self, app: &App) -> Result<bool, Error> {
        self.is_proved(app, CODE_PROOF_AGE).await
    }

    /// Returns whether there is a proof of an app's custom domain that is not older than `max_age`. Makes a new one if necessary; a domain
    /// without one is no longer verified.
    async fn is_proved(&self, app: &App, max_age: Duration) -> Result<bool, Error> {
        let (Some(domain), Some(proved_at)) = (&app.custom_domain, app.domain_verified_at) else {
            return Ok(false);
        };
        let age = clock::now().since(proved_at);
        if age < max_age {
            return Ok(true);
        }
        let silent = match self.verifier.is_fulfilled(&self.verifier.challenge(&app.id, domain)).await {
            Ok(true) => {
                self.store.domain_proved(&app.id, domain, clock::now()).await?;
                return Ok(true);
            }
            Ok(false) => false,
            Err(problem) => {
                warn!(%domain, problem, "failed to check a custom domain");
                true
            }
        };
        if !(silent && age < MAX_SILENCE) && self.store.domain_lost(app, clock::now()).await? {
            info!(%domain, app = %app.id, "a custom domain is no longer verified");
            self.gateways.apps_changed(&app.workspace_id).await;
        }
        Ok(false)
    }
}
