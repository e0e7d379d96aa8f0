//! Client of the HTTP API. Requests have the API key in a header, never in a URL. Errors are `ApiError`. Requests refused with 429 or 503
//! are retried for a while.

mod apps;
mod backoff;
mod error;
mod schema;
mod ssh_keys;
mod websocket;
mod workspaces;

use std::time::Duration;

use reqwest::header::{AUTHORIZATION, HeaderValue, LOCATION, RETRY_AFTER};
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode, Url, redirect};
use serde::de::DeserializeOwned;

pub(crate) use error::ApiError;
pub(crate) use schema::{
    App, CallerKey, GetWorkspace, NewWorkspace, SshKey, SshSettings, Template, Templates, User, Vm,
};
pub(crate) use websocket::Socket;

use backoff::Backoff;

use crate::config::Config;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Timeout of requests that the server does not hold.
pub(crate) const RESPONSE_TIMEOUT: Duration = Duration::from_secs(60);
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(30);
/// Entries per page of a list.
const PAGE_LIMIT: &str = "1000";
/// Limit for the body of an error.
const MAX_ERROR_BYTES: usize = 64 * 1024;

/// Client of one server.
pub(crate) struct Api {
    http: Client,
    config: Config,
}

impl Api {
    pub(crate) fn new(config: &Config) -> Result<Self, ApiError> {
        let mut builder = Client::builder()
            .user_agent(concat!("rig/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_keepalive(KEEP_ALIVE_INTERVAL)
            // A redirect could send the key elsewhere, or turn a POST into a GET.
            .redirect(redirect::Policy::none());
        if config.is_local() {
            builder = builder.no_proxy();
        }
        if config.api_url.scheme() == "http" {
            // Reading the system's certificates takes longer than a command in a workspace.
            builder = builder.tls_certs_only([]);
        }
        let http = builder.build().map_err(|error| ApiError::Unexpected {
            message: format!("cannot create the HTTP client: {}", error::reason(&error)),
        })?;
        Ok(Self { http, config: config.clone() })
    }

    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    /// Requests a route outside the API.
    pub(crate) async fn root<T: DeserializeOwned>(&self, path: &str) -> Result<T, ApiError> {
        let request = self.http.get(self.url(&[path])).timeout(RESPONSE_TIMEOUT);
        self.read(self.once(request).await?).await
    }

    /// Requests the lines of `known_hosts` for the server's SSH gateway.
    pub(crate) async fn ssh_known_hosts(&self) -> Result<String, ApiError> {
        let url = self.url(&[".well-known", "ssh-known-hosts"]);
        let response = self.once(self.http.get(url).timeout(RESPONSE_TIMEOUT)).await?;
        response.text().await.map_err(|error| ApiError::Unexpected {
            message: format!("cannot read the server's answer: {}", error::reason(&error)),
        })
    }

    /// Requests a public route without retries, which would hide the server's current state.
    pub(crate) async fn public<T: DeserializeOwned>(&self, path: &str) -> Result<T, ApiError> {
        let request =
            self.http.get(self.url(&[&self.config.prefix()[..], &[path]].concat())).timeout(RESPONSE_TIMEOUT);
        self.read(self.once(request).await?).await
    }

    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &[&str]) -> Result<T, ApiError> {
        self.call(self.request(Method::GET, path, &[])?.timeout(RESPONSE_TIMEOUT)).await
    }

    /// Requests a route without retries, for what a command can do without.
    pub(crate) async fn get_once<T: DeserializeOwned>(&self, path: &[&str]) -> Result<T, ApiError> {
        self.read(self.once(self.request(Method::GET, path, &[])?.timeout(RESPONSE_TIMEOUT)).await?).await
    }

    pub(crate) async fn get_with<T: DeserializeOwned>(
        &self,
        path: &[&str],
        query: &[(&str, &str)],
        limit: Duration,
    ) -> Result<T, ApiError> {
        self.call(self.request(Method::GET, path, query)?.timeout(limit)).await
    }

    /// Requests all pages of a list; `split` returns a page's entries and its cursor.
    pub(crate) async fn pages<P: DeserializeOwned, T>(
        &self,
        list: &str,
        query: &[(&str, &str)],
        split: impl Fn(P) -> (Vec<T>, Option<String>),
    ) -> Result<Vec<T>, ApiError> {
        let (mut all, mut cursor) = (Vec::new(), None::<String>);
        loop {
            let mut query = [&[("limit", PAGE_LIMIT)], query].concat();
            query.extend(cursor.as_deref().map(|cursor| ("cursor", cursor)));
            let (listed, next) = split(self.get_with(&[list], &query, RESPONSE_TIMEOUT).await?);
            all.extend(listed);
            // A repeated cursor would loop forever.
            match next {
                Some(next) if cursor.as_ref() != Some(&next) => cursor = Some(next),
                _ => return Ok(all),
            }
        }
    }

    pub(crate) async fn send<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &[&str],
    ) -> Result<T, ApiError> {
        self.call(self.request(method, path, &[])?.timeout(RESPONSE_TIMEOUT)).await
    }

