//! Headers on their way: what is the platform's is taken out, what the app may know is added, and what concerns one connection only
//! ends here (RFC 9110, 7.6.1).

use http::header::{
    AUTHORIZATION, CONNECTION, EXPECT, HOST, HeaderName, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE,
    TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderValue};
use rigbox_core::tokens;

use crate::cookies;

/// The credential that a program shows.
pub(crate) const KEY: HeaderName = HeaderName::from_static("x-rigbox-key");
const USER: HeaderName = HeaderName::from_static("x-rigbox-user");
const EMAIL: HeaderName = HeaderName::from_static("x-rigbox-email");
const ASSERTION: HeaderName = HeaderName::from_static("x-rigbox-assertion");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// Those of one connection, whether or not `Connection` names them.
const HOP_BY_HOP: [HeaderName; 8] = [
    CONNECTION,
    KEEP_ALIVE,
    PROXY_CONNECTION,
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TE,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// Who the app is told of.
#[derive(Debug, Clone)]
pub(crate) struct Person {
    pub(crate) user: HeaderValue,
    pub(crate) email: HeaderValue,
    pub(crate) assertion: Option<HeaderValue>,
}

/// How a request came.
#[derive(Debug, Clone)]
pub(crate) struct Way<'a> {
    /// The client's address.
    pub(crate) client: &'a HeaderValue,
    /// `http` or `https`.
    pub(crate) scheme: &'static str,
    pub(crate) host: HeaderValue,
}

/// Makes a client's headers those of the request to the app.
pub(crate) fn to_app(headers: &mut HeaderMap, way: Way<'_>, person: Option<&Person>) {
    end_here(headers, |name| *name == EXPECT || is_claim(name.as_str()));
    cookies::strip(headers);
    strip_authorization(headers);
    headers.insert(FORWARDED_FOR, way.client.clone());
    headers.insert(FORWARDED_PROTO, HeaderValue::from_static(way.scheme));
    headers.insert(FORWARDED_HOST, way.host.clone());
    headers.insert(HOST, way.host);
    if let Some(person) = person {
        headers.insert(USER, person.user.clone());
        headers.insert(EMAIL, person.email.clone());
        if let Some(assertion) = &person.assertion {
            headers.insert(ASSERTION, assertion.clone());
        }
    }
}

/// Makes an app's headers those of the answer to the client.
pub(crate) fn to_client(headers: &mut HeaderMap, host: &str) {
    // Under our name we speak ourselves.
    end_here(headers, |name| name.as_str().starts_with("x-rigbox-"));
    cookies::strip_set(headers, host);
}

/// Removes the headers of one connection, and those that `is_wrong` names.
fn end_here(headers: &mut HeaderMap, is_wrong: impl Fn(&HeaderName) -> bool) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
        .collect();
    for name in named {
        headers.remove(name);
    }
    // The names are gone through, which is much less than to look each up: nearly never is there more than one.
    while let Some(name) = headers.keys().find(|name| HOP_BY_HOP.contains(name) || is_wrong(name)).cloned() {
        headers.remove(name);
    }
}

/// Whether a client's header claims what only we say. Programs that read headers from an environment (CGI) do not tell `_` from `-`.
fn is_claim(name: &str) -> bool {
    // Nearly every other name ends here.
    if !name.starts_with(['x', 'f']) {
        return false;
    }
    let mut name = std::borrow::Cow::Borrowed(name);
    if name.contains('_') {
        name = name.replace('_', "-").into();
    }
    name.starts_with("x-rigbox-")
        || name.starts_with("x-forwarded-")
        || name == "forwarded"
        || name == "x-real-ip"
}

/// Takes `Authorization` out if it carries a token of the platform; any other is the app's.
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

/// Whether a header that is a list of words has `word`.
pub(crate) fn lists(headers: &HeaderMap, name: &HeaderName, word: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .any(|one| one.trim_ascii().eq_ignore_ascii_case(word.as_bytes()))
}

/// The header's one value; none when there are two.
pub(crate) fn only(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().ok(),
        _ => None,
    }
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

    fn sent(pairs: &[(&str, &str)], person: Option<&Person>) -> Vec<(String, String)> {
        let mut headers = map(pairs);
        let client = HeaderValue::from_static("192.0.2.1");
        let way =
            Way { client: &client, scheme: "http", host: HeaderValue::from_static("web.rigbox.localhost") };
        to_app(&mut headers, way, person);
        let mut pairs: Vec<(String, String)> = headers
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
            .filter(|(name, _)| name != "host" && !name.starts_with("x-forwarded-"))
            .collect();
        pairs.sort();
        pairs
    }

    #[test]
    fn what_a_client_claims_does_not_reach_the_app() {
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
            "x-real-ip",
        ] {
            assert_eq!(sent(&[(name, "evil")], None), [], "{name}");
        }
        let person = Person {
            user: HeaderValue::from_static("us-aaaaaaaa"),
            email: HeaderValue::from_static("a@b.example"),
            assertion: None,
        };
        let told = [
            ("x-rigbox-email".to_owned(), "a@b.example".to_owned()),
            ("x-rigbox-user".to_owned(), "us-aaaaaaaa".to_owned()),
        ];
        let claims = [("x-rigbox-user", "evil"), ("connection", "x-rigbox-user, x-rigbox-email")];
        assert_eq!(sent(&claims, Some(&person)), told);
    }

    #[test]
    fn an_apps_own_authorization_passes() {
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
    fn what_concerns_one_connection_ends_here() {
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
