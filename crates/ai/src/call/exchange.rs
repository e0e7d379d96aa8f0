//! The request to a provider: our own, with what is on the lists of the client's, by one key after the other.

use bytes::Bytes;
use http::header::{ACCEPT_ENCODING, AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderName, HeaderValue, Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use rigbox_proto::ai::{Ending, Provider};

use super::prepare::Prepared;
use crate::error::{CallError, ErrorKind};
use crate::route::Call;
use crate::setup::{Key, Upstream};
use crate::state::State;

/// Headers of a client that a provider gets.
const FORWARDED_HEADERS: [&str; 8] = [
    "accept",
    "anthropic-beta",
    "anthropic-version",
    "content-type",
    "openai-beta",
    "user-agent",
    "x-app",
    "x-goog-api-client",
];
/// Prefix of what SDKs say about themselves.
const SDK_HEADERS: &str = "x-stainless-";
/// Our id of the call, at the provider.
const PROVIDERS_CALL_ID: HeaderName = HeaderName::from_static("x-client-request-id");

/// Call that got no response.
pub(super) struct Failed {
    pub(super) error: CallError,
    pub(super) ending: Ending,
    pub(super) key_id: String,
}

/// Sends a call, with one key after the other where a provider does not take one.
pub(super) async fn exchange(
    state: &State,
    prepared: &Prepared,
) -> Result<(Response<Incoming>, Key), Failed> {
    let not_sent = |text: &str| Failed {
        error: CallError::new(ErrorKind::Unavailable, text),
        ending: Ending::NotSent,
        key_id: String::new(),
    };
    let arrived = &prepared.arrived;
    let Some((_, upstream)) = prepared.setup.model(arrived.provider, &prepared.asked.model) else {
        return Err(not_sent("The model's provider is not set up."));
    };
    let keys = state.upstreams.keys(&arrived.workspace, upstream, prepared.is_tied);
    let last = keys.len().saturating_sub(1);
    for (index, key) in keys.into_iter().enumerate() {
        let request = request(prepared, upstream, &key)
            .map_err(|_| not_sent("The provider's address is not valid."))?;
        let sent = tokio::time::timeout(state.limits.first_byte, state.upstreams.send(request)).await;
        let failed = |kind, text: &str, ending| {
            Err(Failed { error: CallError::new(kind, text), ending, key_id: key.id.clone() })
        };
        match sent {
            Err(_) => {
                return failed(
                    ErrorKind::UpstreamTimeout,
                    "The provider did not answer in time.",
                    Ending::CutOff,
                );
            }
            Ok(Err(error)) => {
                tracing::warn!(call = arrived.call_id, upstream = upstream.name, error = %chain(&error), "a provider was not reached");
                let ending = if error.is_connect() { Ending::NotSent } else { Ending::CutOff };
                return failed(ErrorKind::Upstream, "The provider was not reached, or broke off.", ending);
            }
            Ok(Ok(response)) => {
                if !state.upstreams.rest(&key, &response) {
                    state.upstreams.remember(&arrived.workspace, upstream, &key);
                    return Ok((response, key));
                }
                if index == last {
                    return Ok((response, key));
                }
            }
        }
    }
    Err(not_sent("The operator has set no key for this provider."))
}

/// Returns an error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// Builds the request to the provider: our own, with what is on the lists of the client's.
fn request(prepared: &Prepared, upstream: &Upstream, key: &Key) -> Result<Request<Full<Bytes>>, http::Error> {
    let arrived = &prepared.arrived;
    let query = query(&arrived.call, arrived.query.as_deref());
    let mut request = Request::post(upstream.uri(&arrived.call.upstream_path(), query.as_deref())?);
    if let Some(headers) = request.headers_mut() {
        for (name, value) in &arrived.headers {
            if FORWARDED_HEADERS.contains(&name.as_str()) || name.as_str().starts_with(SDK_HEADERS) {
                headers.append(name, value.clone());
            }
        }
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        headers.insert(PROVIDERS_CALL_ID, HeaderValue::from_str(&arrived.call_id)?);
        if !headers.contains_key(CONTENT_TYPE) {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        match arrived.provider {
            // Newer versions of the API want a bearer token, and each SDK sends what its version wants.
            Provider::Anthropic
                if !arrived.headers.contains_key("x-api-key")
                    && arrived.headers.contains_key(AUTHORIZATION) =>
            {
                headers.insert(AUTHORIZATION, key.bearer());
            }
            Provider::Anthropic => {
                headers.insert("x-api-key", key.bare());
            }
            Provider::Google => {
                headers.insert("x-goog-api-key", key.bare());
            }
            Provider::Openai | Provider::Openrouter | Provider::Unspecified => {
                headers.insert(AUTHORIZATION, key.bearer());
            }
        }
    }
    request.body(Full::new(prepared.body.clone()))
}

/// Returns the parameters of a query that are on the list. Keys in a query are dropped with the rest.
fn query(call: &Call, query: Option<&str>) -> Option<String> {
    let sent: Vec<_> = form_urlencoded::parse(query?.as_bytes()).collect();
    let mut kept = form_urlencoded::Serializer::new(String::new());
    let mut is_empty = true;
    for (name, value) in call.query_parameters() {
        if sent.iter().any(|(sent_name, sent_value)| sent_name == name && sent_value == value) {
            kept.append_pair(name, value);
            is_empty = false;
        }
    }
    (!is_empty).then(|| kept.finish())
}
