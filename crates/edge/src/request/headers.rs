//! Headers on their way through: the platform's are removed, those the app may know are added, and hop-by-hop
//! headers end here (RFC 9110, 7.6.1).

use http::header::{
    AUTHORIZATION, CONTENT_LENGTH, COOKIE, EXPECT, HOST, HeaderName, SET_COOKIE, TRAILER, VIA,
};
use http::{HeaderMap, HeaderValue, Version};
use rigbox_core::tokens;
use rigbox_proto::headers::remove_hop_by_hop;

use crate::decision::route::ForwardedIdentity;
use crate::request::cookies;

/// Header with a program's credential.
pub(crate) const KEY: HeaderName = HeaderName::from_static("x-rigbox-key");
const USER: HeaderName = HeaderName::from_static("x-rigbox-user");
const EMAIL: HeaderName = HeaderName::from_static("x-rigbox-email");
const ASSERTION: HeaderName = HeaderName::from_static("x-rigbox-assertion");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// Headers about framing, routing and credentials.
const HEAD_ONLY: [HeaderName; 7] = [AUTHORIZATION, CONTENT_LENGTH, COOKIE, EXPECT, HOST, SET_COOKIE, TRAILER];

/// How a request arrived, for the forwarding headers.
#[derive(Debug, Clone)]
pub(crate) struct Forwarding<'a> {
    /// Client address.
    pub(crate) client: &'a HeaderValue,
    /// `http` or `https`.
    pub(crate) scheme: &'static str,
    pub(crate) host: HeaderValue,
    /// Version of the client's request.
    pub(crate) version: Version,
}

/// Turns a client's headers into those of the request to the app.
pub(crate) fn to_app(
    headers: &mut HeaderMap,
    forwarding: Forwarding<'_>,
    identity: Option<&ForwardedIdentity>,
) {
    remove_hop_by_hop(headers, |name| *name == EXPECT || is_claim(name.as_str()));
    cookies::to_app(headers);
    strip_authorization(headers);
    headers.insert(FORWARDED_FOR, forwarding.client.clone());
    headers.insert(FORWARDED_PROTO, HeaderValue::from_static(forwarding.scheme));
    headers.insert(FORWARDED_HOST, forwarding.host.clone());
    headers.insert(HOST, forwarding.host);
    headers.append(VIA, via(forwarding.version));
    if let Some(identity) = identity {
        headers.insert(USER, identity.user.clone());
        headers.insert(EMAIL, identity.email.clone());
        if let Some(assertion) = &identity.assertion {
            headers.insert(ASSERTION, assertion.clone());
        }
    }
}

/// Returns this hop's part of `Via` (RFC 9110, 7.6.3).
fn via(version: Version) -> HeaderValue {
    HeaderValue::from_static(match version {
        Version::HTTP_10 => "1.0 rigbox",
        Version::HTTP_2 => "2.0 rigbox",
        _ => "1.1 rigbox",
    })
}

/// Turns an app's headers into those of the response to the client.
pub(crate) fn to_client(headers: &mut HeaderMap, host: &str) {
    // The `x-rigbox-` namespace is ours alone.
    remove_hop_by_hop(headers, |name| is_ours(name.as_str()));
    cookies::strip_set_cookie(headers, host);
}

/// Removes from trailers, of either direction, what has a meaning in a head only, or is ours to say (RFC 9110, 6.5.1).
pub(crate) fn trailers(trailers: &mut HeaderMap) {
    remove_hop_by_hop(trailers, |name| {
        HEAD_ONLY.contains(name) || is_claim(name.as_str()) || is_ours(name.as_str())
    });
}

/// Returns whether a client's header claims what only the platform may say, in any spelling that some server maps to the same name.
fn is_claim(name: &str) -> bool {
    // Nearly every other name ends here.
    if !name.starts_with(['x', 'f']) {
        return false;
    }
    is_ours(name)
        || starts_with_folded(name, "x-forwarded-")
        || name == "forwarded"
        || (name.len() == "x-real-ip".len() && starts_with_folded(name, "x-real-ip"))
}

/// Returns whether a header is in the platform's namespace.
fn is_ours(name: &str) -> bool {
    starts_with_folded(name, "x-rigbox-")
}

/// Compares as servers do that make an environment (CGI) of headers: whatever is no letter or digit is the same there.
fn starts_with_folded(name: &str, prefix: &str) -> bool {
    name.len() >= prefix.len()
        && name
            .bytes()
            .zip(prefix.bytes())
            .all(|(byte, wanted)| byte == wanted || (wanted == b'-' && !byte.is_ascii_alphanumeric()))
}

