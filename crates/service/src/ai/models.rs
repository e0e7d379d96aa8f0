//! Models that exist: those with a price whose upstream is configured. A changed price table is read anew while everything runs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rigbox_core::ai::provider::Provider;
use tokio::sync::watch;
use tracing::{error, info};

use super::price_table::{BUILT_IN, PriceTable};

pub use super::price_table::{ModelEntry, TableError};

/// Interval at which changed files are looked for.
const RELOAD_INTERVAL: Duration = Duration::from_secs(1);

/// Upstream of calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    /// Name in the configuration.
    pub name: String,
    /// Provider, whose dialect it speaks.
    pub provider: Provider,
    /// Scheme, host and port, and the provider's own prefix if it has one.
    pub base_url: String,
    /// It stops billing when a call is aborted.
    pub stops_billing_on_abort: bool,
}

/// Files with prices.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PriceFiles {
    /// Table in place of the built-in one.
    pub table: Option<PathBuf>,
    /// Table with more models, which replace those of the same id.
    pub more: Option<PathBuf>,
}

/// Model that exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Model {
    /// As clients and the provider name it.
    pub id: String,
    /// Provider.
    pub provider: Provider,
    /// Name of the upstream.
    pub upstream: String,
    /// Bounds and prices.
    pub entry: ModelEntry,
}

/// All models at a time.
#[derive(Debug, Default)]
pub struct ModelSet {
    by_id: BTreeMap<(Provider, String), Model>,
    /// Day and origin of the prices.
    pub origin: (String, String),
    /// Problem with the files as they are now, if there is one. These models are then those of before.
    pub problem: Option<TableError>,
}

impl ModelSet {
    /// Returns a provider's model.
    pub fn find(&self, provider: Provider, id: &str) -> Option<&Model> {
        self.by_id.get(&(provider, id.to_owned()))
    }

    /// Returns all models.
    pub fn iter(&self) -> impl Iterator<Item = &Model> {
        self.by_id.values()
    }
}

/// Service for models.
#[derive(Clone)]
pub struct Models {
    upstreams: Arc<[Upstream]>,
    files: Arc<PriceFiles>,
    set: watch::Sender<Arc<ModelSet>>,
    /// Versions of the files before they were first read.
    versions: Versions,
}

/// Time of the last change and length of each file, which tell one content from another.
type Versions = [Option<(SystemTime, u64)>; 2];

impl Models {
    /// Creates the service and reads the prices. If they are invalid, there are no models until they are corrected.
    pub fn new(upstreams: Vec<Upstream>, files: PriceFiles) -> Self {
        let versions = versions(&files);
        let set = read(&upstreams, &files).unwrap_or_else(|problem| {
            error!(%problem, "failed to read the AI prices");
            ModelSet { problem: Some(problem), ..ModelSet::default() }
        });
        let set = watch::channel(Arc::new(set)).0;
        Self { upstreams: upstreams.into(), files: Arc::new(files), set, versions }
    }

    /// Returns the upstreams.
    pub fn upstreams(&self) -> &[Upstream] {
        &self.upstreams
    }

    /// Returns the models of now.
    pub fn current(&self) -> Arc<ModelSet> {
        Arc::clone(&self.set.borrow())
    }

    /// Returns a receiver of changes.
    pub fn subscribe(&self) -> watch::Receiver<Arc<ModelSet>> {
        self.set.subscribe()
    }

    /// Reads changed files, for as long as it is polled.
    pub async fn run(&self) {
        let mut seen = self.versions;
        loop {
            tokio::time::sleep(RELOAD_INTERVAL).await;
            let versions = versions(&self.files);
            if versions != seen {
                seen = versions;
                self.reload();
            }
        }
    }

    /// Reads the files. A broken one is refused, and the models of before stay.
    pub(super) fn reload(&self) {
        let set = match read(&self.upstreams, &self.files) {
            Ok(set) => {
                info!(models = set.by_id.len(), date = set.origin.0, "read the AI prices");
                set
            }
            Err(problem) => {
                error!(%problem, "refused the AI prices; the previous ones stay");
                let before = self.current();
                let (by_id, origin) = (before.by_id.clone(), before.origin.clone());
                ModelSet { by_id, origin, problem: Some(problem) }
            }
        };
        self.set.send_replace(Arc::new(set));
    }
}

fn versions(files: &PriceFiles) -> Versions {
    [&files.table, &files.more].map(|path| {
        let metadata = std::fs::metadata(path.as_ref()?).ok()?;
        Some((metadata.modified().ok()?, metadata.len()))
    })
}

fn read(upstreams: &[Upstream], files: &PriceFiles) -> Result<ModelSet, TableError> {
    let mut table = match &files.table {
        Some(path) => read_table(path)?,
        None => PriceTable::parse(BUILT_IN)?,
    };
    if let Some(path) = &files.more {
        table.extend(read_table(path)?);
    }
    let mut by_id = BTreeMap::new();
    for (provider, models) in table.models {
        for (id, entry) in models {
            if let Some(upstream) = upstream_of(upstreams, provider, entry.upstream.as_deref()) {
                let upstream = upstream.name.clone();
                by_id.insert((provider, id.clone()), Model { id, provider, upstream, entry });
            }
        }
    }
    Ok(ModelSet { by_id, origin: (table.date, table.source), problem: None })
}

