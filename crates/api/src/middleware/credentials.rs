//! Credentials in request headers: the bearer token of programs, and the session cookie of the console's pages. Services get plain
//! values.

use std::net::IpAddr;

use http::header::{AUTHORIZATION, COOKIE, HOST, ORIGIN, UPGRADE};
use http::{HeaderMap, HeaderValue, Method};
use rigbox_core::authz::Principal;
use rigbox_proto::headers::single_value;
use rigbox_service::identity::authenticate::{AuthError, Authenticator};
use rigbox_service::identity::console_origin::ConsoleOrigin;
use rigbox_service::identity::open_requests::Authenticated;
use rigbox_service::records::SessionToken;

/// Authenticates the caller of an API request.
///
/// # Errors
/// [`AuthError`]
pub(crate) async fn authenticate(
    authenticator: &Authenticator,
    console: &ConsoleOrigin,
    method: &Method,
    headers: &HeaderMap,
    from: IpAddr,
) -> Result<Authenticated, AuthError> {
    if let Some(token) = bearer_token(headers)? {
        return authenticator.bearer(token, from).await;
    }
    match session(authenticator, console, headers, from).await? {
        // A browser attaches its cookie whichever page causes the request.
        Some(_) if !is_same_origin(console, method, headers) => Err(AuthError::CrossSite),
        Some(authenticated) => Ok(authenticated),
        None => Err(AuthError::Missing),
    }
}

/// Returns the user who is signed in at the console, if any.
///
/// # Errors
/// [`AuthError::Store`]
pub(crate) async fn signed_in(
    authenticator: &Authenticator,
    console: &ConsoleOrigin,
    headers: &HeaderMap,
    from: IpAddr,
) -> Result<Option<Principal>, AuthError> {
    Ok(session(authenticator, console, headers, from).await?.map(|authenticated| authenticated.principal))
}

async fn session(
    authenticator: &Authenticator,
    console: &ConsoleOrigin,
    headers: &HeaderMap,
    from: IpAddr,
) -> Result<Option<Authenticated>, AuthError> {
    if !is_console_host(console, headers) {
        return Ok(None);
    }
    let Some(token) = session_token(console, headers) else { return Ok(None) };
    authenticator.session(&token, from).await
}

/// Returns the token in `Authorization`, or `None` without the header.
///
/// # Errors
/// [`AuthError::Malformed`]
pub(crate) fn bearer_token(headers: &HeaderMap) -> Result<Option<&str>, AuthError> {
    if !headers.contains_key(AUTHORIZATION) {
        return Ok(None);
    }
    let value = single_value(headers, AUTHORIZATION).ok_or(AuthError::Malformed)?;
    let (scheme, token) = value.split_once(' ').ok_or(AuthError::Malformed)?;
    let token = Some(token.trim()).filter(|_| scheme.eq_ignore_ascii_case("bearer"));
    token.map(Some).ok_or(AuthError::Malformed)
}

/// Returns whether a request was sent to the console's host.
pub(crate) fn is_console_host(console: &ConsoleOrigin, headers: &HeaderMap) -> bool {
    single_value(headers, HOST).is_some_and(|host| host.eq_ignore_ascii_case(console.host()))
}

/// Returns whether a request comes from a page of the console itself or, if it changes nothing, from the address bar. Pages cannot forge
/// the headers this relies on; other clients have no cookie to abuse.
pub(crate) fn is_same_origin(console: &ConsoleOrigin, method: &Method, headers: &HeaderMap) -> bool {
    if !is_console_host(console, headers) {
        return false;
    }
    let origin = single_value(headers, ORIGIN).map(|origin| origin == console.origin());
    let site = single_value(headers, "sec-fetch-site");
    let reads = method.is_safe() && !headers.contains_key(UPGRADE);
    match (origin, site) {
        (Some(false), _) => false,
        (_, Some("same-origin")) => true,
        (_, Some("none")) => reads,
        (_, Some(_)) => false,
        (Some(true), None) => true,
        (None, None) => reads && !headers.contains_key(ORIGIN),
    }
}

fn cookie_name(console: &ConsoleOrigin) -> &'static str {
    // The prefix makes browsers accept the cookie from this very host over TLS only (RFC 6265bis, section 4.1.3.2).
    if console.is_secure() { "__Host-rigbox_session" } else { "rigbox_session" }
}

