//! The server's HTTP API as this program needs it: requests with the key in a header (never in a URL), answers as types,
//! refusals as `ApiError`. What is too much or not ready now (429, 503) is asked again for a while.

mod apps;
mod backoff;
mod error;
mod shapes;
mod workspaces;

use std::time::Duration;

use reqwest::header::{AUTHORIZATION, HeaderValue, LOCATION, RETRY_AFTER};
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode, Url, redirect};
use serde::de::DeserializeOwned;

pub(crate) use error::ApiError;
pub(crate) use shapes::{App, GetWorkspace, NewWorkspace, Templates, User, Vm};

use backoff::Backoff;

use crate::config::Config;

const CONNECT: Duration = Duration::from_secs(10);
/// For an answer that is not waited for on purpose.
pub(crate) const ANSWER: Duration = Duration::from_secs(60);
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// Entries of a list that are asked for at once.
const PAGE: &str = "1000";
/// Of a refusal's text.
const LONGEST_REFUSAL: usize = 64 * 1024;

/// A server.
pub(crate) struct Api {
    http: Client,
    config: Config,
}

impl Api {
    pub(crate) fn new(config: &Config) -> Result<Self, ApiError> {
        let mut builder = Client::builder()
            .user_agent(concat!("rig/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT)
            .tcp_keepalive(KEEP_ALIVE)
            // The key must not follow to another place, and a POST must not become a GET.
            .redirect(redirect::Policy::none());
        if config.is_local() {
            builder = builder.no_proxy();
        }
        if config.api_url.scheme() == "http" {
            // Reading the system's certificates takes longer than a command in a workspace.
            builder = builder.tls_certs_only([]);
        }
        let http = builder.build().map_err(|error| ApiError::Strange {
            message: format!("no HTTP client can be made: {}", error::reason(&error)),
        })?;
        Ok(Self { http, config: config.clone() })
    }

    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    /// A route beside the API.
    pub(crate) async fn root<T: DeserializeOwned>(&self, path: &str) -> Result<T, ApiError> {
        let request = self.http.get(self.url(&[path])).timeout(ANSWER);
        self.read(self.once(request).await?).await
    }

    /// A public route, asked once: for those who want to know how the server is now.
    pub(crate) async fn public<T: DeserializeOwned>(&self, path: &str) -> Result<T, ApiError> {
        let request = self.http.get(self.url(&[&self.config.prefix()[..], &[path]].concat())).timeout(ANSWER);
        self.read(self.once(request).await?).await
    }

    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &[&str]) -> Result<T, ApiError> {
        self.call(self.request(Method::GET, path, &[])?.timeout(ANSWER)).await
    }

    pub(crate) async fn get_with<T: DeserializeOwned>(
        &self,
        path: &[&str],
        query: &[(&str, &str)],
        limit: Duration,
    ) -> Result<T, ApiError> {
        self.call(self.request(Method::GET, path, query)?.timeout(limit)).await
    }

    /// All pages of a list; `parts` takes one apart into what it lists and where the next one begins.
    pub(crate) async fn pages<P: DeserializeOwned, T>(
        &self,
        list: &str,
        query: &[(&str, &str)],
        parts: impl Fn(P) -> (Vec<T>, Option<String>),
    ) -> Result<Vec<T>, ApiError> {
        let (mut all, mut cursor) = (Vec::new(), None::<String>);
        loop {
            let mut query = [&[("limit", PAGE)], query].concat();
            query.extend(cursor.as_deref().map(|cursor| ("cursor", cursor)));
            let (listed, next) = parts(self.get_with(&[list], &query, ANSWER).await?);
            all.extend(listed);
            // A server that says the same cursor again would keep us for ever.
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
        self.call(self.request(method, path, &[])?.timeout(ANSWER)).await
    }

    /// A request of the caller, without a limit of time.
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
            // Looking takes none there.
            None if self.config.is_inside() => Ok(request),
            None => Err(ApiError::LogIn {
                message: format!(
                    "there is no API key for {}: run `rig login`, or set RIG_API_KEY",
                    self.config.address()
                ),
            }),
        }
    }

    /// A request of nobody: those that lead to a key.
    pub(crate) fn anonymous(&self, method: Method, path: &[&str]) -> RequestBuilder {
        self.http.request(method, self.url(&[&self.config.prefix()[..], path].concat())).timeout(ANSWER)
    }

    pub(crate) async fn call<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, ApiError> {
        self.read(self.open(request).await?).await
    }

    /// The answer's head, once the server neither has too much to do nor is unready.
    pub(crate) async fn open(&self, request: RequestBuilder) -> Result<Response, ApiError> {
        let mut backoff = Backoff::new();
        loop {
            let Some(again) = request.try_clone() else { return self.once(request).await };
            match self.once(again).await {
                Err(ApiError::Refused { status, code, message, details, retry_after })
                    if matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) =>
                {
                    let Some(pause) = backoff.pause(retry_after) else {
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
            let place = response.headers().get(LOCATION).and_then(|place| place.to_str().ok());
            return Err(ApiError::Strange {
                message: format!(
                    "{} sends us on to {}: set RIG_API_URL to the server's own address",
                    self.config.address(),
                    place.unwrap_or("nowhere"),
                ),
            });
        }
        let retry_after = response.headers().get(RETRY_AFTER).and_then(seconds);
        Err(ApiError::refused(status, retry_after, &beginning(response).await))
    }

    async fn read<T: DeserializeOwned>(&self, response: Response) -> Result<T, ApiError> {
        let bytes = response.bytes().await.map_err(|error| self.unreachable(&error))?;
        serde_json::from_slice(&bytes).map_err(|error| ApiError::Strange {
            message: format!("{} answers with what no Rigbox server says: {error}", self.config.address()),
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

async fn beginning(mut response: Response) -> Vec<u8> {
    let mut text = Vec::new();
    while text.len() < LONGEST_REFUSAL
        && let Ok(Some(chunk)) = response.chunk().await
    {
        text.extend_from_slice(&chunk);
    }
    text
}
