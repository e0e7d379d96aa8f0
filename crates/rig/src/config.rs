//! Which server, and with which key: the environment first, then `~/.rigbox/config.json`, then, inside a workspace, its bridge, then this
//! machine.

use std::fmt;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use reqwest::Url;
use reqwest::header::HeaderValue;
use serde::Deserialize;
use serde_json::{Value, json};

const DEFAULT_URL: &str = "http://localhost:7070";
const URL_VARIABLE: &str = "RIG_API_URL";
/// What a workspace knows about itself: where it is, `rig` runs inside one.
pub(crate) const WITHIN: &str = "/run/rigbox/workspace.json";
/// The key that a workspace has of itself, for the group `developer`.
const OWN_KEY: &str = "/run/rigbox/key";
/// Where a workspace reaches what is in its scope.
const BRIDGE: &str = "http://172.16.0.1:9090";
const KEY_VARIABLE: &str = "RIG_API_KEY";

/// Where a value came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// The environment.
    Env,
    /// The file.
    Config,
    /// The workspace that this runs in.
    Bridge,
    /// Nobody said it.
    None,
}

impl Source {
    /// As `rig whoami` says it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Env => "env",
            Self::Config => "config",
            Self::Bridge => "bridge",
            Self::None => "none",
        }
    }
}

/// An API key; it is never shown.
#[derive(Clone)]
pub(crate) struct ApiKey(HeaderValue);

impl ApiKey {
    fn new(text: &str) -> Option<Self> {
        let mut bearer = HeaderValue::from_str(&format!("Bearer {text}")).ok()?;
        bearer.set_sensitive(true);
        Some(Self(bearer))
    }

    /// The value of the `Authorization` header.
    pub(crate) fn bearer(&self) -> HeaderValue {
        self.0.clone()
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey(..)")
    }
}

/// What the commands need to know.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    pub(crate) api_url: Url,
    pub(crate) url_source: Source,
    pub(crate) key: Option<ApiKey>,
    /// Of the key.
    pub(crate) key_source: Source,
    /// What is wrong, though not so wrong that nothing goes on.
    pub(crate) warning: Option<String>,
}

/// Why the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("{path} cannot be read: {problem}")]
    Unreadable { path: String, problem: String },
    #[error("{path} is not what `rig` wrote: {problem}; mend it or remove it")]
    NotJson { path: String, problem: String },
    #[error("{place} is `{value}`: expected the server's address, such as {DEFAULT_URL}")]
    BadUrl { place: String, value: String },
    #[error("{place} has a user or password in it: leave it out, the key goes into {KEY_VARIABLE}")]
    SecretInUrl { place: String },
    #[error("{path} cannot be written: {problem}")]
    Unwritable { path: String, problem: String },
    #[error("there is no home folder to keep the key in: set HOME, or use {KEY_VARIABLE}")]
    NoHome,
    #[error("the key in {place} has characters that no key has")]
    BadKey { place: String },
}

/// The file as it is read.
#[derive(Debug, Default, Deserialize)]
struct File {
    api_url: Option<String>,
    api_key: Option<String>,
}

/// Where the file is.
fn path() -> Option<PathBuf> {
    std::env::home_dir().map(|home| home.join(".rigbox/config.json"))
}

/// Keeps a key; answers where.
pub(crate) fn save(api_url: &str, api_key: &str, user_email: &str) -> Result<PathBuf, ConfigError> {
    let path = path().ok_or(ConfigError::NoHome)?;
    write(&path, &json!({"api_url": api_url, "api_key": api_key, "user_email": user_email}))?;
    Ok(path)
}

/// Forgets the key, but not whose server it was for; answers where it was.
pub(crate) fn forget_key() -> Result<PathBuf, ConfigError> {
    let path = path().ok_or(ConfigError::NoHome)?;
    let (file, _) = read(&path)?;
    let kept = file.api_url.map_or_else(|| json!({}), |url| json!({"api_url": url}));
    write(&path, &kept)?;
    Ok(path)
}

/// Writes the whole file or nothing, for its owner's eyes only.
fn write(path: &Path, content: &Value) -> Result<(), ConfigError> {
    let written = || -> std::io::Result<()> {
        let folder = path.parent().unwrap_or(Path::new("."));
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let new = path.with_extension("json.new");
        let _ = std::fs::remove_file(&new);
        let mut file = std::fs::File::options().write(true).create_new(true).mode(0o600).open(&new)?;
        file.write_all(content.to_string().as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&new, path)
    };
    written().map_err(|error| ConfigError::Unwritable {
        path: path.display().to_string(),
        problem: error.to_string(),
    })
}

