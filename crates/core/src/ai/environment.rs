//! Variables by which SDKs and agents in a workspace call providers: through the bridge with the operator's keys, or with the user's own key.

use super::provider::Provider;

/// Key in a workspace that calls through the bridge. SDKs want one; the proxy drops it.
pub const PLACEHOLDER_KEY: &str = "managed-by-rigbox";
/// The bridge, in every VM.
pub const BRIDGE: &str = "http://172.16.0.1:9090";

/// Address of OpenAI itself, for Codex.
const OPENAI: &str = "https://api.openai.com/v1";

/// Configuration of Codex, which reads no variable with an address, and one with a key only where this says so. Without WebSockets: it would
/// try them first.
const CODEX_CONFIG: &str = r#"# Codex calls OpenAI as Rigbox has it. Settings in ~/.codex/config.toml come before these.
model_provider = "rigbox"

[model_providers.rigbox]
name = "Rigbox"
base_url = "BASE_URL"
env_key = "OPENAI_API_KEY"
wire_api = "responses"
supports_websockets = false
"#;

/// Whose key the proxy adds to a call. Each has paths of its own at the bridge, so that neither is ever taken for the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyOwner {
    /// The operator's, for credits.
    Operator,
    /// The user's own.
    User,
}

impl KeyOwner {
    /// Returns the beginning of the paths of this owner's calls.
    pub fn prefix(self) -> &'static str {
        match self {
            Self::Operator => "",
            Self::User => "/own",
        }
    }
}

/// Variables of a provider, as its SDKs and agents name them.
struct Names {
    base_url: &'static str,
    /// Path of the provider at the bridge. Each SDK adds its own part to it.
    path: &'static str,
    keys: &'static [&'static str],
    /// Model, as agents name it.
    model: Option<&'static str>,
}

fn names(provider: Provider) -> Names {
    match provider {
        Provider::Anthropic => {
            let (base_url, model) = ("ANTHROPIC_BASE_URL", Some("ANTHROPIC_MODEL"));
            Names { base_url, path: "", keys: &["ANTHROPIC_API_KEY"], model }
        }
        Provider::OpenAi => {
            let (base_url, model) = ("OPENAI_BASE_URL", Some("OPENAI_MODEL"));
            Names { base_url, path: "/v1", keys: &["OPENAI_API_KEY"], model }
        }
        Provider::Google => Names {
            base_url: "GOOGLE_GEMINI_BASE_URL",
            path: "/google",
            keys: &["GOOGLE_API_KEY", "GEMINI_API_KEY"],
            model: Some("GEMINI_MODEL"),
        },
        Provider::OpenRouter => {
            let base_url = "OPENROUTER_BASE_URL";
            Names { base_url, path: "/openrouter/v1", keys: &["OPENROUTER_API_KEY"], model: None }
        }
    }
}

/// Returns the variables with which calls to a provider go through the bridge.
pub fn through_bridge(provider: Provider, owner: KeyOwner) -> impl Iterator<Item = (String, String)> {
    let Names { base_url, keys, .. } = names(provider);
    let keys = keys.iter().map(|key| ((*key).to_owned(), PLACEHOLDER_KEY.to_owned()));
    keys.chain([(base_url.to_owned(), address(provider, owner))])
}

/// Returns the address of a provider at the bridge.
fn address(provider: Provider, owner: KeyOwner) -> String {
    format!("{BRIDGE}{}{}", owner.prefix(), names(provider).path)
}

/// Returns the variables with a key of the user's own.
pub fn with_own_key(provider: Provider, key: &str) -> impl Iterator<Item = (String, String)> {
    names(provider).keys.iter().map(|name| ((*name).to_owned(), key.to_owned()))
}

/// Returns the variable with a model, unless that is empty.
pub fn with_model(provider: Provider, model: &str) -> Option<(String, String)> {
    let variable = names(provider).model.filter(|_| !model.is_empty())?;
    Some((variable.to_owned(), model.to_owned()))
}

/// Returns Codex's configuration for calls with a key of the user's own at a provider, which is in the environment.
pub fn codex_config_with_own_key(provider: Provider) -> Option<String> {
    (provider == Provider::OpenAi).then(|| CODEX_CONFIG.replace("BASE_URL", OPENAI))
}

/// Returns Codex's configuration for calls through the bridge, where that has OpenAI.
pub fn codex_config(through_bridge: &[Provider], owner: KeyOwner) -> Option<String> {
    let address = address(Provider::OpenAi, owner);
    through_bridge.contains(&Provider::OpenAi).then(|| CODEX_CONFIG.replace("BASE_URL", &address))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWNERS: [KeyOwner; 2] = [KeyOwner::Operator, KeyOwner::User];

    #[test]
    fn every_provider_has_an_address_and_a_placeholder() {
        for (provider, owner) in
            Provider::ALL.into_iter().flat_map(|provider| OWNERS.map(|owner| (provider, owner)))
        {
            let variables: Vec<_> = through_bridge(provider, owner).collect();
            let start = format!("{BRIDGE}{}", owner.prefix());
            assert!(variables.iter().any(|(_, value)| value.starts_with(&start)), "{provider}");
            for key in with_own_key(provider, PLACEHOLDER_KEY) {
                assert!(variables.contains(&key), "{key:?}");
            }
        }
    }

    #[test]
    fn own_key_comes_with_the_chosen_model() {
        let variables = with_own_key(Provider::Google, "key").chain(with_model(Provider::Google, "gemini-x"));
        let expected = [("GOOGLE_API_KEY", "key"), ("GEMINI_API_KEY", "key"), ("GEMINI_MODEL", "gemini-x")];
        let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(variables.collect::<Vec<_>>(), expected);
        assert_eq!(with_model(Provider::Google, ""), None);
    }

    #[test]
    fn codex_is_configured_where_the_bridge_has_openai() {
        for owner in OWNERS {
            let config = codex_config(&[Provider::Google, Provider::OpenAi], owner).unwrap();
            let base_url = through_bridge(Provider::OpenAi, owner)
                .find(|(name, _)| name == "OPENAI_BASE_URL")
                .unwrap()
                .1;
            assert!(config.contains(&format!("base_url = \"{base_url}\"")));
            assert_eq!(codex_config(&[Provider::Google], owner), None);
        }
        assert!(codex_config_with_own_key(Provider::OpenAi).unwrap().contains(OPENAI));
        assert_eq!(codex_config_with_own_key(Provider::Google), None);
    }
}
