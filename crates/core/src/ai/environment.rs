//! Variables by which SDKs and agents in a workspace call providers: through the bridge with the operator's keys, or with the user's own key.

use super::provider::Provider;

/// Key in a workspace that calls through the bridge. SDKs want one; the proxy drops it.
pub const PLACEHOLDER_KEY: &str = "managed-by-rigbox";
/// The bridge, in every VM.
const BRIDGE: &str = "http://172.16.0.1:9090";

/// Configuration of Codex, which reads no variable with an address. Without WebSockets: it would try them first.
const CODEX_CONFIG: &str = r#"# Codex calls OpenAI through Rigbox. Settings in ~/.codex/config.toml come before these.
model_provider = "rigbox"

[model_providers.rigbox]
name = "Rigbox"
base_url = "http://172.16.0.1:9090/v1"
env_key = "OPENAI_API_KEY"
wire_api = "responses"
supports_websockets = false
"#;

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
pub fn through_bridge(provider: Provider) -> impl Iterator<Item = (String, String)> {
    let Names { base_url, path, keys, .. } = names(provider);
    let keys = keys.iter().map(|key| ((*key).to_owned(), PLACEHOLDER_KEY.to_owned()));
    keys.chain([(base_url.to_owned(), format!("{BRIDGE}{path}"))])
}

/// Returns the variables with a key of the user's own, and with a model unless that is empty.
pub fn with_own_key(provider: Provider, key: &str, model: &str) -> impl Iterator<Item = (String, String)> {
    let Names { keys, model: variable, .. } = names(provider);
    let model = variable.filter(|_| !model.is_empty()).map(|name| (name.to_owned(), model.to_owned()));
    keys.iter().map(|name| ((*name).to_owned(), key.to_owned())).chain(model)
}

/// Returns Codex's configuration for calls through the bridge, where that has OpenAI.
pub fn codex_config(through_bridge: &[Provider]) -> Option<&'static str> {
    through_bridge.contains(&Provider::OpenAi).then_some(CODEX_CONFIG)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_provider_has_an_address_and_a_placeholder() {
        for provider in Provider::ALL {
            let variables: Vec<_> = through_bridge(provider).collect();
            assert!(variables.iter().any(|(_, value)| value.starts_with(BRIDGE)), "{provider}");
            for key in with_own_key(provider, PLACEHOLDER_KEY, "") {
                assert!(variables.contains(&key), "{key:?}");
            }
        }
    }

    #[test]
    fn own_key_comes_with_the_chosen_model() {
        let variables: Vec<_> = with_own_key(Provider::Google, "key", "gemini-x").collect();
        let expected = [("GOOGLE_API_KEY", "key"), ("GEMINI_API_KEY", "key"), ("GEMINI_MODEL", "gemini-x")];
        assert_eq!(variables, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }

    #[test]
    fn codex_is_configured_where_the_bridge_has_openai() {
        let config = codex_config(&[Provider::Google, Provider::OpenAi]).unwrap();
        let base_url =
            through_bridge(Provider::OpenAi).find(|(name, _)| name == "OPENAI_BASE_URL").unwrap().1;
        assert!(config.contains(&format!("base_url = \"{base_url}\"")));
        assert_eq!(codex_config(&[Provider::Google]), None);
    }
}
