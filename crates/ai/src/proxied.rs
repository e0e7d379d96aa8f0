//! Requests with a credential of the user's. `/proxy/NAME/…` goes to the credential's host, whatever the request says, and the credential is
//! added on the way. Redirects are not followed: where they lead, nothing is added.

use std::time::Duration;

use http::header::{self, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri};
use hyper::body::Incoming;
use rigbox_core::ids::WorkspaceId;
pub(crate) use rigbox_core::proxied_secret::PATH;
use rigbox_proto::ai::open_secret_response::Outcome;
use rigbox_proto::ai::{Secret, SecretReason};
use rigbox_proto::headers::remove_hop_by_hop;
use rigbox_shares::{Bounds, Refused};
use serde_json::json;
use tokio::time::{sleep, timeout};

use crate::response::{ResponseBody, full};
use crate::state::State;
use crate::upstream::chain;

mod answer;
mod body;
mod request;

/// Requests at once, with the share of a workspace.
pub(crate) const REQUESTS: Bounds = Bounds { total: 512, per_key: 32 };
/// Requests at once, with the share of a user.
pub(crate) const REQUESTS_OF_USERS: Bounds = Bounds { total: 512, per_key: 64 };
/// Time before the workspace learns that a host was not reached: it can try again at once, and each try opens a connection.
const FAILURE_DELAY: Duration = Duration::from_millis(200);
/// Headers that name another way than the one taken, or what does not pass.
const OTHER_WAYS: [&str; 3] = ["forwarded", "trailer", "via"];

/// Answer in place of the host's.
struct Problem {
    status: StatusCode,
    code: &'static str,
    message: String,
}

impl Problem {
    fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into() }
    }

    fn response(self) -> Response<ResponseBody> {
        let body = json!({"error": {"code": self.code, "message": self.message}}).to_string();
        let mut response = Response::new(full(body.into()));
        *response.status_mut() = self.status;
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response
    }
}

/// Returns the answer to a request that the bridge refuses.
pub(crate) fn refused(text: &str) -> Response<ResponseBody> {
    Problem::new(StatusCode::FORBIDDEN, "forbidden", text).response()
}

/// Answers a request below [`PATH`].
pub(crate) async fn answer(
    state: &State,
    workspace: &WorkspaceId,
    request: Request<Incoming>,
) -> Response<ResponseBody> {
    forward(state, workspace, request).await.unwrap_or_else(Problem::response)
}

async fn forward(
    state: &State,
    workspace: &WorkspaceId,
    request: Request<Incoming>,
) -> Result<Response<ResponseBody>, Problem> {
    let hosts = state.public_hosts.as_ref().ok_or_else(|| {
        let text = "This installation reaches other hosts through a proxy, which proxied secrets do not use.";
        Problem::new(StatusCode::NOT_IMPLEMENTED, "not_available", text)
    })?;
    // A server answers TRACE with the request itself.
    if matches!(*request.method(), Method::TRACE | Method::CONNECT)
        || request.headers().contains_key(header::UPGRADE)
    {
        let text = "The proxy passes on plain requests: no TRACE, no CONNECT and no WebSocket.";
        return Err(Problem::new(StatusCode::NOT_IMPLEMENTED, "not_supported", text));
    }
    let of_workspace = state.proxied.take(workspace.clone());
    let of_workspace = of_workspace.map_err(|refused| too_many(refused, "This workspace has"))?;
    let (name, path) = split(request.uri());
    let name = name.to_owned();
    let secret = open(state, workspace, &name).await?;
    let of_user = state.proxied_of_users.take(secret.owner.clone());
    let of_user = of_user.map_err(|refused| too_many(refused, "Your workspaces have"))?;
    let idle = state.limits.idle;
    let outgoing = request::outgoing(request, &path, &secret, idle)?;
    let sent = timeout(state.limits.first_byte, hosts.send(outgoing)).await;
    let host = &secret.host;
    let response = match sent {
        Err(_) => {
            let text = format!("{host} did not answer in time.");
            return Err(Problem::new(StatusCode::GATEWAY_TIMEOUT, "host_timeout", text));
        }
        Ok(Err(error)) => {
            tracing::info!(%workspace, secret = name, error = %chain(&error), "the host of a proxied secret was not reached, or broke off");
            sleep(FAILURE_DELAY).await;
            // The reason would tell of this host's network.
            let text = format!("{host} was not reached by HTTPS at a public IPv4 address, or broke off.");
            return Err(Problem::new(StatusCode::BAD_GATEWAY, "host_not_reached", text));
        }
        Ok(Ok(response)) => response,
    };
    let returned = answer::returned(response, &name, &secret, idle, (of_workspace, of_user)).await;
    if let Err(problem) = &returned {
        tracing::info!(%workspace, secret = name, code = problem.code, "refused the answer to a proxied secret");
    }
    returned
}

