//! Requests of providers' APIs, by method and path. Only what is listed here exists: everything else is answered without asking
//! a provider, because one account there serves many workspaces.

use http::{HeaderMap, Method};
use rigbox_core::ai::environment::KeyOwner;
use rigbox_proto::ai::Provider;

/// Header of Anthropic's clients, by which their `GET /v1/models` differs from OpenAI's.
const ANTHROPIC_VERSION: &str = "anthropic-version";
/// Length of a model's name.
const MAX_MODEL_NAME_LEN: usize = 128;

/// Request of a provider's API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Route {
    /// Whose API it is.
    pub(crate) provider: Provider,
    pub(crate) kind: Kind,
}

/// Kind of request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Call that is forwarded.
    Call(Call),
    /// List of models, which we answer.
    Models,
    /// One model of that list.
    Model(String),
    /// Claude Code's question before its first call.
    Hello,
    /// WebSocket, for which clients have another way.
    WebSocket,
    /// Nothing that exists.
    Unknown,
}

/// Call that is forwarded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Call {
    AnthropicMessages,
    AnthropicCount,
    OpenAiChat,
    OpenAiResponses,
    OpenAiCount,
    OpenAiEmbeddings,
    Google { version: &'static str, model: String, method: GoogleMethod },
}

/// Method of a model at Google.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GoogleMethod {
    Generate,
    Stream,
    Count,
    Embed,
}

impl GoogleMethod {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Generate => "generateContent",
            Self::Stream => "streamGenerateContent",
            Self::Count => "countTokens",
            Self::Embed => "embedContent",
        }
    }
}

impl Call {
    /// Path at the provider.
    pub(crate) fn upstream_path(&self) -> String {
        match self {
            Self::AnthropicMessages => "/v1/messages".into(),
            Self::AnthropicCount => "/v1/messages/count_tokens".into(),
            Self::OpenAiChat => "/v1/chat/completions".into(),
            Self::OpenAiResponses => "/v1/responses".into(),
            Self::OpenAiCount => "/v1/responses/input_tokens".into(),
            Self::OpenAiEmbeddings => "/v1/embeddings".into(),
            Self::Google { version, model, method } => format!("/{version}/models/{model}:{}", method.name()),
        }
    }

    /// Query parameters that are forwarded, with the values that they may have; none: any short one.
    pub(crate) fn query_parameters(&self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::AnthropicMessages | Self::AnthropicCount => &[("beta", "true")],
            Self::Google { .. } => &[("alt", "sse")],
            _ => &[],
        }
    }
}

/// Returns whose key the calls of a path are made with, and the path without its beginning that says so.
pub(crate) fn owner(path: &str) -> (KeyOwner, &str) {
    let own = path.strip_prefix(KeyOwner::User.prefix()).filter(|rest| rest.starts_with('/'));
    own.map_or((KeyOwner::Operator, path), |rest| (KeyOwner::User, rest))
}

/// Returns what a request means.
pub(crate) fn find(method: &Method, path: &str, headers: &HeaderMap) -> Route {
    let route = |provider, kind| Route { provider, kind };
    if method == Method::HEAD && matches!(path, "/api/hello" | "/anthropic/api/hello") {
        return route(Provider::Anthropic, Kind::Hello);
    }
    let path = path.strip_prefix('/').unwrap_or_default();
    let (named, path) = match path.split_once('/') {
        Some(("anthropic", rest)) => (Some(Provider::Anthropic), rest),
        Some(("openai", rest)) => (Some(Provider::Openai), rest),
        Some(("openrouter", rest)) => (Some(Provider::Openrouter), rest.strip_prefix("api/").unwrap_or(rest)),
        Some(("google", rest)) => return route(Provider::Google, google(method, rest)),
        _ => (None, path),
    };
    let path = path.strip_prefix("v1/").unwrap_or(path);
    if path == "models" || path.starts_with("models/") {
        let provider = named.unwrap_or_else(|| {
            if headers.contains_key(ANTHROPIC_VERSION) { Provider::Anthropic } else { Provider::Openai }
        });
        return route(provider, models(method, path));
    }
    let call = match path {
        "messages" => Call::AnthropicMessages,
        "messages/count_tokens" => Call::AnthropicCount,
        "chat/completions" => Call::OpenAiChat,
        "responses" => Call::OpenAiResponses,
        "responses/input_tokens" => Call::OpenAiCount,
        "embeddings" => Call::OpenAiEmbeddings,
        _ => return route(named.unwrap_or_else(|| guess(path, headers)), Kind::Unknown),
    };
    let is_anthropic = matches!(call, Call::AnthropicMessages | Call::AnthropicCount);
    let provider = named.unwrap_or(if is_anthropic { Provider::Anthropic } else { Provider::Openai });
    if is_anthropic != (provider == Provider::Anthropic) {
        return route(provider, Kind::Unknown);
    }
    let is_web_socket = method == Method::GET && headers.contains_key(http::header::UPGRADE);
    let kind = match call {
        Call::OpenAiResponses if is_web_socket => Kind::WebSocket,
        call if method == Method::POST => Kind::Call(call),
        _ => Kind::Unknown,
    };
    route(provider, kind)
}

/// Returns the provider whose clients would ask for a path that does not exist, for the form of the error.
fn guess(path: &str, headers: &HeaderMap) -> Provider {
    if path.starts_with("v1beta") || headers.contains_key("x-goog-api-key") {
        Provider::Google
    } else if headers.contains_key(ANTHROPIC_VERSION) {
        Provider::Anthropic
    } else {
        Provider::Openai
    }
}

