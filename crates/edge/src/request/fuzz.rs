//! Fuzz targets of what heads say: cookies, headers, the path, the host.

use std::fmt::Write;

use http::header::{COOKIE, HOST, HeaderName, SET_COOKIE};
use http::{HeaderMap, HeaderValue, Request, Version};

use super::cookies;
use super::headers::{self, Forwarding};
use super::host::Host;
use super::path::{PathOwner, has_token, path_owner};

const APP_HOST: &str = "web.rigbox.localhost";
/// Names of the platform's cookies without what may precede and follow them.
const OUR_COOKIES: [&[u8]; 3] = [b"rigbox_app", b"rigbox_state", b"rigbox_session"];

/// Returns a header for each line.
fn lines(name: &HeaderName, text: &[u8]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in text.split(|byte| *byte == b'\n') {
        if let Ok(value) = HeaderValue::from_bytes(line) {
            headers.append(name, value);
        }
    }
    headers
}

fn values(headers: &HeaderMap, name: &HeaderName) -> Vec<Vec<u8>> {
    headers.get_all(name).iter().map(|value| value.as_bytes().to_vec()).collect()
}

/// Returns whether some server may read `pair` as one of our cookies: blanks and `=` before a name do not count.
fn is_ours(pair: &[u8]) -> bool {
    let start = pair.iter().position(|byte| !b" \t=".contains(byte)).unwrap_or(pair.len());
    let pair = &pair[start..];
    let name = pair.split(|byte| *byte == b'=').next().unwrap_or_default().trim_ascii_end();
    let name = name.strip_prefix(b"__Host-").unwrap_or(name);
    OUR_COOKIES.contains(&name) || name.starts_with(b"rigbox_state_")
}

fn pairs(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(|byte| *byte == b';')
}

#[test]
fn cookies_to_app() {
    bolero::check!(name = "cookies_to_app").for_each(|text: &[u8]| {
        let mut headers = lines(&COOKIE, text);
        let sent = values(&headers, &COOKIE);
        cookies::to_app(&mut headers);
        let passed = values(&headers, &COOKIE);
        assert!(passed.len() <= 1, "an app gets one line");
        let passed_pairs: Vec<_> =
            passed.iter().flat_map(|line| pairs(line)).map(<[u8]>::trim_ascii).collect();
        assert!(!passed_pairs.iter().any(|pair| is_ours(pair)), "{passed:?}");
        let own =
            sent.iter().flat_map(|line| pairs(line)).filter(|pair| !is_ours(pair)).map(<[u8]>::trim_ascii);
        let own = own.filter(|pair| !pair.is_empty());
        assert!(own.eq(passed_pairs.iter().copied().filter(|pair| !pair.is_empty())), "{sent:?} {passed:?}");
        cookies::to_app(&mut headers);
        assert_eq!(values(&headers, &COOKIE), passed, "nothing is left to remove");
    });
}

#[test]
fn cookies_of_app() {
    bolero::check!(name = "cookies_of_app").for_each(|text: &[u8]| {
        let mut headers = lines(&SET_COOKIE, text);
        cookies::strip_set_cookie(&mut headers, APP_HOST);
        let passed = values(&headers, &SET_COOKIE);
        for cookie in &passed {
            let mut parts = pairs(cookie);
            assert!(!is_ours(parts.next().unwrap_or_default()), "{cookie:?}");
            for part in parts {
                let text = String::from_utf8_lossy(part).to_ascii_lowercase();
                let (name, value) = text.split_once('=').unwrap_or((&text, ""));
                let value = value.trim_ascii();
                assert!(
                    name.trim_ascii() != "domain" || value.strip_prefix('.').unwrap_or(value) == APP_HOST
                );
            }
        }
        cookies::strip_set_cookie(&mut headers, APP_HOST);
        assert_eq!(values(&headers, &SET_COOKIE), passed, "nothing is left to remove");
    });
}

/// Returns a header for each `name: value` line.
fn head(text: &[u8]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in text.split(|byte| *byte == b'\n') {
        let mut halves = line.splitn(2, |byte| *byte == b':');
        let (name, value) = (halves.next().unwrap_or_default(), halves.next().unwrap_or_default());
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
            headers.append(name, value);
        }
    }
    headers
}

/// Returns a name as servers fold it that make an environment of headers.
fn folded(name: &HeaderName) -> String {
    name.as_str().bytes().map(|byte| if byte.is_ascii_alphanumeric() { byte.into() } else { '_' }).collect()
}