impl Config {
    /// Reads environment and file.
    pub(crate) fn load() -> Result<Self, ConfigError> {
        let variable = |name: &str| std::env::var(name).ok();
        let path = path();
        let (file, warning) = match &path {
            Some(path) => read(path)?,
            None => (File::default(), None),
        };
        let path = path.unwrap_or_else(|| PathBuf::from("~/.rigbox/config.json"));
        let inside = Path::new(WITHIN).exists().then(|| std::fs::read_to_string(OWN_KEY).ok());
        Ok(Self { warning, ..Self::resolve(variable, file, &path, inside)? })
    }

    /// `inside`: this runs in a workspace, with the key that it has of itself, if that may be read.
    fn resolve(
        variable: impl Fn(&str) -> Option<String>,
        file: File,
        path: &Path,
        inside: Option<Option<String>>,
    ) -> Result<Self, ConfigError> {
        let given = |name: &str| variable(name).filter(|value| !value.is_empty());
        let in_file = |field: &str| format!("{field} in {}", path.display());
        let file_url = file.api_url.as_deref().map(|text| url(text, || in_file("api_url"))).transpose()?;
        let env_url = given(URL_VARIABLE).map(|text| url(&text, || URL_VARIABLE.to_owned())).transpose()?;
        // A key is for one server: another one must not get to see it.
        let file_key = file.api_key.filter(|_| env_url.is_none() || env_url == file_url);
        let (api_url, url_source) = match (env_url, file_url) {
            (Some(url), _) => (url, Source::Env),
            (None, Some(url)) => (url, Source::Config),
            (None, None) if inside.is_some() => (url(BRIDGE, || "the bridge".to_owned())?, Source::Bridge),
            (None, None) => (url(DEFAULT_URL, || "the default".to_owned())?, Source::None),
        };
        // The bridge knows who is at its other end, and takes no key but this.
        if url_source == Source::Bridge {
            let own = inside.flatten().map(|text| key(&text, || OWN_KEY.to_owned())).transpose()?;
            return Ok(Self { api_url, url_source, key: own, key_source: Source::Bridge, warning: None });
        }
        let (key, key_source) = match (given(KEY_VARIABLE), file_key) {
            (Some(text), _) => (Some(key(&text, || KEY_VARIABLE.to_owned())?), Source::Env),
            (None, Some(text)) => (Some(key(&text, || in_file("api_key"))?), Source::Config),
            (None, None) => (None, Source::None),
        };
        Ok(Self { api_url, url_source, key, key_source, warning: None })
    }

    /// Whether this runs in a workspace and speaks with its bridge.
    pub(crate) fn is_inside(&self) -> bool {
        self.url_source == Source::Bridge
    }

    /// Where the API begins.
    pub(crate) fn prefix(&self) -> [&'static str; 2] {
        if self.is_inside() { ["rig", "v1"] } else { ["api", "v1"] }
    }

    /// Whether the server is on this machine.
    pub(crate) fn is_local(&self) -> bool {
        match self.host().parse::<std::net::IpAddr>() {
            Ok(address) => address.is_loopback() || self.is_inside(),
            Err(_) => self.host() == "localhost" || self.host().ends_with(".localhost"),
        }
    }

    /// The server's host, without port and brackets.
    pub(crate) fn host(&self) -> &str {
        self.api_url.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']')
    }

    /// The server's address as people write it.
    pub(crate) fn address(&self) -> &str {
        self.api_url.as_str().trim_end_matches('/')
    }
}

fn url(text: &str, place: impl Fn() -> String) -> Result<Url, ConfigError> {
    let bad = || ConfigError::BadUrl { place: place(), value: text.to_owned() };
    let mut url = Url::parse(text).map_err(|_| bad())?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(ConfigError::SecretInUrl { place: place() });
    }
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err(bad());
    }
    url.set_query(None);
    url.set_fragment(None);
    Ok(url)
}

fn key(text: &str, place: impl Fn() -> String) -> Result<ApiKey, ConfigError> {
    ApiKey::new(text.trim()).ok_or_else(|| ConfigError::BadKey { place: place() })
}

