//! Address of the server and API key. The environment wins over `~/.rigbox/config.json`, then comes the bridge inside a workspace, then this
//! machine.

use std::fmt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use reqwest::Url;
use reqwest::header::HeaderValue;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::private_file;

const DEFAULT_URL: &str = "http://localhost:7070";
const URL_ENV: &str = "RIG_API_URL";
/// Description of the workspace that `rig` runs in; absent elsewhere.
pub(crate) const WORKSPACE_FILE: &str = "/run/rigbox/workspace.json";
/// The workspace's own API key, readable by the group `developer`.
const WORKSPACE_KEY_FILE: &str = "/run/rigbox/key";
/// URL of the bridge, inside a workspace.
const BRIDGE_URL: &str = "http://172.16.0.1:9090";
const KEY_ENV: &str = "RIG_API_KEY";

/// Origin of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// Environment variable.
    Env,
    /// Configuration file.
    Config,
    /// Bridge of the workspace that `rig` runs in.
    Bridge,
    /// Not configured.
    None,
}

impl Source {
    /// Returns the name in the output of `rig whoami`.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Env => "env",
            Self::Config => "config",
            Self::Bridge => "bridge",
            Self::None => "none",
        }
    }
}

/// API key, never shown.
#[derive(Clone)]
pub(crate) struct ApiKey(HeaderValue);

impl ApiKey {
    fn new(text: &str) -> Option<Self> {
        let mut bearer = HeaderValue::from_str(&format!("Bearer {text}")).ok()?;
        bearer.set_sensitive(true);
        Some(Self(bearer))
    }

    /// Returns the value of the `Authorization` header.
    pub(crate) fn bearer(&self) -> HeaderValue {
        self.0.clone()
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey(..)")
    }
}

/// Configuration of one run.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    pub(crate) api_url: Url,
    pub(crate) url_source: Source,
    pub(crate) key: Option<ApiKey>,
    pub(crate) key_source: Source,
    /// Problem that does not stop the command.
    pub(crate) warning: Option<String>,
}

/// Problem that makes the configuration unusable.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("cannot read {path}: {problem}")]
    Unreadable { path: String, problem: String },
    #[error("{path} is not valid: {problem}; fix it or remove it")]
    NotJson { path: String, problem: String },
    #[error("{place} is `{value}`; expected the server's URL, such as {DEFAULT_URL}")]
    BadUrl { place: String, value: String },
    #[error("{place} contains a user or password; remove it, and put the API key into {KEY_ENV}")]
    SecretInUrl { place: String },
    #[error("cannot write {path}: {problem}")]
    Unwritable { path: String, problem: String },
    #[error("no home folder to save the API key in; set HOME, or use {KEY_ENV}")]
    NoHome,
    #[error("invalid API key in {place} (expected rb_...)")]
    BadKey { place: String },
}

/// Contents of the configuration file.
#[derive(Debug, Default, Deserialize)]
struct File {
    api_url: Option<String>,
    api_key: Option<String>,
}

/// Returns the path of the configuration file.
fn path() -> Option<PathBuf> {
    std::env::home_dir().map(|home| home.join(".rigbox/config.json"))
}

/// Saves an API key, and returns the path of the file.
pub(crate) fn save(api_url: &str, api_key: &str, user_email: &str) -> Result<PathBuf, ConfigError> {
    let path = path().ok_or(ConfigError::NoHome)?;
    write(&path, &json!({"api_url": api_url, "api_key": api_key, "user_email": user_email}))?;
    Ok(path)
}

/// Deletes the API key but keeps the server's URL, and returns the path of the file.
pub(crate) fn delete_key() -> Result<PathBuf, ConfigError> {
    let path = path().ok_or(ConfigError::NoHome)?;
    let (file, _) = read(&path)?;
    let kept = file.api_url.map_or_else(|| json!({}), |url| json!({"api_url": url}));
    write(&path, &kept)?;
    Ok(path)
}

/// Writes the file atomically, readable only by its owner.
fn write(path: &Path, content: &Value) -> Result<(), ConfigError> {
    private_file::replace(path, &content.to_string()).map_err(|error| ConfigError::Unwritable {
        path: path.display().to_string(),
        problem: error.to_string(),
    })
}

impl Config {
    /// Reads the environment and the file.
    pub(crate) fn load() -> Result<Self, ConfigError> {
        let variable = |name: &str| std::env::var(name).ok();
        let path = path();
        let (file, warning) = match &path {
            Some(path) => read(path)?,
            None => (File::default(), None),
        };
        let path = path.unwrap_or_else(|| PathBuf::from("~/.rigbox/config.json"));
        let inside =
            Path::new(WORKSPACE_FILE).exists().then(|| std::fs::read_to_string(WORKSPACE_KEY_FILE).ok());
        Ok(Self { warning, ..Self::resolve(variable, file, &path, inside)? })
    }