/// Returns the session token in the request's cookies. Two cookies of the name mean that another site set one; then there is none.
fn session_token(console: &ConsoleOrigin, headers: &HeaderMap) -> Option<SessionToken> {
    let name = cookie_name(console);
    let mut found = headers
        .get_all(COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .filter(|(key, _)| *key == name)
        .map(|(_, value)| value);
    let token = found.next()?;
    if found.next().is_some() {
        return None;
    }
    SessionToken::parse(token)
}

/// Returns the header that gives a browser its session for at most `seconds`; without a token, the one that removes it.
pub(crate) fn session_cookie(
    console: &ConsoleOrigin,
    token: Option<&SessionToken>,
    seconds: u64,
) -> Option<HeaderValue> {
    let (value, seconds) = token.map_or(("", 0), |token| (token.reveal(), seconds));
    let secure = if console.is_secure() { "; Secure" } else { "" };
    let name = cookie_name(console);
    let text = format!("{name}={value}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Lax{secure}");
    let mut header = HeaderValue::from_str(&text).ok()?;
    header.set_sensitive(true);
    Some(header)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: &str = "http://console.localhost:7070";

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn only_pages_of_the_console_act_with_its_cookie() {
        let console = ConsoleOrigin::new(OWN).unwrap();
        let host = ("host", "console.localhost:7070");
        let other_host = ("host", "localhost:7070");
        for (method, pairs, expected) in [
            ("GET", &[host][..], true),
            ("POST", &[host], false),
            ("POST", &[host, ("origin", OWN)], true),
            ("POST", &[host, ("sec-fetch-site", "same-origin")], true),
            ("POST", &[host, ("origin", "null")], false),
            ("POST", &[host, ("origin", OWN), ("origin", OWN)], false),
            ("POST", &[host, ("origin", "http://evil.example"), ("sec-fetch-site", "same-origin")], false),
            ("POST", &[host, ("sec-fetch-site", "none")], false),
            ("POST", &[host, ("origin", OWN), ("sec-fetch-site", "same-site")], false),
            ("POST", &[other_host, ("origin", OWN)], false),
            ("GET", &[host, ("sec-fetch-site", "none")], true),
            ("GET", &[host, ("sec-fetch-site", "same-site")], false),
            ("GET", &[host, ("sec-fetch-site", "cross-site")], false),
            ("GET", &[host, ("origin", "http://app.rigbox.localhost:7080")], false),
            ("GET", &[host, ("origin", "null")], false),
            // A WebSocket is not a mere read.
            ("GET", &[host, ("upgrade", "websocket")], false),
            ("GET", &[host, ("upgrade", "websocket"), ("origin", OWN)], true),
            ("GET", &[host, host], false),
        ] {
            let method: Method = method.parse().unwrap();
            assert_eq!(is_same_origin(&console, &method, &headers(pairs)), expected, "{method} {pairs:?}");
        }
    }

    #[test]
    fn duplicate_session_cookies_are_ignored() {
        let console = ConsoleOrigin::new(OWN).unwrap();
        let token = SessionToken::mint().unwrap();
        let cookie = |text: String| {
            let mut headers = HeaderMap::new();
            headers.insert(COOKIE, HeaderValue::from_str(&text).unwrap());
            session_token(&console, &headers).map(|token| token.reveal().to_owned())
        };
        let pair = format!("rigbox_session={}", token.reveal());
        assert_eq!(cookie(format!("a=b; {pair}")).as_deref(), Some(token.reveal()));
        assert_eq!(cookie(format!("{pair}; {pair}")), None);
        assert_eq!(cookie("rigbox_session=rbs_short".to_owned()), None);
        assert_eq!(cookie(format!("__Host-{pair}")), None);
    }

    #[test]
    fn cookie_is_bound_to_the_host_with_tls() {
        let token = SessionToken::mint().unwrap();
        let cookie = |url: &str| {
            let console = ConsoleOrigin::new(url).unwrap();
            session_cookie(&console, Some(&token), 60).unwrap().to_str().unwrap().to_owned()
        };
        let plain = cookie(OWN);
        assert!(plain.starts_with("rigbox_session=rbs_") && !plain.contains("Secure"), "{plain}");
        let tls = cookie("https://console.rigbox.example");
        assert!(tls.starts_with("__Host-rigbox_session=") && tls.ends_with("; Secure"), "{tls}");
        assert!(!tls.contains("Domain") && tls.contains("Path=/;") && tls.contains("HttpOnly"));
    }
}