fn models(method: &Method, path: &str) -> Kind {
    match path.strip_prefix("models/") {
        _ if method != Method::GET => Kind::Unknown,
        None => Kind::Models,
        Some(model) if is_model_name(model) => Kind::Model(model.to_owned()),
        Some(_) => Kind::Unknown,
    }
}

fn google(method: &Method, path: &str) -> Kind {
    let (version, path) = match path.split_once('/') {
        Some(("v1", path)) => ("v1", path),
        Some(("v1beta", path)) => ("v1beta", path),
        _ => return Kind::Unknown,
    };
    let Some((model, action)) = path.strip_prefix("models/").and_then(|rest| rest.split_once(':')) else {
        return if path == "models" || path.starts_with("models/") {
            models(method, path)
        } else {
            Kind::Unknown
        };
    };
    let google = match action {
        "generateContent" => GoogleMethod::Generate,
        "streamGenerateContent" => GoogleMethod::Stream,
        "countTokens" => GoogleMethod::Count,
        "embedContent" => GoogleMethod::Embed,
        _ => return Kind::Unknown,
    };
    if method == Method::POST && is_model_name(model) {
        Kind::Call(Call::Google { version, model: model.to_owned(), method: google })
    } else {
        Kind::Unknown
    }
}

/// Tells if a text may be a model's name: nothing that a path or a query reads as its own.
pub(crate) fn is_model_name(name: &str) -> bool {
    let allowed =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b':' | b'/' | b'@');
    !name.is_empty()
        && name.len() <= MAX_MODEL_NAME_LEN
        && name.bytes().all(allowed)
        && !name.split('/').any(|part| matches!(part, "" | "." | ".."))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find_plain(method: Method, path: &str) -> Route {
        find(&method, path, &HeaderMap::new())
    }

    #[test]
    fn paths_of_each_client_are_served() {
        for (path, call) in [
            ("/v1/messages", Call::AnthropicMessages),
            ("/messages", Call::AnthropicMessages),
            ("/anthropic/v1/messages", Call::AnthropicMessages),
            ("/anthropic/messages/count_tokens", Call::AnthropicCount),
            ("/v1/chat/completions", Call::OpenAiChat),
            ("/openai/v1/responses", Call::OpenAiResponses),
            ("/v1/responses/input_tokens", Call::OpenAiCount),
            ("/openai/embeddings", Call::OpenAiEmbeddings),
            ("/openrouter/api/v1/chat/completions", Call::OpenAiChat),
        ] {
            assert_eq!(find_plain(Method::POST, path).kind, Kind::Call(call), "{path}");
            assert_eq!(find_plain(Method::DELETE, path).kind, Kind::Unknown, "{path}");
        }
        let google = find_plain(Method::POST, "/google/v1beta/models/gemini-3-pro:streamGenerateContent");
        let Kind::Call(call) = google.kind else { panic!("{google:?}") };
        assert_eq!(call.upstream_path(), "/v1beta/models/gemini-3-pro:streamGenerateContent");
        assert_eq!(find_plain(Method::HEAD, "/api/hello").kind, Kind::Hello);
    }

    #[test]
    fn lists_of_models_are_in_the_callers_dialect() {
        let mut headers = HeaderMap::new();
        assert_eq!(find(&Method::GET, "/v1/models", &headers).provider, Provider::Openai);
        headers.insert(ANTHROPIC_VERSION, "2023-06-01".parse().unwrap());
        assert_eq!(find(&Method::GET, "/v1/models", &headers).provider, Provider::Anthropic);
        assert_eq!(find_plain(Method::GET, "/google/v1beta/models").kind, Kind::Models);
        assert_eq!(find_plain(Method::GET, "/v1/models/gpt-6").kind, Kind::Model("gpt-6".into()));
    }

    #[test]
    fn web_socket_is_told_apart() {
        let mut headers = HeaderMap::new();
        headers.insert("upgrade", "websocket".parse().unwrap());
        assert_eq!(find(&Method::GET, "/v1/responses", &headers).kind, Kind::WebSocket);
    }

    #[test]
    fn nothing_else_exists() {
        for path in [
            "/",
            "/v1/files",
            "/v1/messages/batches",
            "/v1/messages/",
            "/v1//messages",
            "//v1/messages",
            "//messages",
            "/anthropic//v1/messages",
            "/v1/v1/messages",
            "/V1/messages",
            "/v1/responses/resp_1",
            "/v1/responses/resp_1/cancel",
            "/v1/conversations",
            "/v1/threads",
            "/v1/images/generations",
            "/openai/v1/messages",
            "/anthropic/v1/chat/completions",
            "/google/v1beta/files",
            "/google/upload/v1beta/files",
            "/google/v1beta/interactions",
            "/google/v1beta/cachedContents",
            "/google/v1beta/models/../files:generateContent",
            "/google/v1beta/models/a%2fb:generateContent",
            "/google/v1beta/models/gemini:batchGenerateContent",
            "/google/v1alpha/models/gemini:generateContent",
            "/google/v1beta/tunedModels/x:generateContent",
            "/v1/models/..%2f",
            "/v1/models/a?b",
        ] {
            assert_eq!(find_plain(Method::POST, path).kind, Kind::Unknown, "POST {path}");
            let get = find_plain(Method::GET, path).kind;
            assert!(matches!(get, Kind::Unknown), "GET {path}: {get:?}");
        }
    }
}
