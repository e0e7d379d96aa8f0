//! The request to a provider: our own, with what is on the lists of the client's.

use bytes::Bytes;
use http::header::{ACCEPT_ENCODING, AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Request};
use http_body_util::Full;
use rigbox_core::ai::environment::KeyOwner;
use rigbox_core::ids::WorkspaceId;
use rigbox_proto::ai::Provider;

use crate::error::Form;
use crate::route::Call;
use crate::setup::{Key, Upstream};

/// Headers of a client that a provider gets.
const FORWARDED_HEADERS: [&str; 7] = [
    "accept",
    "anthropic-beta",
    "anthropic-version",
    "openai-beta",
    "user-agent",
    "x-app",
    "x-goog-api-client",
];
/// Prefix of what SDKs say about themselves.
const SDK_HEADERS: &str = "x-stainless-";
/// Our id of the call, at the provider.
const PROVIDERS_CALL_ID: HeaderName = HeaderName::from_static("x-client-request-id");

/// Call that has arrived.
pub(crate) struct Arrived {
    pub(crate) workspace: WorkspaceId,
    /// Owner of the key that it is made with.
    pub(crate) owner: KeyOwner,
    pub(crate) call: Call,
    /// Provider whose dialect it speaks, and its id.
    pub(crate) form: Form,
    pub(crate) headers: HeaderMap,
    pub(crate) query: Option<String>,
}

/// Builds the request for a call, which is the one that has arrived or goes before it.
pub(super) fn request(
    arrived: &Arrived,
    call: &Call,
    body: Bytes,
    upstream: &Upstream,
    key: &Key,
) -> Result<Request<Full<Bytes>>, http::Error> {
    let query = query(call, arrived.query.as_deref());
    let mut request = Request::post(upstream.uri(&call.upstream_path(), query.as_deref())?);
    if let Some(headers) = request.headers_mut() {
        for (name, value) in &arrived.headers {
            if FORWARDED_HEADERS.contains(&name.as_str()) || name.as_str().starts_with(SDK_HEADERS) {
                headers.append(name, value.clone());
            }
        }
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        headers.insert(PROVIDERS_CALL_ID, HeaderValue::from_str(&arrived.form.call_id)?);
        // What was walked through is JSON in UTF-8, and as nothing else may it be read.
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let provider = arrived.form.provider;
        // Newer versions of the API want a bearer token, and each SDK sends what its version wants.
        if provider == Provider::Anthropic
            && !arrived.headers.contains_key("x-api-key")
            && arrived.headers.contains_key(AUTHORIZATION)
        {
            key.add_as_bearer(headers);
        } else {
            key.add_to(headers, provider);
        }
    }
    request.body(Full::new(body))
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
