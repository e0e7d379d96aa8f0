//! Users' own AI providers and keys: settings of a workspace, and of its owner for what the workspace leaves open.

use std::str::FromStr;

use super::mode::AiMode;
use super::provider::Provider;

/// Maximum length of a key in bytes. Providers' own have up to some 200.
pub const MAX_KEY_LEN: usize = 512;
/// Maximum length of a model's name in bytes.
pub const MAX_MODEL_LEN: usize = 128;
/// Provider where nobody has chosen one.
const DEFAULT_PROVIDER: Provider = Provider::Anthropic;

/// Way of a user's own key to its provider.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum KeyDelivery {
    /// In the environment of the workspace, so code there can read it.
    #[default]
    Env,
    /// Added to calls outside of the workspace.
    Proxy,
}

/// Settings of a workspace or of a user.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OwnAi {
    /// Provider to call.
    pub provider: Option<Provider>,
    /// Model to use.
    pub model: Option<String>,
    /// Providers at which there is a key.
    pub keys: Vec<Provider>,
    /// Way of the keys.
    pub delivery: Option<KeyDelivery>,
}

/// State of a workspace's AI calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AiStatus {
    /// Calls are made with the operator's keys.
    ManagedActive,
    /// Calls are made with the user's own key.
    ByokActive,
    /// The user's own key is to be used, and there is none for the provider.
    InvalidMissingKey,
}

/// Settings that hold for a workspace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EffectiveAi {
    /// Keys with which calls are made.
    pub mode: AiMode,
    /// Provider of the user's own key.
    pub provider: Provider,
    /// Model to use with it; empty: none is chosen.
    pub model: String,
    /// State of the calls.
    pub status: AiStatus,
    /// Way of the user's own key.
    pub delivery: KeyDelivery,
}

/// Error for a value that is not valid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidOwnAi {
    /// The provider takes no keys of users.
    #[error("`{0}` is not possible with a key of your own. Use google, openai or anthropic.")]
    Provider(String),
    /// The key is not one.
    #[error("An API key has 1 to {MAX_KEY_LEN} visible ASCII characters and no blanks.")]
    Key,
    /// It is not said for which provider the key is.
    #[error("A key comes with its provider. Name it in the same change.")]
    NoProvider,
    /// There is no such way of a key.
    #[error("`{0}` is not a way to deliver a key. Use env or proxy.")]
    Delivery(String),
    /// The name of the model is not one.
    #[error("The name of a model has 1 to {MAX_MODEL_LEN} visible ASCII characters and no blanks.")]
    Model,
}

/// Finds a provider at which users may have keys of their own.
///
/// # Errors
/// [`InvalidOwnAi::Provider`]
pub fn parse_provider(text: &str) -> Result<Provider, InvalidOwnAi> {
    let found = text.parse().ok().filter(|provider| *provider != Provider::OpenRouter);
    found.ok_or_else(|| InvalidOwnAi::Provider(text.chars().take(64).collect()))
}

/// Checks a key.
///
/// # Errors
/// [`InvalidOwnAi::Key`]
pub fn check_key(key: &str) -> Result<(), InvalidOwnAi> {
    if is_word(key, MAX_KEY_LEN) { Ok(()) } else { Err(InvalidOwnAi::Key) }
}

/// Checks the name of a model.
///
/// # Errors
/// [`InvalidOwnAi::Model`]
pub fn check_model(model: &str) -> Result<(), InvalidOwnAi> {
    if is_word(model, MAX_MODEL_LEN) { Ok(()) } else { Err(InvalidOwnAi::Model) }
}

fn is_word(text: &str, max_len: usize) -> bool {
    !text.is_empty() && text.len() <= max_len && text.bytes().all(|byte| byte.is_ascii_graphic())
}

impl AiStatus {
    /// Returns the wire name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ManagedActive => "managed_active",
            Self::ByokActive => "byok_active",
            Self::InvalidMissingKey => "invalid_missing_key",
        }
    }
}

impl KeyDelivery {
    /// Returns the wire name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Env => "env",
            Self::Proxy => "proxy",
        }
    }
}

impl FromStr for KeyDelivery {
    type Err = InvalidOwnAi;

    fn from_str(text: &str) -> Result<Self, InvalidOwnAi> {
        let found = [Self::Env, Self::Proxy].into_iter().find(|delivery| delivery.as_str() == text);
        found.ok_or_else(|| InvalidOwnAi::Delivery(text.chars().take(64).collect()))
    }
}

