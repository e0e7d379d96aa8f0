//! The platform's own paths on an app's host, below `/.rigbox/`: sign-in through the console, which hands a code over, sign-out, and the
//! keys of identity assertions.
//!
//! A sign-in starts with a nonce in a cookie of the browser; its hash is the `state` that passes through the console. A code is therefore
//! of use only in the browser that requested it, and only at the host where it did: the console is told the host, and control compares it
//! with that to which the code comes. Each sign-in has a cookie of its own, so several tabs can sign in at once.

use std::net::IpAddr;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, REFERRER_POLICY, REFRESH, SET_COOKIE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode};
use rigbox_core::app_access::{Caller, Initiator, Refusal};
use rigbox_gateway::clock::unix_ms;

use crate::decision::control::{Asker, Control, Credential};
use crate::decision::route::Route;
use crate::error_pages::{self, Message, Response, ResponseForm, redirect};
use crate::request::classify;
use crate::request::cookies::{self, APP, SEEN, SignInCookie};
use crate::request::path::{PathOwner, decode, path_owner};

/// Time for a sign-in, in seconds.
const SIGN_IN_TTL_S: u64 = 600;
/// Maximum length of a path to return to.
const MAX_RETURN_PATH_LEN: usize = 2048;
/// Part of the state that names the cookie of a sign-in.
const SIGN_IN_ID_LEN: usize = 12;
/// Maximum length of a code or state.
const MAX_PARAMETER_LEN: usize = 512;
const NONCE_LEN: usize = 32;
/// Time for which a browser remembers the app that it signed in to, in seconds: the most that browsers allow.
const SEEN_TTL_S: u64 = 400 * 24 * 3600;
const CLEAR_SITE_DATA: HeaderName = HeaderName::from_static("clear-site-data");

/// Responds to a request below `/.rigbox/`; `rest` is the path after that.
pub(crate) async fn respond<B>(
    control: &Control,
    client: IpAddr,
    keys: &str,
    route: &Route,
    request: &Request<B>,
    rest: &str,
    form: ResponseForm,
) -> Response {
    let query = request.uri().query().unwrap_or_default();
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    match (rest, reads) {
        ("sign-in", true) => {
            sign_in(route, request.headers(), form, &parameter(query, "to").unwrap_or_default())
        }
        ("callback", true) => callback(control, client, route, request.headers(), query, form).await,
        ("keys", true) => key_set(keys),
        ("sign-out", false) if request.method() == Method::POST => sign_out(route, request, form),
        ("continue", true) => continue_navigation(route, request, query, form),
        ("sign-in" | "callback" | "keys" | "continue", _) => method_not_allowed("GET", form),
        ("sign-out", _) => method_not_allowed("POST", form),
        _ => not_found(form),
    }
}

/// Refuses a path that is not one of ours, or only looks like one.
pub(crate) fn not_found(form: ResponseForm) -> Response {
    let text = "Page not found. Paths below /.rigbox/ belong to Rigbox, not to the app.";
    Message::new(StatusCode::NOT_FOUND, "not_found", "Not found", text).render(form)
}

fn method_not_allowed(method: &'static str, form: ResponseForm) -> Response {
    let text = format!("Method not allowed. Use {method}.");
    let message =
        Message::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "Method not allowed", text);
    let mut response = message.render(form);
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(method));
    response
}

fn key_set(text: &str) -> Response {
    let content = Some(Bytes::copy_from_slice(text.as_bytes()));
    let mut response = error_pages::response(StatusCode::OK, content);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/jwk-set+json"));
    response
}

/// Redirects a browser to the console, from where it returns to `path`.
pub(crate) fn sign_in(route: &Route, headers: &HeaderMap, form: ResponseForm, path: &str) -> Response {
    start_sign_in(route, headers, path).unwrap_or_else(|| error_pages::unavailable().render(form))
}

fn start_sign_in(route: &Route, headers: &HeaderMap, path: &str) -> Option<Response> {
    let mut random = [0; NONCE_LEN];
    getrandom::fill(&mut random).ok()?;
    let nonce = BASE64.encode(random);
    let state = state_of(&nonce);
    let value = format!("{nonce}.{}", BASE64.encode(safe_path(path)));
    let mut response = redirect(&format!("{}?state={state}&host={}", route.sign_in_url, route.host))?;
    let cookie = sign_in_cookie(&state, route)?.set(&value, SIGN_IN_TTL_S)?;
    response.headers_mut().append(SET_COOKIE, cookie);
    for removed in SignInCookie::remove_oldest(headers, route.secure) {
        response.headers_mut().append(SET_COOKIE, removed);
    }
    Some(response)
}

