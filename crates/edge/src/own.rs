//! Our own addresses on an app's host, below `/.rigbox/`: sign-in by the console, which hands a code over, sign-out, and the keys of
//! assertions.
//!
//! A sign-in that begins leaves a random number in a cookie of the browser, and its hash goes through the console. So a code is of use
//! only in the browser that asked for it.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, SET_COOKIE};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode};
use rigbox_core::app_access::Initiator;

use crate::address::decode;
use crate::answer::{self, Answer, Message, redirect};
use crate::control::{Control, now_ms};
use crate::cookies::{APP, STATE};
use crate::facts;
use crate::route::Route;

/// How long a sign-in may take, s.
const SIGN_IN_S: u64 = 600;
/// Longest address that is returned to.
const LONGEST_PATH: usize = 2048;
/// Longest code or state that control is asked about.
const LONGEST_WORD: usize = 512;
const NONCE: usize = 32;

/// Answers a request to what stands below `/.rigbox/`.
pub(crate) async fn answer<B>(
    control: &Control,
    keys: &str,
    route: &Route,
    request: &Request<B>,
    rest: &str,
) -> Answer {
    let headers = request.headers();
    let query = request.uri().query().unwrap_or_default();
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    match (rest, reads) {
        ("sign-in", true) => sign_in(route, headers, &parameter(query, "to").unwrap_or_default()),
        ("callback", true) => callback(control, route, headers, query).await,
        ("keys", true) => json(keys),
        ("sign-out", false) if request.method() == Method::POST => sign_out(route, request),
        ("sign-in" | "callback" | "keys", _) => only("GET", headers),
        ("sign-out", _) => only("POST", headers),
        _ => nothing_here().answer(headers),
    }
}

fn nothing_here() -> Message {
    let text = "Nothing stands at this address: what is below /.rigbox/ belongs to Rigbox, not to the app.";
    Message::new(StatusCode::NOT_FOUND, "not_found", "Not found", text)
}

/// For an address that looks like ours and is not.
pub(crate) fn nobodys(headers: &HeaderMap) -> Answer {
    nothing_here().answer(headers)
}

fn only(method: &'static str, headers: &HeaderMap) -> Answer {
    let text = format!("Only {method} is answered here.");
    let mut answer = Message::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "Not allowed", text)
        .answer(headers);
    answer.headers_mut().insert(ALLOW, HeaderValue::from_static(method));
    answer
}

fn json(text: &str) -> Answer {
    let mut answer = answer::own(StatusCode::OK, Some(Bytes::copy_from_slice(text.as_bytes())));
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/jwk-set+json"));
    answer
}

/// Sends a browser to the console, to come back to `path`.
pub(crate) fn sign_in(route: &Route, headers: &HeaderMap, path: &str) -> Answer {
    begin(route, path).unwrap_or_else(|| answer::unavailable().answer(headers))
}

fn begin(route: &Route, path: &str) -> Option<Answer> {
    let mut random = [0; NONCE];
    getrandom::fill(&mut random).ok()?;
    let nonce = BASE64.encode(random);
    let cookie = format!("{nonce}.{}", BASE64.encode(safe_path(path)));
    let mut answer = redirect(&format!("{}?state={}", route.sign_in_url, state_of(&nonce)))?;
    answer.headers_mut().append(SET_COOKIE, STATE.set(&cookie, SIGN_IN_S, route.secure)?);
    Some(answer)
}

/// What goes through the console for the number in the browser.
fn state_of(nonce: &str) -> String {
    BASE64.encode(digest(&SHA256, nonce.as_bytes()))
}

/// An address of this host and no other, whatever a browser makes of it; the front page instead of anything else.
fn safe_path(path: &str) -> &str {
    let outside = path.starts_with("//") || path.starts_with("/\\");
    let odd = path.chars().any(|c| c.is_control() || c == '\\' || !c.is_ascii());
    let ours = !matches!(
        crate::address::whose(path.split(['?', '#']).next().unwrap_or_default()),
        crate::address::Whose::App
    );
    let fits = path.starts_with('/') && path.len() <= LONGEST_PATH;
    if fits && !outside && !odd && !ours { path } else { "/" }
}

