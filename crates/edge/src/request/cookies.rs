//! Cookies: the platform's never reach the app, and the app cannot set them. The app's own pass byte for
//! byte.

use http::header::{COOKIE, SET_COOKIE};
use http::{HeaderMap, HeaderValue};

/// Session of an app.
pub(crate) const APP: Name = Name { plain: "rigbox_app", secure: "__Host-rigbox_app" };
/// Binds a sign-in in progress to the browser. Each has a cookie of its own, whose name starts like this and ends with the sign-in's id.
const STATE: Name = Name { plain: "rigbox_state", secure: "__Host-rigbox_state" };
/// App that a browser last signed in to at this host.
pub(crate) const SEEN: Name = Name { plain: "rigbox_seen", secure: "__Host-rigbox_seen" };
/// Maximum number of sign-ins in progress in one browser.
const MAX_SIGN_INS: usize = 8;
/// Maximum number of cookies that one response removes.
const MAX_REMOVED: usize = 16;
/// Session of the console. Browsers send it nowhere else, but it would not be the app's.
const SESSION: Name = Name { plain: "rigbox_session", secure: "__Host-rigbox_session" };

/// Cookie name. The prefix makes browsers accept it from this very host over TLS only (RFC 6265bis, section
/// 4.1.3.2).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Name {
    plain: &'static str,
    secure: &'static str,
}

impl Name {
    fn on(self, secure: bool) -> &'static str {
        if secure { self.secure } else { self.plain }
    }

    pub(crate) fn value(self, headers: &HeaderMap, secure: bool) -> Option<&str> {
        value(headers, self.on(secure))
    }

    /// Returns the header that sets the cookie for `seconds`; 0 removes it.
    pub(crate) fn set(self, value: &str, seconds: u64, secure: bool) -> Option<HeaderValue> {
        set(self.on(secure), value, seconds, secure)
    }
}

/// Cookie of one sign-in in progress.
#[derive(Debug)]
pub(crate) struct SignInCookie {
    name: String,
    secure: bool,
}

impl SignInCookie {
    /// Returns the cookie of the sign-in with this id.
    pub(crate) fn new(id: &str, secure: bool) -> Self {
        Self { name: format!("{}_{id}", STATE.on(secure)), secure }
    }

    pub(crate) fn value<'a>(&self, headers: &'a HeaderMap) -> Option<&'a str> {
        value(headers, &self.name)
    }

    /// Returns the header that sets the cookie for `seconds`; 0 removes it.
    pub(crate) fn set(&self, value: &str, seconds: u64) -> Option<HeaderValue> {
        set(&self.name, value, seconds, self.secure)
    }

    /// Returns the headers that remove the oldest cookies of other sign-ins, where there are too many. Browsers send the oldest first.
    pub(crate) fn remove_oldest(headers: &HeaderMap, secure: bool) -> Vec<HeaderValue> {
        let prefix = format!("{}_", STATE.on(secure));
        let names: Vec<&str> = pairs(headers)
            .filter(|(name, _)| name.starts_with(prefix.as_bytes()))
            .filter_map(|(name, _)| std::str::from_utf8(name).ok())
            .collect();
        let excess = (names.len() + 1).saturating_sub(MAX_SIGN_INS).min(MAX_REMOVED);
        names.into_iter().take(excess).filter_map(|name| set(name, "", 0, secure)).collect()
    }
}

/// Returns the headers that remove the app's own cookies, as far as a request shows them.
pub(crate) fn remove_own(headers: &HeaderMap, secure: bool) -> Vec<HeaderValue> {
    let own = pairs(headers).filter(|(name, _)| !is_platform(name));
    let names = own.filter_map(|(name, _)| std::str::from_utf8(name).ok()).take(MAX_REMOVED);
    names.filter_map(|name| set(name, "", 0, secure)).collect()
}

/// Returns the value of a cookie. Two cookies of the name mean that another site set one; then there is none.
fn value<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let mut found = pairs(headers).filter(|(key, _)| *key == name.as_bytes()).map(|(_, value)| value);
    let value = found.next()?;
    if found.next().is_some() { None } else { std::str::from_utf8(value).ok() }
}

fn set(name: &str, value: &str, seconds: u64, secure: bool) -> Option<HeaderValue> {
    let tail = if secure { "; Secure" } else { "" };
    let text = format!("{name}={value}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Lax{tail}");
    let mut header = HeaderValue::from_str(&text).ok()?;
    header.set_sensitive(true);
    Some(header)
}

