//! The answer of a credential's host, on its way to the workspace: without the credential, and with addresses as the workspace reaches them.

use std::io;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;
use http::header::{CONTENT_ENCODING, LOCATION, SET_COOKIE, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;
use rigbox_core::egress::HTTPS_PORT;
use rigbox_core::proxied_secret::PATH;
use rigbox_proto::ai::Secret;
use tokio::time::timeout;

use super::body::{self, Places};
use super::{Problem, remove_connection_headers};
use crate::echo;
use crate::response::ResponseBody;

/// Time for the first piece of an answer before its head passes.
const FIRST_PIECE_TIMEOUT: Duration = Duration::from_millis(100);
/// Headers of an answer that speak of the host's own address.
const ADDRESS_HEADERS: [&str; 2] = ["alt-svc", "strict-transport-security"];
/// Attributes of a cookie that say where it is sent (RFC 6265). All hosts have one address here, so each cookie gets the path of its host.
const COOKIE_SCOPE: [&str; 3] = ["domain", "path", "secure"];

/// Returns the host's answer for the workspace, without the credential.
pub(super) async fn returned(
    response: Response<Incoming>,
    name: &str,
    secret: &Secret,
    idle: Duration,
    places: Places,
) -> Result<Response<ResponseBody>, Problem> {
    let (parts, body) = response.into_parts();
    if is_packed(&parts.headers) {
        let text = "The host's answer has an encoding that was not asked for.";
        return Err(Problem::new(StatusCode::BAD_GATEWAY, "host_failed", text));
    }
    let mut pieces = body::pass(body, secret, idle, places);
    // Where the answer has the credential at once, there is still a head to say so in. A stream's may come long before its first piece.
    let first = timeout(FIRST_PIECE_TIMEOUT, pieces.next()).await.ok().flatten();
    if let Some(Err(error)) = &first
        && error.kind() == io::ErrorKind::InvalidData
    {
        let text = format!("The answer of {} has the proxied secret in it, and was held back.", secret.host);
        return Err(Problem::new(StatusCode::BAD_GATEWAY, "secret_echoed", text));
    }
    let rest = stream::unfold(pieces, async |mut pieces| Some((pieces.next().await?, pieces)));
    let frames = stream::iter(first).chain(rest).map(|piece| piece.map(Frame::data));
    let body = StreamBody::new(frames).boxed_unsync();
    // Not the parts themselves, which have the host's own words for the status.
    let mut response = Response::new(body);
    *response.status_mut() = parts.status;
    *response.headers_mut() = headers(parts.headers, name, secret);
    Ok(response)
}

/// Tells if an answer is packed, which cannot be searched.
fn is_packed(headers: &HeaderMap) -> bool {
    let is_not = |plain: &'static [u8]| move |value: &HeaderValue| value.as_bytes() != plain;
    headers.get_all(CONTENT_ENCODING).iter().any(is_not(b"identity"))
        || headers.get_all(TRANSFER_ENCODING).iter().any(is_not(b"chunked"))
}

fn headers(mut headers: HeaderMap, name: &str, secret: &Secret) -> HeaderMap {
    remove_connection_headers(&mut headers);
    let value = secret.value.as_bytes();
    let is_kept = |(name, text): &(&HeaderName, &HeaderValue)| {
        !ADDRESS_HEADERS.contains(&name.as_str())
            && !echo::is_in(value, text.as_bytes())
            && !echo::is_in_name(value, name.as_str().as_bytes())
    };
    let mut kept = HeaderMap::new();
    for (header, text) in headers.iter().filter(is_kept) {
        let text = match *header {
            LOCATION => location(text, name, secret),
            SET_COOKIE => cookie(text, name),
            _ => Some(text.clone()),
        };
        if let Some(text) = text {
            kept.append(header, text);
        }
    }
    kept
}

/// Returns the address of a redirect: within the credential's host as the workspace reaches it, others as they are. None for one that
/// would lead to another credential's path.
fn location(location: &HeaderValue, name: &str, secret: &Secret) -> Option<HeaderValue> {
    let text = location.to_str().ok()?;
    let origin = format!("https://{}", secret.host);
    let after = |origin: &str| text.strip_prefix(origin);
    let at_default_port = (secret.port == u32::from(HTTPS_PORT)).then(|| after(&origin)).flatten();
    let path = after(&format!("{origin}:{}", secret.port)).or(at_default_port).unwrap_or(text);
    if !path.starts_with('/') || path.starts_with("//") {
        return Some(location.clone());
    }
    let lower = path.to_ascii_lowercase().replace("%2e", ".");
    let climbs = lower.split(['/', '\\', '?', '#']).any(|segment| segment == "..");
    if climbs { None } else { HeaderValue::from_str(&format!("{PATH}{name}{path}")).ok() }
}

/// Returns a cookie with the path of its host's credential.
fn cookie(cookie: &HeaderValue, name: &str) -> Option<HeaderValue> {
    let text = cookie.to_str().ok()?;
    let (pair, attributes) = text.split_once(';').unwrap_or((text, ""));
    let kept = attributes.split(';').filter(|attribute| {
        let attribute = attribute.split('=').next().unwrap_or_default().trim().to_ascii_lowercase();
        !attribute.is_empty() && !COOKIE_SCOPE.contains(&attribute.as_str())
    });
    let kept: String = kept.map(|attribute| format!("; {}", attribute.trim())).collect();
    HeaderValue::from_str(&format!("{pair}; Path={PATH}{name}/{kept}")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret() -> Secret {
        Secret { host: "api.example.org".into(), port: 443, value: "Token-0123".into(), ..Secret::default() }
    }

    #[test]
    fn redirect_stays_at_the_bridge_only_within_its_host() {
        let to = |text: &'static str| {
            let found = location(&HeaderValue::from_static(text), "name", &secret())?;
            Some(found.to_str().unwrap().to_owned())
        };
        for text in ["/x?y", "https://api.example.org/x?y", "https://api.example.org:443/x?y"] {
            assert_eq!(to(text).as_deref(), Some("/proxy/name/x?y"), "{text}");
        }
        for text in
            ["https://api.example.org.evil.example/x", "https://evil.example/x", "//evil.example/x", "x"]
        {
            assert_eq!(to(text).as_deref(), Some(text), "{text}");
        }
        for text in ["/../other/x", "https://api.example.org/a/%2E%2e/../other", "/a/..\\other"] {
            assert_eq!(to(text), None, "{text}");
        }
    }

    #[test]
    fn cookie_is_sent_to_its_own_host_alone() {
        let kept = cookie(
            &HeaderValue::from_static("session=a; Domain=example.org; Path=/; Secure; HttpOnly; Max-Age=9"),
            "name",
        );
        assert_eq!(kept.unwrap(), "session=a; Path=/proxy/name/; HttpOnly; Max-Age=9");
        assert_eq!(cookie(&HeaderValue::from_static("a=b"), "name").unwrap(), "a=b; Path=/proxy/name/");
    }

    #[test]
    fn credential_passes_neither_in_a_headers_value_nor_in_its_name() {
        let mut map = HeaderMap::new();
        for (name, value) in
            [("x-a", "is Token-0123"), ("x-token-0123", "1"), ("alt-svc", "h3"), ("x-b", "2")]
        {
            map.insert(name, HeaderValue::from_static(value));
        }
        let kept = headers(map, "name", &secret());
        assert_eq!(kept.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["x-b"]);
    }

    #[test]
    fn every_coding_counts() {
        let with = |pairs: &[(&'static str, &'static str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                headers.append(*name, HeaderValue::from_static(value));
            }
            is_packed(&headers)
        };
        assert!(!with(&[("content-encoding", "identity"), ("transfer-encoding", "chunked")]));
        assert!(with(&[("content-encoding", "identity"), ("content-encoding", "gzip")]));
        assert!(with(&[("transfer-encoding", "gzip, chunked")]));
    }
}
