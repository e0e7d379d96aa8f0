//! The server: HTTP/1.1, on a port of its own.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::scenario::{Answer, Scenario};
use crate::tools::Tools;
use crate::{anthropic, chat, google, responses};

/// Time for what was written to leave before a connection breaks off.
const FLUSH_TIME: Duration = Duration::from_millis(20);

/// Headers with a key, each with its provider's error for one that it refuses.
const KEY_HEADERS: [(&str, &str); 3] = [
    (
        "x-api-key",
        r#"{"type":"error","error":{"type":"authentication_error","message":"invalid x-api-key"}}"#,
    ),
    (
        "authorization",
        r#"{"error":{"message":"Incorrect API key.","type":"invalid_request_error","code":"invalid_api_key"}}"#,
    ),
    (
        "x-goog-api-key",
        r#"{"error":{"code":400,"message":"API key not valid.","details":[{"reason":"API_KEY_INVALID"}]}}"#,
    ),
];

/// Body of a response.
pub(crate) type Body = UnsyncBoxBody<Bytes, io::Error>;

/// Request that the provider has seen.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Method.
    pub method: Method,
    /// Path with its query.
    pub path: String,
    /// Headers, keys included.
    pub headers: HeaderMap,
    /// Body, as it came.
    pub body: Bytes,
}

impl Seen {
    /// Returns the body as JSON.
    ///
    /// # Panics
    /// It is not JSON.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("the body is JSON")
    }

    /// Returns a header's text, or nothing.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// Tells if the request was made with this key.
    #[must_use]
    pub fn has_key(&self, key: &str) -> bool {
        KEY_HEADERS.iter().any(|(name, _)| self.header(name).ends_with(key))
    }
}

/// What a call would cost at the provider: what it has read, and what it has made, whether somebody took it or not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Billed {
    /// The proxy's id of the call.
    pub call_id: String,
    /// Input tokens.
    pub input: u64,
    /// Output tokens.
    pub output: u64,
}

/// Running provider. It ends with the last clone.
#[derive(Debug, Clone)]
pub struct Provider {
    /// Address.
    pub address: SocketAddr,
    state: Arc<State>,
}

/// What it has seen and would bill, and its settings.
#[derive(Debug, Default)]
pub(crate) struct State {
    seen: Mutex<Vec<Seen>>,
    billed: Mutex<Vec<Billed>>,
    /// Keys that are refused, with the status.
    refused_keys: Mutex<Vec<(String, u16)>>,
    answers: AtomicU64,
}

impl Provider {
    /// Starts on a free port of loopback.
    ///
    /// # Errors
    /// There is none.
    pub async fn start() -> io::Result<Self> {
        Self::listen(TcpListener::bind("127.0.0.1:0").await?)
    }

