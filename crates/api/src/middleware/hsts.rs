//! Strict-Transport-Security (RFC 6797): a browser that was here once uses TLS from then on.

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http::HeaderValue;
use http::header::STRICT_TRANSPORT_SECURITY;

use crate::context::ApiContext;

/// One year. Subdomains may be somebody else's business.
const HSTS: HeaderValue = HeaderValue::from_static("max-age=31536000");

/// Adds the header where the console is reached by TLS.
pub(crate) async fn add(State(context): State<ApiContext>, request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    if context.console.is_secure() && !is_local(context.console.host()) {
        response.headers_mut().insert(STRICT_TRANSPORT_SECURITY, HSTS);
    }
    response
}

/// Returns whether a host is the machine itself. Other programs use it too, without TLS and on other ports, for which the header counts.
fn is_local(host: &str) -> bool {
    let name = host.split(':').next().unwrap_or_default();
    name == "localhost" || name.ends_with(".localhost")
}

#[cfg(test)]
mod tests {
    use super::is_local;

    #[test]
    fn local_hosts_stay_reachable_without_tls() {
        for (host, expected) in [
            ("localhost", true),
            ("localhost:7070", true),
            ("console.localhost:7070", true),
            ("rigbox.example.org", false),
            ("localhost.example.org:443", false),
        ] {
            assert_eq!(is_local(host), expected, "{host}");
        }
    }
}