fn has_hop_by_hop(headers: &HeaderMap) -> bool {
    ["connection", "keep-alive", "te", "transfer-encoding", "upgrade", "proxy-authorization"]
        .iter()
        .any(|name| headers.contains_key(*name))
}

#[test]
fn headers_to_app() {
    let (client, host) = (HeaderValue::from_static("192.0.2.1"), HeaderValue::from_static(APP_HOST));
    bolero::check!(name = "headers_to_app").for_each(|text: &[u8]| {
        let mut headers = head(text);
        let version = Version::HTTP_11;
        let forwarding = Forwarding { client: &client, scheme: "https", host: host.clone(), version };
        headers::to_app(&mut headers, forwarding, None);
        assert!(!has_hop_by_hop(&headers) && !headers.contains_key("expect"), "{headers:?}");
        let claims = |name: &&HeaderName| {
            let folded = folded(name);
            let claimed = ["x_rigbox_", "x_forwarded_"].iter().any(|prefix| folded.starts_with(prefix));
            claimed || folded == "forwarded" || folded == "x_real_ip"
        };
        let mut said: Vec<_> = headers.keys().filter(claims).map(HeaderName::as_str).collect();
        said.sort_unstable();
        assert_eq!(said, ["x-forwarded-for", "x-forwarded-host", "x-forwarded-proto"], "only ours are left");
        for (name, value) in [("x-forwarded-for", &client), ("x-forwarded-host", &host), ("host", &host)] {
            assert!(headers.get_all(name).iter().eq([value]), "{name}");
        }
    });
}

#[test]
fn headers_of_app() {
    bolero::check!(name = "headers_of_app").for_each(|text: &[u8]| {
        let (mut response, mut trailers) = (head(text), head(text));
        headers::to_client(&mut response, APP_HOST);
        headers::trailers(&mut trailers);
        for headers in [&response, &trailers] {
            assert!(!has_hop_by_hop(headers), "{headers:?}");
            assert!(!headers.keys().any(|name| folded(name).starts_with("x_rigbox_")), "{headers:?}");
        }
        let framing = ["content-length", "host", "cookie", "set-cookie", "authorization"];
        assert!(!framing.iter().any(|name| trailers.contains_key(*name)), "{trailers:?}");
    });
}

/// Percent-encodes everything but slashes, which some servers do not decode.
fn encode(path: &str) -> String {
    path.bytes().fold(String::new(), |mut encoded, byte| {
        if byte == b'/' {
            encoded.push('/');
        } else {
            write!(encoded, "%{byte:02x}").unwrap();
        }
        encoded
    })
}

#[test]
fn path() {
    bolero::check!(name = "path").for_each(|bytes: &[u8]| {
        // A path of a URL begins with a slash.
        let Some(path) = std::str::from_utf8(bytes).ok().filter(|path| path.starts_with('/')) else { return };
        let owner = path_owner(path);
        if let PathOwner::Platform(rest) = owner {
            assert_eq!(path, format!("/.rigbox/{rest}"));
        }
        if !path.contains('%') {
            let encoded = encode(path);
            let is_app = |path: &str| path_owner(path) == PathOwner::App;
            assert_eq!(is_app(path), is_app(&encoded), "{path:?} {encoded:?}");
            assert_eq!(has_token(path), has_token(&encoded), "{path:?}");
            // A server that resolves it finds the same, and any other finds no first segment of ours.
            assert!(!is_app(path) || is_app(&format!("/x/..{path}")), "{path:?}");
        }
    });
}

#[test]
fn host() {
    bolero::check!(name = "host").for_each(|bytes: &[u8]| {
        let mut lines = bytes.splitn(2, |byte| *byte == b'\n');
        let (target, hosts) = (lines.next().unwrap_or_default(), lines.next());
        let Ok(mut request) = Request::builder().uri(target).body(()) else { return };
        if let Some(hosts) = hosts {
            *request.headers_mut() = super::fuzz::lines(&HOST, hosts);
        }
        let Ok(host) = Host::of(&request) else { return };
        let (name, text) = (host.name.into_owned(), host.text);
        assert!((1..=253).contains(&name.len()));
        let is_plain =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-._".contains(&byte);
        assert!(name.bytes().all(is_plain) && !name.ends_with('.'), "{name:?}");
        // The app reads the same host.
        let seen = text.to_str().unwrap().to_ascii_lowercase();
        assert_eq!(seen.split(':').next(), Some(name.as_str()));
        let again = Request::builder().uri("/").header(HOST, &text).body(()).unwrap();
        assert_eq!(Host::of(&again).unwrap().name, name);
    });
}
