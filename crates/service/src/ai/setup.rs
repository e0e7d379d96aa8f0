//! Setup of the AI proxy: what it has to know beside single calls. It is told of each change, also by another process, and gets the setup.

use std::sync::Arc;
use std::time::Duration;

use rigbox_store::{AiProxyState, Error, ProviderKeySecret, Store};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};

use super::field_tables::{FieldTables, TableTexts};
use super::models::{ModelSet, Models, Upstream};

/// Interval at which changes by other processes are read from the database. (`rigboxd admin` stores keys, for example.)
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// Interval at which the proxy is told that nothing has changed.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(1);

/// Source of setups.
#[derive(Clone)]
pub struct SetupSource {
    store: Store,
    models: Models,
    tables: FieldTables,
}

/// Setup of the AI proxy.
#[derive(Debug)]
pub struct AiSetup {
    /// The operator has stopped all calls.
    pub stopped: bool,
    /// Upstreams, each with its keys in the order in which they are tried.
    pub upstreams: Vec<(Upstream, Vec<ProviderKeySecret>)>,
    /// Models.
    pub models: Arc<ModelSet>,
    /// Tables of fields in place of those that ship with the proxy.
    pub tables: Arc<TableTexts>,
}

/// Changes of the setup, for one proxy.
pub struct SetupWatch {
    source: SetupSource,
    models: watch::Receiver<Arc<ModelSet>>,
    tables: watch::Receiver<Arc<TableTexts>>,
    /// State that the proxy was told last.
    told: Option<(AiProxyState, Instant)>,
    poll: tokio::time::Interval,
}

impl SetupSource {
    /// Creates the source.
    pub fn new(store: Store, models: Models, tables: FieldTables) -> Self {
        Self { store, models, tables }
    }

    /// Begins to watch.
    pub fn watch(&self) -> SetupWatch {
        let mut poll = tokio::time::interval(POLL_INTERVAL);
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (models, tables) = (self.models.subscribe(), self.tables.subscribe());
        SetupWatch { source: self.clone(), models, tables, told: None, poll }
    }

    /// Returns the present setup.
    ///
    /// # Errors
    /// [`Error`]
    pub async fn current(&self) -> Result<AiSetup, Error> {
        let stopped = self.store.ai_proxy_state()?.stopped;
        // Anew each time: keys are in this process's memory only while they are on their way.
        let mut keys = self.store.provider_key_secrets().await?;
        let of = |upstream: &Upstream| {
            let (own, others) =
                std::mem::take(&mut keys).into_iter().partition(|key| key.upstream == upstream.name);
            keys = others;
            (upstream.clone(), own)
        };
        let upstreams = self.models.upstreams().iter().map(of).collect();
        Ok(AiSetup { stopped, upstreams, models: self.models.current(), tables: self.tables.current() })
    }
}

impl SetupWatch {
    /// Returns true at first and after each change, and false after a second without one.
    ///
    /// # Errors
    /// [`Error`]
    pub async fn changed(&mut self) -> Result<bool, Error> {
        loop {
            self.poll.tick().await;
            let state = self.source.store.ai_proxy_state()?;
            let files_changed =
                self.models.has_changed().unwrap_or(false) || self.tables.has_changed().unwrap_or(false);
            let is_silent = self.told.is_some_and(|(_, at)| at.elapsed() >= KEEPALIVE_INTERVAL);
            if files_changed || self.told.is_none_or(|(told, _)| told != state) {
                self.models.mark_unchanged();
                self.tables.mark_unchanged();
                self.told = Some((state, Instant::now()));
                return Ok(true);
            }
            if is_silent {
                self.told = Some((state, Instant::now()));
                return Ok(false);
            }
        }
    }
}