fn too_many(refused: Refused, whose: &str) -> Problem {
    let text = match refused {
        Refused::Share(share) => format!("{whose} {share} requests open. Wait for one to end."),
        Refused::Full(_) => "Too many requests are open on this host. Try again.".to_owned(),
    };
    Problem::new(StatusCode::TOO_MANY_REQUESTS, "too_many_requests", text)
}

/// Splits a path into the name of a credential and what follows at its host.
fn split(uri: &Uri) -> (&str, String) {
    let rest = uri.path().strip_prefix(PATH).unwrap_or_default();
    let (name, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let path = if path.is_empty() { "/" } else { path };
    let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    (name, format!("{path}{query}"))
}

/// Gets a credential from control, for this request alone.
async fn open(state: &State, workspace: &WorkspaceId, name: &str) -> Result<Secret, Problem> {
    let unavailable = || {
        let text = "The proxied secret is not available now. Try again.";
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "not_ready", text)
    };
    match state.control.open_secret(workspace, name).await {
        Ok(Some(Outcome::Secret(secret))) => Ok(secret),
        Ok(Some(Outcome::Denied(denied))) => Err(match denied.reason() {
            SecretReason::NoSecret => Problem::new(StatusCode::NOT_FOUND, "not_found", denied.text),
            SecretReason::NotAllowed | SecretReason::Unspecified => {
                Problem::new(StatusCode::FORBIDDEN, "forbidden", denied.text)
            }
        }),
        Ok(None) => Err(unavailable()),
        Err(status) => {
            tracing::warn!(%workspace, %status, "failed to get a proxied secret");
            Err(unavailable())
        }
    }
}

/// Removes what speaks of the connection that a message came on.
fn remove_connection_headers(headers: &mut HeaderMap) {
    remove_hop_by_hop(headers, |name| {
        OTHER_WAYS.contains(&name.as_str()) || name.as_str().starts_with("proxy-")
    });
}

#[cfg(test)]
mod tests {
    use http::HeaderName;

    use super::*;

    #[test]
    fn path_names_the_credential_and_nothing_of_the_host() {
        for (uri, name, path) in [
            ("/proxy/github/repos?page=2", "github", "/repos?page=2"),
            ("/proxy/github", "github", "/"),
            ("/proxy/github/", "github", "/"),
            ("/proxy/github//evil.example/x", "github", "//evil.example/x"),
            ("/proxy//x", "", "/x"),
            ("/proxy/a%2fb/x", "a%2fb", "/x"),
            ("/proxy/github/../other/x", "github", "/../other/x"),
        ] {
            assert_eq!(split(&uri.parse().unwrap()), (name, path.to_owned()), "{uri}");
        }
    }

    #[test]
    fn headers_of_the_connection_do_not_pass() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "close, X-Hop"),
            ("x-hop", "1"),
            ("te", "trailers"),
            ("proxy-authorization", "Basic x"),
            ("accept", "*/*"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        remove_connection_headers(&mut headers);
        assert_eq!(headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["accept"]);
    }
}