/// Returns the state that passes through the console for a nonce.
fn state_of(nonce: &str) -> String {
    BASE64.encode(digest(&SHA256, nonce.as_bytes()))
}

/// Returns the cookie of the sign-in with this state, or `None` if that cannot be one.
fn sign_in_cookie(state: &str, route: &Route) -> Option<SignInCookie> {
    let id = state.get(..SIGN_IN_ID_LEN)?;
    let is_id = id.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
    is_id.then(|| SignInCookie::new(id, route.secure))
}

/// Returns a path if every browser takes it for one of this host, or else `/`.
fn safe_path(path: &str) -> &str {
    let leaves_host = path.starts_with("//") || path.starts_with("/\\");
    let ambiguous = path.chars().any(|c| c.is_control() || c == '\\' || !c.is_ascii());
    let bare = path.split(['?', '#']).next().unwrap_or_default();
    let is_apps = matches!(path_owner(bare), PathOwner::App);
    let fits = path.starts_with('/') && path.len() <= MAX_RETURN_PATH_LEN;
    if fits && !leaves_host && !ambiguous && is_apps { path } else { "/" }
}

async fn callback(
    control: &Control,
    client: IpAddr,
    route: &Route,
    headers: &HeaderMap,
    query: &str,
    form: ResponseForm,
) -> Response {
    let bounded =
        |name| parameter(query, name).filter(|value| (1..=MAX_PARAMETER_LEN).contains(&value.len()));
    let (code, state) = (bounded("code"), bounded("state"));
    let cookie = state.as_deref().and_then(|state| sign_in_cookie(state, route));
    let started = cookie.as_ref().and_then(|cookie| cookie.value(headers)?.split_once('.'));
    let started = started.zip(state.as_deref()).filter(|((nonce, _), state)| {
        verify_slices_are_equal(state_of(nonce).as_bytes(), state.as_bytes()).is_ok()
    });
    let path = started.and_then(|((_, path), _)| String::from_utf8(BASE64.decode(path).ok()?).ok());
    let path = path.unwrap_or_default();
    let (Some(cookie), Some(code), Some((_, state))) = (cookie, code, started) else {
        if has_session(control, client, route, headers).await {
            return redirect(safe_path(&path)).unwrap_or_else(|| sign_in_failed(form));
        }
        if form == ResponseForm::Page {
            // Started in another browser: the link in the email was opened on a phone, for example. This browser has its own round trip,
            // which the console answers at once where it is signed in.
            return sign_in(route, headers, form, &path);
        }
        return sign_in_failed(form);
    };
    match control.redeem(&code, route, state, client).await {
        Ok(Some(redeemed)) => {
            let left = (redeemed.expires_unix_ms - unix_ms()).max(0) / 1000;
            let left = u64::try_from(left).unwrap_or_default();
            signed_in(route, headers, &cookie, &redeemed.app_session, left, &path)
                .unwrap_or_else(|| error_pages::unavailable().render(form))
        }
        // The page was reloaded, or the sign-in completed in another tab.
        Ok(None) if has_session(control, client, route, headers).await => {
            redirect(safe_path(&path)).unwrap_or_else(|| sign_in_failed(form))
        }
        Ok(None) => sign_in_failed(form),
        Err(error) => {
            tracing::warn!(%error, "failed to complete a sign-in");
            error_pages::unavailable().render(form)
        }
    }
}

/// Returns whether a browser is signed in to the app.
async fn has_session(control: &Control, client: IpAddr, route: &Route, headers: &HeaderMap) -> bool {
    let Some(credential) = Credential::session(headers, route.secure) else { return false };
    let identity = control.identity(&credential, route.app.id.as_str(), Asker::Client(client)).await;
    identity.is_ok_and(|identity| matches!(identity.caller, Caller::User(_)))
}

