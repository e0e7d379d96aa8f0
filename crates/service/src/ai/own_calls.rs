//! Calls with a user's own key that stays outside of the workspace: each is recorded, and the proxy gets the key for it.

use rigbox_core::ai::mode::AiMode;
use rigbox_core::ai::own_key::{EffectiveAi, KeyDelivery};
use rigbox_core::ai::provider::Provider;
use rigbox_store::{OwnAiCall, OwnAiOutcome, Store};
use secrecy::SecretString;

use super::denial::{Denial, DenialReason};
use super::ledger::{LedgerError, MAX_OPEN_CALLS, check_name, unavailable};
use super::models::Models;

/// Service for such calls.
#[derive(Clone)]
pub struct OwnCalls {
    store: Store,
    models: Models,
}

/// Call that may be made.
pub struct OpenedCall {
    /// Name of the upstream.
    pub upstream: String,
    /// Key of the user.
    pub key: SecretString,
}

impl OwnCalls {
    /// Creates the service.
    pub fn new(store: Store, models: Models) -> Self {
        Self { store, models }
    }

    /// Records a call, and returns the key for it.
    ///
    /// # Errors
    /// [`LedgerError`]
    pub async fn open(&self, call: &OwnAiCall) -> Result<OpenedCall, LedgerError> {
        for name in [&call.id, &call.run, &call.model] {
            check_name(name)?;
        }
        let settings = self.store.workspace_ai(&call.workspace).await.map_err(unavailable)?;
        let settings = settings.ok_or_else(|| refused("This workspace is not there any more."))?;
        check(&settings.effective, call.provider)?;
        let key = self.store.own_ai_key(&call.workspace, call.provider).await.map_err(unavailable)?;
        let key = key.ok_or_else(|| refused(&no_key(call.provider)))?;
        // The key belongs to the provider itself, and goes to no other server that speaks its protocol.
        let upstream =
            self.models.upstreams().iter().find(|upstream| {
                upstream.name == call.provider.as_str() && upstream.provider == call.provider
            });
        let upstream = upstream.ok_or_else(|| {
            let provider = call.provider;
            refused(&format!("The proxy does not lead to {provider} here. Set key_delivery to env."))
        })?;
        let outcome = self.store.record_own_ai_call(call, MAX_OPEN_CALLS, self.store.now()).await;
        match outcome.map_err(unavailable)? {
            OwnAiOutcome::Recorded => Ok(OpenedCall { upstream: upstream.name.clone(), key }),
            OwnAiOutcome::Denied(denial) => Err(LedgerError::Denied(Denial::by_ledger(&denial, &call.model))),
            OwnAiOutcome::OtherRun => Err(LedgerError::OtherRun),
        }
    }
}

/// Checks that calls to a provider are made with the user's own key, by the proxy.
fn check(settings: &EffectiveAi, provider: Provider) -> Result<(), LedgerError> {
    if settings.mode != AiMode::Byok {
        return Err(refused(
            "AI calls of this workspace use the operator's keys. Set its AI mode to byok to use your own.",
        ));
    }
    if settings.delivery != KeyDelivery::Proxy {
        return Err(refused(
            "Your own key is in this workspace's environment. Set key_delivery to proxy to have it added to calls outside.",
        ));
    }
    if settings.provider != provider {
        return Err(refused(&no_key(provider)));
    }
    Ok(())
}

fn no_key(provider: Provider) -> String {
    format!(
        "This workspace has no key of its own at {provider}. Set one, or another provider, in its AI settings."
    )
}

fn refused(text: &str) -> LedgerError {
    LedgerError::Denied(Denial { reason: DenialReason::NotManaged, text: text.to_owned() })
}