/// Returns names and values of a request's cookies. They are bytes, and one that is no text hides no other.
fn pairs(headers: &HeaderMap) -> impl Iterator<Item = (&[u8], &[u8])> {
    let cookies =
        headers.get_all(COOKIE).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b';'));
    cookies.filter_map(|pair| {
        let pair = pair.trim_ascii();
        let at = memchr::memchr(b'=', pair)?;
        Some((pair.get(..at)?, pair.get(at + 1..)?))
    })
}

fn is_platform(name: &[u8]) -> bool {
    let is = |platform: Name| [platform.plain, platform.secure].iter().any(|own| name == own.as_bytes());
    let of_sign_in = |own: &str| name.strip_prefix(own.as_bytes()).is_some_and(|rest| rest.starts_with(b"_"));
    is(APP) || is(SEEN) || is(STATE) || is(SESSION) || of_sign_in(STATE.plain) || of_sign_in(STATE.secure)
}

/// Returns the name a browser gives the cookie `pair`. A nameless cookie is sent as its bare value, which may
/// look like a name and a value.
fn name_of(pair: &[u8]) -> &[u8] {
    let mut pair = pair.trim_ascii();
    while let Some(rest) = pair.strip_prefix(b"=") {
        pair = rest.trim_ascii();
    }
    pair.split(|byte| *byte == b'=').next().unwrap_or_default().trim_ascii()
}

/// Removes the platform's cookies from a request, and joins the lines of the others: HTTP/2 sends each cookie in one of its own, HTTP/1
/// apps expect a single one (RFC 9113, 8.2.3).
pub(crate) fn to_app(headers: &mut HeaderMap) {
    let mut lines = headers.get_all(COOKIE).iter();
    let Some(first) = lines.next() else { return };
    let ours = memchr::memmem::find(first.as_bytes(), b"rigbox_").is_some();
    if lines.next().is_none() && !ours {
        return;
    }
    let kept: Vec<HeaderValue> = headers.get_all(COOKIE).iter().filter_map(without_ours).collect();
    let joined = kept.iter().map(HeaderValue::as_bytes).collect::<Vec<_>>().join(&b"; "[..]);
    headers.remove(COOKIE);
    if let Some(cookies) = HeaderValue::from_bytes(&joined).ok().filter(|cookies| !cookies.is_empty()) {
        headers.insert(COOKIE, cookies);
    }
}

fn without_ours(value: &HeaderValue) -> Option<HeaderValue> {
    let pairs = value.as_bytes().split(|byte| *byte == b';');
    let kept: Vec<&[u8]> = pairs.filter(|pair| !is_platform(name_of(pair))).collect();
    let text = kept.join(&b';');
    let text = text.trim_ascii_start();
    if text.is_empty() { None } else { HeaderValue::from_bytes(text).ok() }
}

/// Removes from a response what the app may not set: the platform's cookies, and domains wider than its host.
pub(crate) fn strip_set_cookie(headers: &mut HeaderMap, host: &str) {
    if !headers.contains_key(SET_COOKIE) {
        return;
    }
    let kept: Vec<HeaderValue> =
        headers.get_all(SET_COOKIE).iter().filter_map(|value| for_host(value, host)).collect();
    headers.remove(SET_COOKIE);
    for value in kept {
        headers.append(SET_COOKIE, value);
    }
}