/// Removes `Authorization` if it carries a platform token; any other is the app's.
fn strip_authorization(headers: &mut HeaderMap) {
    let ours = |value: &HeaderValue| {
        let value = value.as_bytes().trim_ascii();
        let token = value
            .split_at_checked(6)
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case(b"bearer"))
            .map_or(value, |(_, token)| token.trim_ascii());
        tokens::kind(token).is_some()
    };
    if !headers.get_all(AUTHORIZATION).iter().any(ours) {
        return;
    }
    let kept: Vec<HeaderValue> =
        headers.get_all(AUTHORIZATION).iter().filter(|value| !ours(value)).cloned().collect();
    headers.remove(AUTHORIZATION);
    for value in kept {
        headers.append(AUTHORIZATION, value);
    }
}

/// Returns whether a header that is a list contains `word`.
pub(crate) fn lists(headers: &HeaderMap, name: &HeaderName, word: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .any(|one| one.trim_ascii().eq_ignore_ascii_case(word.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(
                HeaderName::from_bytes(name.as_bytes()).unwrap(),
                HeaderValue::from_str(value).unwrap(),
            );
        }
        headers
    }

    fn sent(pairs: &[(&str, &str)], identity: Option<&ForwardedIdentity>) -> Vec<(String, String)> {
        let mut headers = map(pairs);
        let client = HeaderValue::from_static("192.0.2.1");
        let forwarding = Forwarding {
            client: &client,
            scheme: "http",
            host: HeaderValue::from_static("web.rigbox.localhost"),
            version: Version::HTTP_11,
        };
        to_app(&mut headers, forwarding, identity);
        let mut pairs: Vec<(String, String)> = headers
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
            .filter(|(name, _)| name != "host" && name != "via" && !name.starts_with("x-forwarded-"))
            .collect();
        pairs.sort();
        pairs
    }

    #[test]
    fn claims_of_a_client_do_not_reach_the_app() {
        for name in [
            "x-rigbox-user",
            "X-Rigbox-Email",
            "x_rigbox_user",
            "x-rigbox_assertion",
            "x_rigbox-key",
            "X-Rigbox-Key",
            "x-rigbox-anything",
            "forwarded",
            "x-forwarded-prefix",
            "x_forwarded_for",
            "x.rigbox.user",
            "x~rigbox!email",
            "x-rigbox'user",
            "X|Forwarded^For",
            "x`real.ip",
            "x-real-ip",
        ] {
            assert_eq!(sent(&[(name, "evil")], None), [], "{name}");
        }
        let identity = ForwardedIdentity {
            user: HeaderValue::from_static("us-aaaaaaaa"),
            email: HeaderValue::from_static("a@b.example"),
            assertion: None,
        };
        let identity_forwarded = [
            ("x-rigbox-email".to_owned(), "a@b.example".to_owned()),
            ("x-rigbox-user".to_owned(), "us-aaaaaaaa".to_owned()),
        ];
        let claims = [("x-rigbox-user", "evil"), ("connection", "x-rigbox-user, x-rigbox-email")];
        assert_eq!(sent(&claims, Some(&identity)), identity_forwarded);
    }

    #[test]
    fn apps_own_authorization_passes() {
        let ours = format!("rb_{}", "a".repeat(43));
        for (value, passes) in [
            ("Basic YTpi".to_owned(), true),
            ("Bearer rb_short".to_owned(), true),
            (format!("Bearer {ours}x"), true),
            (format!("Bearer  {ours}"), false),
            (format!("bEARER {ours}"), false),
            (ours, false),
        ] {
            assert_eq!(sent(&[("authorization", &value)], None).len(), usize::from(passes), "{value}");
        }
    }

    #[test]
    fn hop_by_hop_headers_are_removed() {
        let headers = [
            ("connection", "keep-alive, X-Private"),
            ("connection", "x-other"),
            ("x-private", "1"),
            ("x-other", "1"),
            ("keep-alive", "timeout=5"),
            ("te", "trailers"),
            ("upgrade", "h2c"),
            ("proxy-authorization", "x"),
            ("proxy-connection", "x"),
            ("expect", "100-continue"),
            ("accept", "*/*"),
        ];
        assert_eq!(sent(&headers, None), [("accept".to_owned(), "*/*".to_owned())]);
    }
}