    /// Returns an authenticated request without a timeout.
    pub(crate) fn request(
        &self,
        method: Method,
        path: &[&str],
        query: &[(&str, &str)],
    ) -> Result<RequestBuilder, ApiError> {
        let mut url = self.url(&[&self.config.prefix()[..], path].concat());
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let request = self.http.request(method, url);
        match &self.config.key {
            Some(key) => Ok(request.header(AUTHORIZATION, key.bearer())),
            // Reading needs no key there.
            None if self.config.is_inside() => Ok(request),
            None => Err(ApiError::LogIn {
                message: format!(
                    "no API key for {}; run `rig login`, or set RIG_API_KEY",
                    self.config.address()
                ),
            }),
        }
    }

    /// Returns a request without a key, for login.
    pub(crate) fn anonymous(&self, method: Method, path: &[&str]) -> RequestBuilder {
        self.http
            .request(method, self.url(&[&self.config.prefix()[..], path].concat()))
            .timeout(RESPONSE_TIMEOUT)
    }

    pub(crate) async fn call<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, ApiError> {
        self.read(self.open(request).await?).await
    }

    /// Sends a request, with retries while the server is busy or unready, and returns the response without its body.
    pub(crate) async fn open(&self, request: RequestBuilder) -> Result<Response, ApiError> {
        let mut backoff = Backoff::new();
        loop {
            let Some(again) = request.try_clone() else { return self.once(request).await };
            match self.once(again).await {
                Err(ApiError::Refused { status, code, message, details, retry_after })
                    if matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) =>
                {
                    let Some(pause) = backoff.next_delay(retry_after) else {
                        return Err(ApiError::Refused { status, code, message, details, retry_after });
                    };
                    tokio::time::sleep(pause).await;
                }
                result => return result,
            }
        }
    }

    async fn once(&self, request: RequestBuilder) -> Result<Response, ApiError> {
        let response = request.send().await.map_err(|error| self.unreachable(&error))?;
        let status = response.status();
        if status.is_success() || status == StatusCode::SWITCHING_PROTOCOLS {
            return Ok(response);
        }
        if status.is_redirection() {
            let location = response.headers().get(LOCATION).and_then(|location| location.to_str().ok());
            return Err(ApiError::Unexpected {
                message: format!(
                    "{} redirects to {}; set RIG_API_URL to the server's own URL",
                    self.config.address(),
                    location.unwrap_or("another server"),
                ),
            });
        }
        let retry_after = response.headers().get(RETRY_AFTER).and_then(seconds);
        Err(ApiError::refused(status, retry_after, &error_body(response).await))
    }

    async fn read<T: DeserializeOwned>(&self, response: Response) -> Result<T, ApiError> {
        let bytes = response.bytes().await.map_err(|error| self.unreachable(&error))?;
        serde_json::from_slice(&bytes).map_err(|error| ApiError::Unexpected {
            message: format!("unexpected response from {}: {error}", self.config.address()),
        })
    }

    pub(crate) fn unreachable(&self, error: &reqwest::Error) -> ApiError {
        ApiError::unreachable(&self.config, error)
    }

    fn url(&self, path: &[&str]) -> Url {
        let mut url = self.config.api_url.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        url
    }
}

fn seconds(value: &HeaderValue) -> Option<Duration> {
    value.to_str().ok()?.trim().parse().ok().map(Duration::from_secs)
}

async fn error_body(mut response: Response) -> Vec<u8> {
    let mut text = Vec::new();
    while text.len() < MAX_ERROR_BYTES
        && let Ok(Some(chunk)) = response.chunk().await
    {
        text.extend_from_slice(&chunk);
    }
    text
}
