//! The setup as control has sent it, ready for calls: upstreams with their keys, and models.

use std::sync::Arc;

use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue, Uri};
use rigbox_proto::ai::{self, Model, Provider};

use crate::tables::Tables;

/// Setup of the proxy.
pub(crate) struct Setup {
    /// The operator has stopped all calls.
    pub(crate) is_stopped: bool,
    pub(crate) tables: Tables,
    models: Vec<Model>,
    upstreams: Vec<Arc<Upstream>>,
}

/// Provider's server.
pub(crate) struct Upstream {
    pub(crate) name: String,
    pub(crate) provider: Provider,
    pub(crate) base: Uri,
    pub(crate) keys: Vec<Key>,
    pub(crate) stops_billing_on_abort: bool,
}

/// Key of a provider.
#[derive(Clone)]
pub(crate) struct Key {
    pub(crate) id: String,
    /// Marked as sensitive, which `Debug` and HPACK respect.
    bare: HeaderValue,
    bearer: HeaderValue,
    pub(crate) organization: String,
}

impl Key {
    fn new(key: &ai::ProviderKey) -> Option<Self> {
        let header = |text: String| {
            let mut value = HeaderValue::from_str(&text).ok()?;
            value.set_sensitive(true);
            Some(value)
        };
        Some(Self {
            id: key.id.clone(),
            bare: header(key.secret.clone())?,
            bearer: header(format!("Bearer {}", key.secret))?,
            organization: key.organization.clone(),
        })
    }

    /// Takes a user's own key, which has no id.
    pub(crate) fn of_user(secret: String) -> Option<Self> {
        Self::new(&ai::ProviderKey { id: String::new(), secret, organization: String::new() })
    }

    /// Returns the key itself.
    pub(crate) fn secret(&self) -> &[u8] {
        self.bare.as_bytes()
    }

    /// Tells if a text and the key have one in the other.
    pub(crate) fn is_in(&self, text: &str) -> bool {
        let (key, text) = (self.secret(), text.as_bytes());
        memchr::memmem::find(key, text).or_else(|| memchr::memmem::find(text, key)).is_some()
    }

    /// Adds the key to the headers of a request, as the provider wants it.
    pub(crate) fn add_to(&self, headers: &mut HeaderMap, provider: Provider) {
        match provider {
            Provider::Anthropic => headers.insert("x-api-key", self.bare.clone()),
            Provider::Google => headers.insert("x-goog-api-key", self.bare.clone()),
            Provider::Openai | Provider::Openrouter | Provider::Unspecified => {
                headers.insert(AUTHORIZATION, self.bearer.clone())
            }
        };
    }

    /// Adds the key to the headers of a request as a bearer token.
    pub(crate) fn add_as_bearer(&self, headers: &mut HeaderMap) {
        headers.insert(AUTHORIZATION, self.bearer.clone());
    }
}

impl Setup {
    /// Takes what is valid of a setup. Tables replace those that are `built_in`; if one is not valid, those of `before` stay.
    pub(crate) fn new(source: ai::Setup, built_in: &Tables, before: Option<&Self>) -> Self {
        let upstreams = source.upstreams.iter().filter_map(Upstream::new).map(Arc::new).collect();
        let tables = built_in.with(&source.tables).unwrap_or_else(|error| {
            tracing::error!(%error, "refused the operator's tables of fields; the previous ones stay");
            before.map_or(built_in, |before| &before.tables).clone()
        });
        Self { is_stopped: source.stopped, tables, models: source.models, upstreams }
    }

    /// Finds a key by its id, with its upstream.
    pub(crate) fn key(&self, id: &str) -> Option<(&Key, &Upstream)> {
        self.upstreams
            .iter()
            .find_map(|upstream| Some((upstream.keys.iter().find(|key| key.id == id)?, upstream.as_ref())))
    }

    /// Finds an upstream by its name.
    pub(crate) fn upstream(&self, name: &str) -> Option<&Arc<Upstream>> {
        self.upstreams.iter().find(|upstream| upstream.name == name)
    }

    /// Finds the model that clients of `provider` mean by a name, with its upstream.
    pub(crate) fn model(&self, provider: Provider, name: &str) -> Option<(&Model, &Arc<Upstream>)> {
        self.models.iter().filter(|model| model.id == name).find_map(|model| {
            let upstream = self.upstream(&model.upstream)?;
            (upstream.provider == provider).then_some((model, upstream))
        })
    }
}

impl Upstream {
    fn new(source: &ai::Upstream) -> Option<Self> {
        let base: Uri = source.base_url.trim_end_matches('/').parse().ok()?;
        if base.scheme().is_none() || base.authority().is_none() || base.query().is_some() {
            tracing::error!(upstream = source.name, "its base URL is not one; it is left out");
            return None;
        }
        Some(Self {
            name: source.name.clone(),
            provider: source.provider(),
            base,
            keys: source.keys.iter().filter_map(Key::new).collect(),
            stops_billing_on_abort: source.stops_billing_on_abort,
        })
    }

    /// Returns the address of a request. Scheme and host are those of the configuration, whatever the path is.
    pub(crate) fn uri(&self, path: &str, query: Option<&str>) -> Result<Uri, http::Error> {
        let prefix = self.base.path().trim_end_matches('/');
        let path = match query {
            Some(query) => format!("{prefix}{path}?{query}"),
            None => format!("{prefix}{path}"),
        };
        let mut parts = self.base.clone().into_parts();
        parts.path_and_query = Some(path.parse()?);
        Ok(Uri::from_parts(parts)?)
    }
}