fn signed_in(
    route: &Route,
    headers: &HeaderMap,
    cookie: &SignInCookie,
    session: &str,
    seconds: u64,
    path: &str,
) -> Option<Response> {
    let mut response = redirect(safe_path(path))?;
    response.headers_mut().append(SET_COOKIE, APP.set(session, seconds, route.secure)?);
    response.headers_mut().append(SET_COOKIE, cookie.set("", 0)?);
    let (app, seen) = (route.app.id.as_str(), SEEN.value(headers, route.secure));
    if seen != Some(app) {
        // What the browser has of this host may be another app's, which had the name before.
        response.headers_mut().insert(CLEAR_SITE_DATA, HeaderValue::from_static("\"cache\", \"storage\""));
        response.headers_mut().append(SET_COOKIE, SEEN.set(app, SEEN_TTL_S, route.secure)?);
    }
    // (`"cookies"` would remove those of the other apps of the domain too.)
    if seen.is_some_and(|seen| seen != app) {
        for removed in cookies::remove_own(headers, route.secure) {
            response.headers_mut().append(SET_COOKIE, removed);
        }
    }
    Some(response)
}

fn sign_in_failed(form: ResponseForm) -> Response {
    let text =
        "This sign-in was started in another browser, has expired, or was completed before. Sign in again.";
    let mut message = Message::new(StatusCode::FORBIDDEN, "sign_in_failed", "Sign-in failed", text);
    message.link = Some(("/.rigbox/sign-in".into(), "Sign in"));
    message.render(form)
}

/// Answers what may be a navigation to `path` with a page that leads there. Only a top-level page is shown, and only from there comes an
/// own `Referer`: a sibling's `fetch` or frame gets no further.
pub(crate) fn bounce(path: &str, form: ResponseForm) -> Response {
    let url = format!("/.rigbox/continue?to={}", encode(safe_path(path)));
    let mut message = error_pages::refused(Refusal::CrossSite);
    if form == ResponseForm::Page {
        (message.title, message.text) = ("One moment", "You are being taken to the page.".to_owned());
    }
    message.link = Some((url.clone().into(), "Continue"));
    let mut response = message.render(form);
    if let Ok(refresh) = HeaderValue::from_str(&format!("0; url={url}")) {
        response.headers_mut().insert(REFRESH, refresh);
    }
    response.headers_mut().insert(REFERRER_POLICY, HeaderValue::from_static("same-origin"));
    response
}

/// Continues a navigation that was bounced, once: a browser that still says nothing is refused.
fn continue_navigation<B>(route: &Route, request: &Request<B>, query: &str, form: ResponseForm) -> Response {
    let path = parameter(query, "to").unwrap_or_default();
    let is_own = classify::initiator(request, &route.origin, false) == Initiator::SameOrigin;
    let Some(mut response) = redirect(safe_path(&path)).filter(|_| is_own) else {
        let mut message = error_pages::refused(Refusal::CrossSite);
        message.text =
            "Your browser does not say which page this request comes from. Let it send the `Referer` \
                        to this site, or open the app by https."
                .to_owned();
        return message.render(form);
    };
    response.headers_mut().insert(REFERRER_POLICY, HeaderValue::from_static("same-origin"));
    response
}

/// Percent-encodes for the value of a query parameter.
fn encode(text: &str) -> String {
    text.bytes().fold(String::new(), |mut encoded, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
        encoded
    })
}

fn sign_out<B>(route: &Route, request: &Request<B>, form: ResponseForm) -> Response {
    if classify::initiator(request, &route.origin, false) != Initiator::SameOrigin {
        return error_pages::refused(Refusal::CrossSite).render(form);
    }
    let text = "You are signed out of this app.";
    let mut message = Message::new(StatusCode::OK, "signed_out", "Signed out", text);
    message.link = Some(("/.rigbox/sign-in".into(), "Sign in"));
    let mut response = message.render(form);
    remove_session(&mut response, route);
    response
}

/// Removes the app's session from the browser.
pub(crate) fn remove_session(response: &mut Response, route: &Route) {
    if let Some(cookie) = APP.set("", 0, route.secure) {
        response.headers_mut().append(SET_COOKIE, cookie);
    }
}

/// Returns a query parameter that occurs exactly once.
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
    fn sign_in_returns_to_this_host_only() {
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
        assert_eq!(safe_path(&format!("/{}", "a".repeat(MAX_RETURN_PATH_LEN))), "/");
    }

    #[test]
    fn repeated_parameter_is_ignored() {
        assert_eq!(parameter("a=b&to=%2Fx+y", "to").as_deref(), Some("/x y"));
        assert_eq!(parameter("to=a&to=b", "to"), None);
        assert_eq!(parameter("too=a", "to"), None);
    }
}
