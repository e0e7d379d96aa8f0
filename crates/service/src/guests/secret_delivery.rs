//! Delivery of secrets to running boots: the workspace's environment and its own key, through guestio to the agent. The node, which runs as
//! root, never sees them. The database has which boot has which revision, and only a hash of the key.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use rigbox_core::ai::environment::{self, KeyOwner};
use rigbox_core::ai::mode::AiMode;
use rigbox_core::ai::own_key::{AiStatus, EffectiveAi, KeyDelivery};
use rigbox_core::ai::provider::Provider;
use rigbox_core::ids::WorkspaceId;
use rigbox_proto::guest::DeliverSecretsRequest;
use rigbox_store::tokens::{TokenKey, WorkspaceKey};
use rigbox_store::{Error, Store};
use secrecy::ExposeSecret;
use tokio::time::Instant;
use tracing::info;

use crate::guests::client::GuestError;
use crate::guests::deliver::DeliverSecrets;

/// Variable with a host name that Vite's development server accepts besides `localhost`. A leading dot stands for all names below.
/// Without it, the server refuses the requests of its own app.
const VITE_HOSTS_VARIABLE: &str = "__VITE_ADDITIONAL_SERVER_ALLOWED_HOSTS";

/// Key that has been generated for a boot and is not delivered yet.
struct PendingKey {
    boot: String,
    key: WorkspaceKey,
}

/// Service that delivers secrets.
#[derive(Clone)]
pub struct SecretDelivery(Arc<Inner>);

struct Inner {
    store: Store,
    token_key: TokenKey,
    guests: Arc<dyn DeliverSecrets>,
    /// Domain for apps.
    apps_domain: String,
    /// Providers that the bridge leads to.
    ai_providers: Vec<Provider>,
    pending: Mutex<BTreeMap<WorkspaceId, PendingKey>>,
}

impl SecretDelivery {
    /// Creates the service of an installation whose apps are below `apps_domain`, and whose bridge leads to `ai_providers`.
    pub fn new(
        store: Store,
        token_key: TokenKey,
        guests: Arc<dyn DeliverSecrets>,
        apps_domain: &str,
        ai_providers: Vec<Provider>,
    ) -> Self {
        let (apps_domain, pending) = (apps_domain.to_owned(), Mutex::default());
        Self(Arc::new(Inner { store, token_key, guests, apps_domain, ai_providers, pending }))
    }

    /// Generates the key of a boot, unless it has one that is not delivered yet.
    pub async fn prepare(&self, id: &WorkspaceId, boot: &str) -> Result<(), Error> {
        if self.pending_key(id, boot).is_some() {
            return Ok(());
        }
        let key = WorkspaceKey::mint()?;
        let hash = self.0.token_key.hash(key.reveal());
        if self.0.store.set_workspace_key(id, boot, &hash).await? {
            self.pending().insert(id.clone(), PendingKey { boot: boot.to_owned(), key });
        }
        Ok(())
    }

    /// Delivers all secrets to a boot. Returns the revision of the environment that it has now, or `None` if the workspace was removed.
    pub async fn deliver(
        &self,
        id: &WorkspaceId,
        boot: &str,
    ) -> Result<Result<Option<i64>, GuestError>, Error> {
        if !self.0.store.has_workspace_key(id, boot).await? {
            // Usually it is there. Otherwise the process that generated it has ended before delivering it.
            self.prepare(id, boot).await?;
        }
        let workspace_key = self.pending_key(id, boot).map_or(String::new(), |key| key.reveal().to_owned());
        // The workspace was deleted.
        let Some(environment) = self.0.store.environment(id).await? else { return Ok(Ok(None)) };
        // Read after the revision: what changes in between is delivered again.
        let Some((ai, codex_config)) = self.ai(id).await? else { return Ok(Ok(None)) };
        let expose = |(name, value): (_, &secrecy::SecretString)| (name, value.expose_secret().to_owned());
        // The workspace's own variables come later, so they count.
        let platform = [(VITE_HOSTS_VARIABLE.to_owned(), format!(".{}", self.0.apps_domain))];
        let own = environment.variables.iter().map(|(name, value)| expose((name.to_string(), value)));
        let env = platform.into_iter().chain(ai).chain(own).collect();
        let delivery = DeliverSecretsRequest { env, workspace_key, codex_config };
        let started_at = Instant::now();
        if let Err(error) = self.0.guests.deliver(id, delivery).await {
            return Ok(Err(error));
        }
        let took_ms = u64::try_from(started_at.elapsed().as_millis()).unwrap_or(u64::MAX);
        info!(workspace = %id, boot, revision = environment.revision, took_ms, "delivered secrets");
        Ok(Ok(Some(environment.revision)))
    }

    /// Returns the variables for AI calls, and Codex's configuration, or `None` if the workspace was removed.
    async fn ai(&self, id: &WorkspaceId) -> Result<Option<(Vec<(String, String)>, String)>, Error> {
        let Some(mode) = self.0.store.workspace_ai_mode(id).await? else { return Ok(None) };
        let through_bridge = |providers: &[Provider], owner| {
            let variables =
                providers.iter().flat_map(|provider| environment::through_bridge(*provider, owner)).collect();
            (variables, environment::codex_config(providers, owner).unwrap_or_default())
        };
        if mode.current() == AiMode::Managed {
            let providers: &[Provider] = if mode.is_switched_off { &[] } else { &self.0.ai_providers };
            return Ok(Some(through_bridge(providers, KeyOwner::Operator)));
        }
        let Some(config) = self.0.store.workspace_ai(id).await? else { return Ok(None) };
        let EffectiveAi { provider, model, status, delivery, .. } = config.effective;
        let (mut variables, codex_config): (Vec<_>, _) = match delivery {
            _ if status != AiStatus::ByokActive => (Vec::new(), String::new()),
            KeyDelivery::Proxy if mode.is_switched_off => (Vec::new(), String::new()),
            KeyDelivery::Proxy => through_bridge(&[provider], KeyOwner::User),
            KeyDelivery::Env => {
                let key = self.0.store.own_ai_key(id, provider).await?;
                let variables =
                    key.iter().flat_map(|key| environment::with_own_key(provider, key.expose_secret()));
                let codex_config = key.is_some().then(|| environment::codex_config_with_own_key(provider));
                (variables.collect(), codex_config.flatten().unwrap_or_default())
            }
        };
        if !variables.is_empty() {
            variables.extend(environment::with_model(provider, &model));
        }
        Ok(Some((variables, codex_config)))
    }

    /// Removes the pending key of a workspace: its delivery is stored, so that from now on only the VM has it, or the workspace is gone.
    pub fn forget_key(&self, id: &WorkspaceId) {
        self.pending().remove(id);
    }

    fn pending_key(&self, id: &WorkspaceId, boot: &str) -> Option<WorkspaceKey> {
        self.pending().get(id).filter(|pending| pending.boot == boot).map(|pending| pending.key.clone())
    }

    fn pending(&self) -> std::sync::MutexGuard<'_, BTreeMap<WorkspaceId, PendingKey>> {
        self.0.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