impl EffectiveAi {
    /// Combines the settings of a workspace and of its owner. A model belongs to the provider beside it, so that the owner's holds only where
    /// the workspace has chosen neither.
    pub fn of(mode: AiMode, workspace: &OwnAi, owner: &OwnAi) -> Self {
        let provider = workspace.provider.or(owner.provider).unwrap_or(DEFAULT_PROVIDER);
        let inherited = owner.model.as_ref().filter(|_| workspace.provider.is_none());
        let model = workspace.model.as_ref().or(inherited).cloned().unwrap_or_default();
        let has_key = workspace.keys.contains(&provider) || owner.keys.contains(&provider);
        let status = match mode {
            AiMode::Managed => AiStatus::ManagedActive,
            AiMode::Byok if has_key => AiStatus::ByokActive,
            AiMode::Byok => AiStatus::InvalidMissingKey,
        };
        let delivery = workspace.delivery.or(owner.delivery).unwrap_or_default();
        Self { mode, provider, model, status, delivery }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(provider: Option<Provider>, model: Option<&str>, keys: &[Provider]) -> OwnAi {
        OwnAi { provider, model: model.map(str::to_owned), keys: keys.to_vec(), delivery: None }
    }

    #[test]
    fn workspace_uses_its_owners_settings_where_it_has_none() {
        use Provider::{Anthropic, Google, OpenAi};
        let owner = settings(Some(OpenAi), Some("gpt-x"), &[OpenAi]);
        let none = OwnAi::default();
        for (mode, workspace, owner, provider, model, status) in [
            (AiMode::Managed, &none, &owner, OpenAi, "gpt-x", AiStatus::ManagedActive),
            (AiMode::Byok, &none, &owner, OpenAi, "gpt-x", AiStatus::ByokActive),
            (AiMode::Byok, &none, &none, Anthropic, "", AiStatus::InvalidMissingKey),
            // The owner's model is not the other provider's.
            (
                AiMode::Byok,
                &settings(Some(Google), None, &[]),
                &owner,
                Google,
                "",
                AiStatus::InvalidMissingKey,
            ),
            (AiMode::Byok, &settings(None, Some("own"), &[]), &owner, OpenAi, "own", AiStatus::ByokActive),
            (
                AiMode::Byok,
                &settings(Some(Google), None, &[Google]),
                &owner,
                Google,
                "",
                AiStatus::ByokActive,
            ),
            (
                AiMode::Byok,
                &settings(None, None, &[Google]),
                &none,
                Anthropic,
                "",
                AiStatus::InvalidMissingKey,
            ),
        ] {
            let delivery = KeyDelivery::Env;
            let expected = EffectiveAi { mode, provider, model: model.to_owned(), status, delivery };
            assert_eq!(EffectiveAi::of(mode, workspace, owner), expected);
        }
    }

    #[test]
    fn way_of_a_key_is_the_workspaces_or_its_owners() {
        use KeyDelivery::{Env, Proxy};
        for (workspace, owner, expected) in [
            (None, None, Env),
            (None, Some(Proxy), Proxy),
            (Some(Env), Some(Proxy), Env),
            (Some(Proxy), None, Proxy),
        ] {
            let settings = |delivery| OwnAi { delivery, ..OwnAi::default() };
            let effective = EffectiveAi::of(AiMode::Byok, &settings(workspace), &settings(owner));
            assert_eq!(effective.delivery, expected);
        }
        assert_eq!("proxy".parse(), Ok(Proxy));
        assert_eq!("Env".parse::<KeyDelivery>(), Err(InvalidOwnAi::Delivery("Env".to_owned())));
    }

    #[test]
    fn values_that_would_break_a_header_or_a_file_are_refused() {
        for text in ["", "a b", "a\nb", "ä", "a\0", &"k".repeat(MAX_KEY_LEN + 1)] {
            assert_eq!(check_key(text), Err(InvalidOwnAi::Key), "{text:?}");
            assert_eq!(check_model(text), Err(InvalidOwnAi::Model), "{text:?}");
        }
        assert_eq!(check_key(&"k".repeat(MAX_KEY_LEN)), Ok(()));
        assert_eq!(check_model("models/gemini-3.0:free"), Ok(()));
        assert_eq!(parse_provider("openai"), Ok(Provider::OpenAi));
        for text in ["openrouter", "OpenAI", ""] {
            assert_eq!(parse_provider(text), Err(InvalidOwnAi::Provider(text.to_owned())));
        }
    }
}