    /// Starts on a listener.
    ///
    /// # Errors
    /// It has no address.
    pub fn listen(listener: TcpListener) -> io::Result<Self> {
        let (address, state) = (listener.local_addr()?, Arc::new(State::default()));
        let served = Arc::downgrade(&state);
        tokio::spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else { continue };
                let Some(state) = served.upgrade() else { return };
                let _ = stream.set_nodelay(true);
                tokio::spawn(async move {
                    let service = service_fn(move |request| {
                        let state = state.clone();
                        async move { Ok::<_, Infallible>(respond(&state, request).await) }
                    });
                    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Ok(Self { address, state })
    }

    /// Returns its base URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Returns all requests so far.
    #[must_use]
    pub fn seen(&self) -> Vec<Seen> {
        self.state.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns the last request.
    ///
    /// # Panics
    /// There was none.
    #[must_use]
    pub fn last(&self) -> Seen {
        self.seen().pop().expect("the provider was asked")
    }

    /// Returns what it would bill so far.
    #[must_use]
    pub fn billed(&self) -> Vec<Billed> {
        self.state.billed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Refuses calls with this key from now on.
    pub fn refuse_key(&self, key: &str, status: u16) {
        self.state.refused_keys.lock().unwrap_or_else(PoisonError::into_inner).push((key.to_owned(), status));
    }
}

async fn respond(state: &Arc<State>, request: Request<Incoming>) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let Ok(body) = body.collect().await.map(http_body_util::Collected::to_bytes) else {
        return error(StatusCode::BAD_REQUEST, "the body broke off");
    };
    let path = parts.uri.path_and_query().map(ToString::to_string).unwrap_or_default();
    let seen = Seen { method: parts.method, path: path.clone(), headers: parts.headers, body: body.clone() };
    let refused = state.refused_keys.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let keys = KEY_HEADERS.map(|(name, error)| (seen.header(name).to_owned(), error));
    let is_get = seen.method == Method::GET;
    let call_id = seen.header("x-client-request-id").to_owned();
    state.seen.lock().unwrap_or_else(PoisonError::into_inner).push(seen);
    for (key, status) in refused {
        if let Some((_, error)) = keys.iter().find(|(sent, _)| sent.ends_with(&key)) {
            return error_response(StatusCode::from_u16(status).unwrap_or_default(), error);
        }
    }
    if is_get {
        return free(&path);
    }
    let text = String::from_utf8_lossy(&body).into_owned();
    let Ok(request) = serde_json::from_slice::<Value>(&body) else {
        return error(StatusCode::BAD_REQUEST, "the body is not JSON");
    };
    let scenario = Scenario::of(&text);
    if scenario.echoes {
        let keys: Vec<_> = keys.iter().map(|(key, _)| key.as_str()).collect();
        return error(StatusCode::UNAUTHORIZED, &format!("this key is not known: {}", keys.join(" ")));
    }
    if scenario.is_silent {
        std::future::pending::<()>().await;
    }
    tokio::time::sleep(scenario.wait).await;
    if let Some(status) = scenario.status {
        return error(StatusCode::from_u16(status).unwrap_or_default(), "asked for");
    }
    if scenario.is_garbage {
        let mut response = Response::new(full(Bytes::from_static(b"\x00\xff{[ this is no answer")));
        response.headers_mut().insert("content-type", http::HeaderValue::from_static("application/json"));
        return response;
    }
    let answer = |limit: Option<u64>, tools: &Tools, model: String| {
        let call = scenario.call(tools);
        Answer {
            input: input(&body),
            length: scenario.length(limit, call.as_ref()),
            padding: scenario.padding,
            cost: scenario.cost.map(|micro| micro as f64 / 1e6),
            call,
            text: google::described(&request),
            thinks: scenario.thinks,
            model,
            id: state.answers.fetch_add(1, Ordering::Relaxed),
        }
    };
    let path = path.split('?').next().unwrap_or_default();
    let of_model = |request: &Value| request["model"].as_str().unwrap_or_default().to_owned();
    let (answer, events, document) = match path {
        "/v1/messages" => {
            let answer =
                answer(request["max_tokens"].as_u64(), &anthropic::tools(&request), of_model(&request));
            (answer.clone(), anthropic::events(&answer), anthropic::document(&answer))
        }
        "/v1/messages/count_tokens" | "/v1/responses/input_tokens" => {
            return json_response(
                &json!({"object": "response.input_tokens", "input_tokens": input(&body)}),
                &scenario,
            );
        }
        "/v1/chat/completions" | "/api/v1/chat/completions" => {
            let limit = request["max_completion_tokens"].as_u64().or(request["max_tokens"].as_u64());
            let answer = answer(limit, &chat::tools(&request), of_model(&request));
            let has_usage = request["stream_options"]["include_usage"] == json!(true);
            (answer.clone(), chat::events(&answer, has_usage), chat::document(&answer))
        }
        "/v1/responses" | "/api/v1/responses" => {
            let answer = answer(
                request["max_output_tokens"].as_u64(),
                &responses::tools(&request),
                of_model(&request),
            );
            let events = responses::events(&answer);
            let events = if scenario.fails { responses::failing(events) } else { events };
            (answer.clone(), events, responses::document(&answer))
        }
        "/v1/embeddings" | "/api/v1/embeddings" => {
            let usage = json!({"prompt_tokens": input(&body), "total_tokens": input(&body)});
            let list = json!([{"object": "embedding", "index": 0, "embedding": [0.5, 0.25]}]);
            state.bill(Billed { call_id, input: input(&body), output: 0 });
            return json_response(
                &json!({"object": "list", "data": list, "model": request["model"], "usage": usage}),
                &scenario,
            );
        }
        _ => match google::method(path) {
            Some((model, method @ ("generateContent" | "streamGenerateContent"))) => {
                let config = &request["generationConfig"];
                let answer =
                    answer(config["maxOutputTokens"].as_u64(), &google::tools(&request), model.to_owned());
                let events = google::events(&answer);
                if method == "streamGenerateContent" {
                    return state.stream(call_id, &scenario, &answer, events);
                }
                (answer.clone(), events, google::document(&answer))
            }
            Some((_, "countTokens")) => {
                return json_response(&json!({"totalTokens": input(&body)}), &scenario);
            }
            _ => return error(StatusCode::NOT_FOUND, "no such path"),
        },
    };
    if request["stream"] == json!(true) {
        return state.stream(call_id, &scenario, &answer, events);
    }
    state.bill(Billed { call_id, input: answer.input, output: answer.output() });
    json_response(&document, &scenario)
}

/// Tokens of a request.
fn input(body: &Bytes) -> u64 {
    u64::try_from(body.len()).unwrap_or(u64::MAX) / 4 + 1
}

impl State {
    fn bill(&self, billed: Billed) {
        self.billed.lock().unwrap_or_else(PoisonError::into_inner).push(billed);
    }

    /// Streams events. One that is cut breaks off after half of them.
    fn stream(
        self: &Arc<Self>,
        call_id: String,
        scenario: &Scenario,
        answer: &Answer,
        events: Vec<String>,
    ) -> Response<Body> {
        let half = events.len() / 2;
        let (is_cut, pause) = (scenario.is_cut, scenario.pause);
        let output = if is_cut || scenario.fails { answer.output() / 2 } else { answer.output() };
        self.bill(Billed { call_id, input: answer.input, output });
        let frames = stream::iter(events.into_iter().enumerate()).then(move |(index, event)| async move {
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
            if is_cut && index >= half {
                // What came before goes out first.
                tokio::time::sleep(FLUSH_TIME).await;
                return Err(io::Error::from(io::ErrorKind::ConnectionAborted));
            }
            Ok(Frame::data(Bytes::from(event)))
        });
        let mut response = Response::new(BodyExt::boxed_unsync(StreamBody::new(frames)));
        let headers = response.headers_mut();
        headers.insert("content-type", http::HeaderValue::from_static("text/event-stream; charset=utf-8"));
        headers.insert("request-id", http::HeaderValue::from_static("req_test"));
        response
    }
}

fn full(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}

fn json_response(body: &Value, scenario: &Scenario) -> Response<Body> {
    let text = Bytes::from(body.to_string());
    let body = if scenario.is_cut {
        let half = text.slice(..text.len() / 2);
        let frames = [Ok(Frame::data(half)), Err(io::Error::from(io::ErrorKind::ConnectionAborted))];
        BodyExt::boxed_unsync(StreamBody::new(stream::iter(frames).then(async |frame| {
            if frame.is_err() {
                // What came before goes out first.
                tokio::time::sleep(FLUSH_TIME).await;
            }
            frame
        })))
    } else {
        full(text)
    };
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert("content-type", http::HeaderValue::from_static("application/json"));
    headers.insert("request-id", http::HeaderValue::from_static("req_test"));
    if scenario.is_encoded {
        headers.insert("content-encoding", http::HeaderValue::from_static("gzip"));
    }
    response
}

/// Answers what costs nothing and needs a key.
fn free(path: &str) -> Response<Body> {
    let body = match path {
        "/v1/models" | "/v1/models?limit=1" => json!({"object": "list", "data": []}),
        "/v1beta/models?pageSize=1" => json!({"models": []}),
        "/api/v1/key" => json!({"data": {"label": "sk-or-v1-0e6...1c9", "usage": 0}}),
        _ => return error(StatusCode::NOT_FOUND, "no such path"),
    };
    json_response(&body, &Scenario::of(""))
}

/// Error in a form that all clients show.
fn error(status: StatusCode, message: &str) -> Response<Body> {
    let body =
        json!({"type": "error", "error": {"type": "api_error", "code": status.as_u16(), "message": message}});
    error_response(status, &body.to_string())
}

fn error_response(status: StatusCode, body: &str) -> Response<Body> {
    let mut response = Response::new(full(Bytes::from(body.to_owned())));
    *response.status_mut() = status;
    response.headers_mut().insert("content-type", http::HeaderValue::from_static("application/json"));
    response
}