    /// Combines the sources. `inside` is set in a workspace, and contains its own API key if that is readable.
    fn resolve(
        variable: impl Fn(&str) -> Option<String>,
        file: File,
        path: &Path,
        inside: Option<Option<String>>,
    ) -> Result<Self, ConfigError> {
        let given = |name: &str| variable(name).filter(|value| !value.is_empty());
        let in_file = |field: &str| format!("{field} in {}", path.display());
        let file_url = file.api_url.as_deref().map(|text| url(text, || in_file("api_url"))).transpose()?;
        let env_url = given(URL_ENV).map(|text| url(&text, || URL_ENV.to_owned())).transpose()?;
        // A key belongs to one server, and no other one may see it.
        let file_key = file.api_key.filter(|_| env_url.is_none() || env_url == file_url);
        let (api_url, url_source) = match (env_url, file_url) {
            (Some(url), _) => (url, Source::Env),
            (None, Some(url)) => (url, Source::Config),
            (None, None) if inside.is_some() => {
                (url(BRIDGE_URL, || "the bridge".to_owned())?, Source::Bridge)
            }
            (None, None) => (url(DEFAULT_URL, || "the default".to_owned())?, Source::None),
        };
        // The bridge knows its workspace, and accepts no key but the workspace's own.
        if url_source == Source::Bridge {
            let own =
                inside.flatten().map(|text| key(&text, || WORKSPACE_KEY_FILE.to_owned())).transpose()?;
            return Ok(Self { api_url, url_source, key: own, key_source: Source::Bridge, warning: None });
        }
        let (key, key_source) = match (given(KEY_ENV), file_key) {
            (Some(text), _) => (Some(key(&text, || KEY_ENV.to_owned())?), Source::Env),
            (None, Some(text)) => (Some(key(&text, || in_file("api_key"))?), Source::Config),
            (None, None) => (None, Source::None),
        };
        Ok(Self { api_url, url_source, key, key_source, warning: None })
    }

    /// Returns whether this runs in a workspace and uses its bridge.
    pub(crate) fn is_inside(&self) -> bool {
        self.url_source == Source::Bridge
    }

    /// Returns the path prefix of the API.
    pub(crate) fn prefix(&self) -> [&'static str; 2] {
        if self.is_inside() { ["rig", "v1"] } else { ["api", "v1"] }
    }

    /// Returns whether the server is on this machine.
    pub(crate) fn is_local(&self) -> bool {
        match self.host().parse::<std::net::IpAddr>() {
            Ok(address) => address.is_loopback() || self.is_inside(),
            Err(_) => self.host() == "localhost" || self.host().ends_with(".localhost"),
        }
    }

    /// Returns the server's host, without port and brackets.
    pub(crate) fn host(&self) -> &str {
        self.api_url.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']')
    }

    /// Returns the server's URL without a slash at the end.
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

/// Reads the file, if there is one, with a warning if it has a problem.
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
        .is_ok_and(|metadata| metadata.permissions().mode() & 0o077 != 0 && file.api_key.is_some());
    let warning = open.then(|| format!("other users can read your API key; run `chmod 600 {}`", shown()));
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
    fn workspace_uses_its_bridge_and_own_key_unless_a_server_is_configured() {
        let inside = |own: Option<&str>, env: Option<&str>| {
            let variable = |name: &str| env.filter(|_| name == URL_ENV).map(str::to_owned);
            let own = own.map(str::to_owned);
            Config::resolve(variable, File::default(), Path::new("config.json"), Some(own)).unwrap()
        };
        let config = inside(Some("rb_ws_x\n"), None);
        assert_eq!((config.address(), config.prefix()), (BRIDGE_URL, ["rig", "v1"]));
        assert!(config.key.is_some() && config.key_source == Source::Bridge);
        assert!(inside(None, None).key.is_none());
        let other = inside(Some("rb_ws_x"), Some("http://other:7070"));
        assert!(other.key.is_none() && !other.is_inside());
    }

    #[test]
    fn environment_wins_over_file_and_file_over_default() {
        let (env, file) = ("http://env:1", "http://file:2");
        for (variables, in_file, address, source) in [
            (&[(URL_ENV, env)][..], Some(file), env, Source::Env),
            (&[(URL_ENV, "")][..], Some(file), file, Source::Config),
            (&[][..], None, DEFAULT_URL, Source::None),
        ] {
            let config = resolve(variables, (in_file, None)).unwrap();
            assert_eq!((config.address(), config.url_source), (address, source));
        }
    }

    #[test]
    fn key_is_sent_to_its_own_server_only() {
        let file = (Some("http://mine:7070"), Some("rb_secret"));
        let other = resolve(&[(URL_ENV, "http://other:7070")], file).unwrap();
        assert!(other.key.is_none());
        assert_eq!(other.key_source, Source::None);
        let same = resolve(&[(URL_ENV, "http://mine:7070/")], file).unwrap();
        assert_eq!(same.key_source, Source::Config);
        let own = resolve(&[(URL_ENV, "http://other:7070"), (KEY_ENV, "rb_x")], file).unwrap();
        assert_eq!(own.key_source, Source::Env);
    }

    #[test]
    fn key_is_never_shown() {
        let config = resolve(&[(KEY_ENV, "rb_secret")], (None, None)).unwrap();
        assert!(!format!("{config:?}").contains("rb_secret"));
        let error = resolve(&[(KEY_ENV, "rb_se\ncret")], (None, None)).unwrap_err();
        assert!(!error.to_string().contains("cret"), "{error}");
        let error = resolve(&[(URL_ENV, "http://u:rb_secret@host")], (None, None)).unwrap_err();
        assert!(!error.to_string().contains("rb_secret"), "{error}");
    }

    #[test]
    fn invalid_url_is_refused() {
        for text in ["localhost:7070", "ftp://host", "http://", "nonsense"] {
            assert!(resolve(&[(URL_ENV, text)], (None, None)).is_err(), "{text}");
        }
    }

    #[test]
    fn names_of_this_machine_are_local() {
        for (text, local) in [
            ("http://localhost:7070", true),
            ("http://127.0.0.1", true),
            ("http://[::1]:7070", true),
            ("http://console.localhost:7070", true),
            ("https://rig.example", false),
            ("http://10.0.0.1", false),
        ] {
            assert_eq!(resolve(&[(URL_ENV, text)], (None, None)).unwrap().is_local(), local, "{text}");
        }
    }

    #[test]
    fn file_readable_by_others_causes_a_warning() {
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
