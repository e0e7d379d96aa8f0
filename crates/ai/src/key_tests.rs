//! Tests of the operator's keys: each is tried with a request that costs nothing, which lists models or, at OpenRouter, describes the key.
//! They are asked for by `rigboxd admin`, and made here, because no other role has a way to a provider.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use http::header::ACCEPT_ENCODING;
use http::{HeaderValue, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use rigbox_proto::ai::operator_server::{Operator, OperatorServer};
use rigbox_proto::ai::{KeyTest, KeyVerdict, Provider, TestKeysRequest, TestKeysResponse};
use rigbox_proto::transport::unix;
use serde_json::Value;
use tonic::transport::Server;
use tonic::{Response, Status};

use crate::config::Peer;
use crate::setup::{Key, Upstream};
use crate::state::State;
use crate::upstream::{Upstreams, chain};

/// Time for one key.
const TIMEOUT: Duration = Duration::from_secs(15);
/// Number of keys of one request.
const MAX_KEYS: usize = 64;
/// Size of an error's body that is read, in bytes.
const MAX_ERROR_BYTES: usize = 64 << 10;
/// Length of a provider's code.
const MAX_CODE_LEN: usize = 64;
/// Version of Anthropic's API, which has to be named.
const ANTHROPIC_VERSION: &str = "2023-06-01";
/// Google's reason for the refusal of a key, which has the status 400.
const GOOGLE_INVALID_KEY: &str = "API_KEY_INVALID";

struct Service {
    state: Arc<State>,
}

/// Serves the operator's commands for as long as the future is polled.
pub(crate) fn listen(
    config: &Peer,
    state: Arc<State>,
) -> io::Result<impl Future<Output = ()> + Send + use<>> {
    let incoming = unix::listen(&config.socket, vec![config.uid])?;
    let services = Server::builder().add_service(OperatorServer::new(Service { state }));
    Ok(async move {
        if let Err(error) = services.serve_with_incoming(incoming).await {
            tracing::error!(%error, "failed to serve the operator's commands");
        }
    })
}

#[tonic::async_trait]
impl Operator for Service {
    async fn test_keys(
        &self,
        request: tonic::Request<TestKeysRequest>,
    ) -> Result<Response<TestKeysResponse>, Status> {
        let ids = request.into_inner().key_ids;
        if ids.len() > MAX_KEYS {
            return Err(Status::invalid_argument(format!("more than {MAX_KEYS} keys")));
        }
        let Some(setup) = self.state.control.setup() else {
            return Err(Status::unavailable("control has told the proxy no setup yet"));
        };
        let test = async |id: &String| match setup.key(id) {
            Some((key, upstream)) => test(&self.state.upstreams, upstream, key).await,
            None => KeyTest { key_id: id.clone(), verdict: KeyVerdict::Unknown.into(), ..KeyTest::default() },
        };
        Ok(Response::new(TestKeysResponse { tests: join_all(ids.iter().map(test)).await }))
    }
}

async fn test(upstreams: &Upstreams, upstream: &Upstream, key: &Key) -> KeyTest {
    let result = |verdict: KeyVerdict, status: u16, detail: String| KeyTest {
        key_id: key.id.clone(),
        verdict: verdict.into(),
        status: status.into(),
        detail,
    };
    let unreachable = |why: String| result(KeyVerdict::Unreachable, 0, why);
    let request = match request(upstream, key) {
        Ok(request) => request,
        Err(error) => return unreachable(error.to_string()),
    };
    let answer = async {
        let response = upstreams.send_once(request).await.map_err(|error| chain(&error))?;
        let status = response.status();
        let code = if status.is_success() { None } else { error_code(key, response.into_body()).await };
        Ok((status, code))
    };
    match tokio::time::timeout(TIMEOUT, answer).await {
        Ok(Ok((status, code))) => {
            result(verdict(status, code.as_deref()), status.as_u16(), code.unwrap_or_default())
        }
        Ok(Err(why)) => unreachable(why),
        Err(_) => unreachable(format!("no answer within {} s", TIMEOUT.as_secs())),
    }
}

fn request(upstream: &Upstream, key: &Key) -> Result<Request<Full<Bytes>>, http::Error> {
    let (path, query) = match upstream.provider {
        Provider::Anthropic => ("/v1/models", Some("limit=1")),
        Provider::Google => ("/v1beta/models", Some("pageSize=1")),
        // Its list of models takes any key.
        Provider::Openrouter => ("/v1/key", None),
        Provider::Openai | Provider::Unspecified => ("/v1/models", None),
    };
    let mut request = Request::get(upstream.uri(path, query)?);
    if let Some(headers) = request.headers_mut() {
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        if upstream.provider == Provider::Anthropic {
            headers.insert("anthropic-version", HeaderValue::from_static(ANTHROPIC_VERSION));
        }
        key.add_to(headers, upstream.provider);
    }
    request.body(Full::new(Bytes::new()))
}

fn verdict(status: StatusCode, code: Option<&str>) -> KeyVerdict {
    match status {
        status if status.is_success() => KeyVerdict::Accepted,
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => KeyVerdict::Refused,
        StatusCode::BAD_REQUEST if code == Some(GOOGLE_INVALID_KEY) => KeyVerdict::Refused,
        _ => KeyVerdict::Unclear,
    }
}

async fn error_code(key: &Key, body: Incoming) -> Option<String> {
    let body = Limited::new(body, MAX_ERROR_BYTES).collect().await.ok()?.to_bytes();
    // Messages have the key in them at some providers, or a part of it.
    code_of(&body).filter(|code| !key.is_in(code))
}

/// Returns the most precise code of a provider's error: Google's reason, OpenAI's code, or the kind of error.
fn code_of(body: &[u8]) -> Option<String> {
    let body: Value = serde_json::from_slice(body).ok()?;
    let error = body.get("error")?;
    let details = error.get("details").and_then(Value::as_array).into_iter().flatten();
    let reason = details.filter_map(|detail| detail.get("reason")).find_map(Value::as_str);
    let fields = ["code", "status", "type"].map(|name| error.get(name).and_then(Value::as_str));
    let code = reason.into_iter().chain(fields.into_iter().flatten()).find(|text| is_code(text))?;
    Some(code.to_owned())
}

fn is_code(text: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    (1..=MAX_CODE_LEN).contains(&text.len()) && text.bytes().all(is_plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_of_each_providers_error_is_found() {
        let cases = [
            (
                r#"{"type":"error","error":{"type":"authentication_error","message":"invalid x-api-key"}}"#,
                "authentication_error",
            ),
            (
                r#"{"error":{"message":"Incorrect API key provided: sk-a***b","type":"invalid_request_error","param":null,
                "code":"invalid_api_key"}}"#,
                "invalid_api_key",
            ),
            (
                r#"{"error":{"code":400,"message":"API key not valid.","status":"INVALID_ARGUMENT",
                "details":[{"@type":"t"},{"@type":"t","reason":"API_KEY_INVALID"}]}}"#,
                "API_KEY_INVALID",
            ),
            (r#"{"error":{"code":403,"message":"m","status":"PERMISSION_DENIED"}}"#, "PERMISSION_DENIED"),
        ];
        for (body, code) in cases {
            assert_eq!(code_of(body.as_bytes()).as_deref(), Some(code), "{body}");
        }
        for none in [r#"{"error":{"message":"User not found.","code":401}}"#, "<html>", r#"{"error":"no"}"#] {
            assert_eq!(code_of(none.as_bytes()), None, "{none}");
        }
        assert_eq!(code_of(br#"{"error":{"code":"a\u001b[2J b"}}"#), None, "for a terminal");
    }

    #[test]
    fn refusal_is_told_from_answers_about_something_else() {
        let cases = [
            (200, None, KeyVerdict::Accepted),
            (401, None, KeyVerdict::Refused),
            (403, Some("PERMISSION_DENIED"), KeyVerdict::Refused),
            (400, Some(GOOGLE_INVALID_KEY), KeyVerdict::Refused),
            (400, Some("INVALID_ARGUMENT"), KeyVerdict::Unclear),
            (302, None, KeyVerdict::Unclear),
            (429, Some("rate_limit_error"), KeyVerdict::Unclear),
            (500, None, KeyVerdict::Unclear),
        ];
        for (status, code, expected) in cases {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(verdict(status, code), expected, "{status} {code:?}");
        }
    }
}