fn for_host(value: &HeaderValue, host: &str) -> Option<HeaderValue> {
    let mut parts = value.as_bytes().split(|byte| *byte == b';');
    let pair = parts.next().unwrap_or_default();
    if is_platform(name_of(pair)) {
        return None;
    }
    let wide = |part: &[u8]| {
        let mut halves = part.splitn(2, |byte| *byte == b'=');
        let name = halves.next().unwrap_or_default().trim_ascii();
        let domain = halves.next().unwrap_or_default().trim_ascii();
        let domain = domain.strip_prefix(b".").unwrap_or(domain);
        name.eq_ignore_ascii_case(b"domain") && !domain.eq_ignore_ascii_case(host.as_bytes())
    };
    let attributes: Vec<&[u8]> = parts.collect();
    if !attributes.iter().any(|part| wide(part)) {
        return Some(value.clone());
    }
    let mut text = pair.to_vec();
    for part in attributes.into_iter().filter(|part| !wide(part)) {
        text.push(b';');
        text.extend_from_slice(part);
    }
    HeaderValue::from_bytes(&text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stripped(cookies: &[&str]) -> Vec<String> {
        let mut headers = HeaderMap::new();
        for cookie in cookies {
            headers.append(COOKIE, HeaderValue::from_str(cookie).unwrap());
        }
        to_app(&mut headers);
        headers.get_all(COOKIE).iter().map(|value| value.to_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn apps_own_cookies_pass_byte_for_byte() {
        for (sent, passed) in [
            (&["a=b;  c = d ;e"][..], &["a=b;  c = d ;e"][..]),
            (&["a=b; rigbox_app=x; c=d"], &["a=b; c=d"]),
            (&["rigbox_app=x; c=d"], &["c=d"]),
            (&["rigbox_app=x"], &[]),
            (&["rigbox_state=x; __Host-rigbox_state=y; rigbox_session=z"], &[]),
            (&["a=b", "__Host-rigbox_app=x", "c=d"], &["a=b; c=d"]),
            (&["rigbox_app=x", "rigbox_state=y"], &[]),
            (&["rigbox_state_aB-_=x; a=b; __Host-rigbox_state_c=y"], &["a=b"]),
            (&["rigbox_statement=x"], &["rigbox_statement=x"]),
            (&["xrigbox_app=x; rigbox_apple=y"], &["xrigbox_app=x; rigbox_apple=y"]),
            (&["=rigbox_app=x; a=b"], &["a=b"]),
        ] {
            assert_eq!(stripped(sent), passed, "{sent:?}");
        }
    }

    #[test]
    fn two_session_cookies_are_ignored() {
        let value = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(COOKIE, HeaderValue::from_str(text).unwrap());
            APP.value(&headers, false).map(str::to_owned)
        };
        assert_eq!(value("a=b; rigbox_app=x").as_deref(), Some("x"));
        assert_eq!(value("rigbox_app=x; rigbox_app=x"), None);
        assert_eq!(value("__Host-rigbox_app=x"), None);
        assert_eq!(value("a=\u{e9}; rigbox_app=x; b=\u{1f980}").as_deref(), Some("x"));
        assert_eq!(value("rigbox_app=x; \u{e9}; rigbox_app=x"), None);
    }

    #[test]
    fn oldest_sign_ins_make_room() {
        let removed = |count: usize| {
            let cookies: Vec<String> = (0..count).map(|number| format!("rigbox_state_{number}=x")).collect();
            let mut headers = HeaderMap::new();
            headers.insert(COOKIE, HeaderValue::from_str(&cookies.join("; ")).unwrap());
            SignInCookie::remove_oldest(&headers, false)
        };
        assert_eq!(removed(MAX_SIGN_INS - 1).len(), 0);
        let one = removed(MAX_SIGN_INS);
        assert!(one.len() == 1 && one[0].as_bytes().starts_with(b"rigbox_state_0=; Path=/; Max-Age=0"));
        assert_eq!(removed(100).len(), MAX_REMOVED);
    }

    #[test]
    fn app_sets_cookies_of_its_own_host_only() {
        let host = "web.rigbox.localhost";
        for (set, kept) in [
            ("a=b; Path=/; HttpOnly", Some("a=b; Path=/; HttpOnly")),
            ("a=b; Domain=rigbox.localhost; Path=/", Some("a=b; Path=/")),
            ("a=b;DOMAIN = .localhost;Path=/", Some("a=b;Path=/")),
            ("a=b; Domain=.web.rigbox.localhost", Some("a=b; Domain=.web.rigbox.localhost")),
            ("a=b; Domain=web.rigbox.localhost; Domain=localhost", Some("a=b; Domain=web.rigbox.localhost")),
            ("a=domain=x; Path=/", Some("a=domain=x; Path=/")),
            ("rigbox_app=x", None),
            (" rigbox_state =x; Domain=localhost", None),
            ("rigbox_state_x=x", None),
            ("__Host-rigbox_app=x; Secure; Path=/", None),
            ("=rigbox_app=x", None),
            ("rigbox_session=x", None),
        ] {
            let value = HeaderValue::from_str(set).unwrap();
            let said = for_host(&value, host).map(|value| value.to_str().unwrap().to_owned());
            assert_eq!(said.as_deref(), kept, "{set}");
        }
    }
}