fn read_table(path: &Path) -> Result<PriceTable, TableError> {
    let file = |problem: String| TableError::File { path: path.display().to_string(), problem };
    let text = std::fs::read_to_string(path).map_err(|error| file(error.to_string()))?;
    PriceTable::parse(&text).map_err(|error| file(error.to_string()))
}

/// Returns the upstream of a model: the named one, or that of the provider's name, or the provider's first.
fn upstream_of<'a>(
    upstreams: &'a [Upstream],
    provider: Provider,
    name: Option<&str>,
) -> Option<&'a Upstream> {
    let of_provider = || upstreams.iter().filter(|upstream| upstream.provider == provider);
    match name {
        Some(name) => of_provider().find(|upstream| upstream.name == name),
        None => {
            of_provider().find(|upstream| upstream.name == provider.as_str()).or_else(|| of_provider().next())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upstream(name: &str, provider: Provider) -> Upstream {
        let base_url = format!("https://{name}.example");
        Upstream { name: name.to_owned(), provider, base_url, stops_billing_on_abort: false }
    }

    fn table(model: &str, output: u64, upstream: &str) -> String {
        format!(
            r#"{{"date":"2026-11-27","source":"test","models":{{"openrouter":{{"{model}":{{"context_tokens":1000,
            "max_output_tokens":10,{upstream}"prices":{{"rates":{{"input":1,"cache_read":1,"cache_write_5m":1,
            "cache_write_1h":1,"output":{output}}}}}}}}}}}}}"#
        )
    }

    #[test]
    fn model_exists_where_its_upstream_is_configured() {
        let models = Models::new(vec![upstream("eu", Provider::Anthropic)], PriceFiles::default());
        let set = models.current();
        assert_eq!(set.find(Provider::Anthropic, "claude-opus-4-6").unwrap().upstream, "eu");
        assert!(set.find(Provider::OpenAi, "gpt-5.4").is_none());
        // By id exactly: a dialect's suffixes and other spellings are other models.
        assert!(set.find(Provider::Anthropic, "claude-opus-4-6:free").is_none());
    }

    #[test]
    fn model_goes_to_the_upstream_that_its_table_names() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("more.json");
        let upstreams =
            vec![upstream("first", Provider::OpenRouter), upstream("openrouter", Provider::OpenRouter)];
        for (named, expected) in [
            ("", Some("openrouter")),
            ("\"upstream\":\"first\",", Some("first")),
            ("\"upstream\":\"x\",", None),
        ] {
            std::fs::write(&path, table("m", 1, named)).unwrap();
            let files = PriceFiles { more: Some(path.clone()), ..PriceFiles::default() };
            let set = Models::new(upstreams.clone(), files).current();
            assert_eq!(set.problem, None);
            assert_eq!(set.find(Provider::OpenRouter, "m").map(|model| model.upstream.as_str()), expected);
        }
    }

    #[test]
    fn changed_prices_count_and_broken_ones_leave_those_of_before() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("prices.json");
        std::fs::write(&path, table("m", 1, "")).unwrap();
        let files = PriceFiles { table: Some(path.clone()), ..PriceFiles::default() };
        let models = Models::new(vec![upstream("openrouter", Provider::OpenRouter)], files);
        let output = || {
            let set = models.current();
            (
                set.find(Provider::OpenRouter, "m").map(|model| model.entry.prices.rates.output),
                set.problem.is_some(),
            )
        };
        assert_eq!(output(), (Some(1), false));
        std::fs::write(&path, table("m", 22, "")).unwrap();
        models.reload();
        assert_eq!(output(), (Some(22), false));
        std::fs::write(&path, "{").unwrap();
        models.reload();
        assert_eq!(output(), (Some(22), true));
        std::fs::write(&path, table("m", 333, "")).unwrap();
        models.reload();
        assert_eq!(output(), (Some(333), false));
    }

    #[tokio::test]
    async fn changed_file_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("prices.json");
        std::fs::write(&path, table("m", 1, "")).unwrap();
        let files = PriceFiles { table: Some(path.clone()), ..PriceFiles::default() };
        let models = Models::new(vec![upstream("openrouter", Provider::OpenRouter)], files);
        let mut changes = models.subscribe();
        let changed = async {
            std::fs::write(&path, table("other", 1, "")).unwrap();
            changes.wait_for(|set| set.find(Provider::OpenRouter, "other").is_some()).await.map(drop)
        };
        let outcome = tokio::time::timeout(Duration::from_secs(20), async {
            tokio::select! {
                () = models.run() => panic!("it ends"),
                changed = changed => changed,
            }
        });
        outcome.await.unwrap().unwrap();
    }
}