/// The file, if there is one, and what is wrong with it.
fn read(path: &Path) -> Result<(File, Option<String>), ConfigError> {
    let shown = || path.display().to_string();
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error)
            if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) =>
        {
            return Ok((File::default(), None));
        }
        Err(error) => {
            return Err(ConfigError::Unreadable { path: shown(), problem: error.to_string() });
        }
    };
    let file: File = serde_json::from_str(&text)
        .map_err(|error| ConfigError::NotJson { path: shown(), problem: error.to_string() })?;
    let open = std::fs::metadata(path)
        .is_ok_and(|about| about.permissions().mode() & 0o077 != 0 && file.api_key.is_some());
    let warning = open.then(|| format!("others can read your key: chmod 600 {}", shown()));
    Ok((file, warning))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(env: &[(&str, &str)], file: (Option<&str>, Option<&str>)) -> Result<Config, ConfigError> {
        let variable =
            |name: &str| env.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        let file = File { api_url: file.0.map(str::to_owned), api_key: file.1.map(str::to_owned) };
        Config::resolve(variable, file, Path::new("config.json"), None)
    }

    #[test]
    fn inside_a_workspace_its_bridge_is_asked_with_its_own_key_unless_another_server_is_named() {
        let inside = |own: Option<&str>, env: Option<&str>| {
            let variable = |name: &str| env.filter(|_| name == URL_VARIABLE).map(str::to_owned);
            let own = own.map(str::to_owned);
            Config::resolve(variable, File::default(), Path::new("config.json"), Some(own)).unwrap()
        };
        let config = inside(Some("rb_ws_x\n"), None);
        assert_eq!((config.address(), config.prefix()), (BRIDGE, ["rig", "v1"]));
        assert!(config.key.is_some() && config.key_source == Source::Bridge);
        assert!(inside(None, None).key.is_none());
        let other = inside(Some("rb_ws_x"), Some("http://other:7070"));
        assert!(other.key.is_none() && !other.is_inside());
    }

    #[test]
    fn the_environment_goes_before_the_file_and_the_file_before_the_default() {
        let (env, file) = ("http://env:1", "http://file:2");
        for (variables, in_file, address, source) in [
            (&[(URL_VARIABLE, env)][..], Some(file), env, Source::Env),
            (&[(URL_VARIABLE, "")][..], Some(file), file, Source::Config),
            (&[][..], None, DEFAULT_URL, Source::None),
        ] {
            let config = resolve(variables, (in_file, None)).unwrap();
            assert_eq!((config.address(), config.url_source), (address, source));
        }
    }

    #[test]
    fn a_key_goes_to_its_own_server_only() {
        let file = (Some("http://mine:7070"), Some("rb_secret"));
        let other = resolve(&[(URL_VARIABLE, "http://other:7070")], file).unwrap();
        assert!(other.key.is_none());
        assert_eq!(other.key_source, Source::None);
        let same = resolve(&[(URL_VARIABLE, "http://mine:7070/")], file).unwrap();
        assert_eq!(same.key_source, Source::Config);
        let own = resolve(&[(URL_VARIABLE, "http://other:7070"), (KEY_VARIABLE, "rb_x")], file).unwrap();
        assert_eq!(own.key_source, Source::Env);
    }

    #[test]
    fn a_key_is_never_shown() {
        let config = resolve(&[(KEY_VARIABLE, "rb_secret")], (None, None)).unwrap();
        assert!(!format!("{config:?}").contains("rb_secret"));
        let error = resolve(&[(KEY_VARIABLE, "rb_se\ncret")], (None, None)).unwrap_err();
        assert!(!error.to_string().contains("cret"), "{error}");
        let error = resolve(&[(URL_VARIABLE, "http://u:rb_secret@host")], (None, None)).unwrap_err();
        assert!(!error.to_string().contains("rb_secret"), "{error}");
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in ["localhost:7070", "ftp://host", "http://", "nonsense"] {
            assert!(resolve(&[(URL_VARIABLE, text)], (None, None)).is_err(), "{text}");
        }
    }

    #[test]
    fn this_machine_is_known_by_its_names() {
        for (text, local) in [
            ("http://localhost:7070", true),
            ("http://127.0.0.1", true),
            ("http://[::1]:7070", true),
            ("http://console.localhost:7070", true),
            ("https://rig.example", false),
            ("http://10.0.0.1", false),
        ] {
            assert_eq!(resolve(&[(URL_VARIABLE, text)], (None, None)).unwrap().is_local(), local, "{text}");
        }
    }

    #[test]
    fn a_file_that_others_can_read_is_warned_of() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.json");
        assert!(read(&path).unwrap().0.api_url.is_none());
        std::fs::write(&path, r#"{"api_url":"http://x","api_key":"rb_1","user_email":"a@b"}"#).unwrap();
        for (mode, warned) in [(0o644, true), (0o600, false)] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(read(&path).unwrap().1.is_some(), warned);
        }
        std::fs::write(&path, "{").unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("config.json"));
    }
}