async fn callback(control: &Control, route: &Route, headers: &HeaderMap, query: &str) -> Answer {
    let word = |name| parameter(query, name).filter(|word| (1..=LONGEST_WORD).contains(&word.len()));
    let begun = STATE.value(headers, route.secure).and_then(|cookie| cookie.split_once('.'));
    let (Some(code), Some(state), Some((nonce, path))) = (word("code"), word("state"), begun) else {
        return not_signed_in(headers);
    };
    if verify_slices_are_equal(state_of(nonce).as_bytes(), state.as_bytes()).is_err() {
        return not_signed_in(headers);
    }
    let path = BASE64.decode(path).ok().and_then(|path| String::from_utf8(path).ok()).unwrap_or_default();
    match control.redeem(&code, route.app.id.as_str(), &state).await {
        Ok(Some(redeemed)) => {
            let left = (redeemed.expires_unix_ms - now_ms()).max(0) / 1000;
            let left = u64::try_from(left).unwrap_or_default();
            signed_in(route, &redeemed.app_session, left, &path)
                .unwrap_or_else(|| answer::unavailable().answer(headers))
        }
        Ok(None) => not_signed_in(headers),
        Err(error) => {
            tracing::warn!(%error, "a sign-in cannot be completed");
            answer::unavailable().answer(headers)
        }
    }
}

fn signed_in(route: &Route, session: &str, seconds: u64, path: &str) -> Option<Answer> {
    let mut answer = redirect(safe_path(path))?;
    answer.headers_mut().append(SET_COOKIE, APP.set(session, seconds, route.secure)?);
    answer.headers_mut().append(SET_COOKIE, STATE.set("", 0, route.secure)?);
    Some(answer)
}

fn not_signed_in(headers: &HeaderMap) -> Answer {
    let text =
        "This sign-in was not begun in this browser, took too long, or was completed before. Begin again.";
    let mut message =
        Message::new(StatusCode::FORBIDDEN, "sign_in_failed", "The sign-in could not be completed", text);
    message.link = Some(("/.rigbox/sign-in", "Sign in"));
    message.answer(headers)
}

fn sign_out<B>(route: &Route, request: &Request<B>) -> Answer {
    if facts::source(request, &route.origin, false) != Initiator::SameOrigin {
        return answer::refused(rigbox_core::app_access::Refusal::CrossSite).answer(request.headers());
    }
    let text = "You are signed out of this app.";
    let mut message = Message::new(StatusCode::OK, "signed_out", "Signed out", text);
    message.link = Some(("/.rigbox/sign-in", "Sign in"));
    let mut answer = message.answer(request.headers());
    forget_session(&mut answer, route);
    answer
}

/// Takes a session that does not count out of the browser.
pub(crate) fn forget_session(answer: &mut Answer, route: &Route) {
    if let Some(cookie) = APP.set("", 0, route.secure) {
        answer.headers_mut().append(SET_COOKIE, cookie);
    }
}

/// A parameter's one value.
fn parameter(query: &str, name: &str) -> Option<String> {
    let mut found = query.split('&').filter_map(|pair| pair.split_once('=')).filter(|(key, _)| *key == name);
    let (_, value) = found.next()?;
    if found.next().is_some() {
        return None;
    }
    let value = value.replace('+', " ");
    Some(decode(&value).unwrap_or(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sign_in_returns_to_this_host_only() {
        for (path, safe) in [
            ("/", "/"),
            ("/a/b?c=d&e=//f", "/a/b?c=d&e=//f"),
            ("", "/"),
            ("a", "/"),
            ("//evil.example", "/"),
            ("/\\evil.example", "/"),
            ("/a\\..\\b", "/"),
            ("https://evil.example/", "/"),
            ("/a\r\nSet-Cookie: x", "/"),
            ("/\t/evil.example", "/"),
            ("/\u{e4}", "/"),
            ("/.rigbox/sign-in", "/"),
            ("/%2erigbox/sign-in", "/"),
        ] {
            assert_eq!(safe_path(path), safe, "{path:?}");
        }
        assert_eq!(safe_path(&format!("/{}", "a".repeat(LONGEST_PATH))), "/");
    }

    #[test]
    fn a_parameter_that_comes_twice_is_none() {
        assert_eq!(parameter("a=b&to=%2Fx+y", "to").as_deref(), Some("/x y"));
        assert_eq!(parameter("to=a&to=b", "to"), None);
        assert_eq!(parameter("too=a", "to"), None);
    }
}
