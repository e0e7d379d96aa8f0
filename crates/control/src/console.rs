//! The console's origin: the one place where people sign in, and the only one whose pages may event with a session's cookie.

use http::header::{COOKIE, HOST, ORIGIN, UPGRADE};
use http::{HeaderMap, HeaderValue, Method, Uri};
use rigbox_store::tokens::SessionToken;

/// Where the console is.
#[derive(Debug, Clone)]
pub(crate) struct Console {
    /// E.g. `http://console.localhost:7070`.
    origin: String,
    /// Host and, unless it is the scheme's own, port; lower case.
    host: String,
    secure: bool,
}

impl Console {
    /// `None` when the URL is none.
    pub(crate) fn new(url: &str) -> Option<Self> {
        let uri: Uri = url.parse().ok()?;
        let scheme = uri.scheme_str().filter(|scheme| matches!(*scheme, "http" | "https"))?;
        let host = uri.authority()?.as_str().to_ascii_lowercase();
        let bare = uri.path_and_query().is_none_or(|rest| rest == "/") && !host.contains('@');
        bare.then(|| Self { origin: format!("{scheme}://{host}"), host, secure: scheme == "https" })
    }

    /// As browsers send it in `Origin`.
    pub(crate) fn origin(&self) -> &str {
        &self.origin
    }

    /// As browsers send it in `Host`.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    /// Whether a request was sent to the console.
    pub(crate) fn is_asked(&self, headers: &HeaderMap) -> bool {
        only(headers, HOST).is_some_and(|host| host.eq_ignore_ascii_case(&self.host))
    }

    /// Whether a request comes from a page of the console itself, or, where it changes nothing, from the address bar. What a browser
    /// sends along cannot be forged by a page; other clients have no cookie to abuse.
    pub(crate) fn is_own(&self, method: &Method, headers: &HeaderMap) -> bool {
        if !self.is_asked(headers) {
            return false;
        }
        let origin = only(headers, ORIGIN).map(|origin| origin == self.origin);
        let site = only(headers, "sec-fetch-site");
        let looks = method.is_safe() && !headers.contains_key(UPGRADE);
        match (origin, site) {
            (Some(false), _) => false,
            (_, Some("same-origin")) => true,
            (_, Some("none")) => looks,
            (_, Some(_)) => false,
            (Some(true), None) => true,
            (None, None) => looks && !headers.contains_key(ORIGIN),
        }
    }

    fn cookie_name(&self) -> &'static str {
        // With the prefix a browser takes the cookie from this very host over TLS only (RFC 6265bis, section 4.1.3.2).
        if self.secure { "__Host-rigbox_session" } else { "rigbox_session" }
    }

    /// The session's token in the request's cookies. Two of the name mean that somebody else set one: then there is none.
    pub(crate) fn session(&self, headers: &HeaderMap) -> Option<SessionToken> {
        let name = self.cookie_name();
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

    /// The header that gives a browser its session, for at most `seconds`; without a token it takes it away.
    pub(crate) fn cookie(&self, token: Option<&SessionToken>, seconds: u64) -> Option<HeaderValue> {
        let (value, seconds) = token.map_or(("", 0), |token| (token.reveal(), seconds));
        let secure = if self.secure { "; Secure" } else { "" };
        let name = self.cookie_name();
        let text = format!("{name}={value}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Lax{secure}");
        let mut header = HeaderValue::from_str(&text).ok()?;
        header.set_sensitive(true);
        Some(header)
    }
}

/// The header's one value; none when there are two.
fn only(headers: &HeaderMap, name: impl http::header::AsHeaderName) -> Option<&str> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().ok(),
        _ => None,
    }
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
    fn only_the_consoles_own_pages_act_with_its_cookie() {
        let console = Console::new(OWN).unwrap();
        let host = ("host", "console.localhost:7070");
        let other_host = ("host", "localhost:7070");
        for (method, sent, own) in [
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
            // A WebSocket is no look.
            ("GET", &[host, ("upgrade", "websocket")], false),
            ("GET", &[host, ("upgrade", "websocket"), ("origin", OWN)], true),
            ("GET", &[host, host], false),
        ] {
            let method: Method = method.parse().unwrap();
            assert_eq!(console.is_own(&method, &headers(sent)), own, "{method} {sent:?}");
        }
    }

    #[test]
    fn two_sessions_are_none() {
        let console = Console::new(OWN).unwrap();
        let token = SessionToken::mint().unwrap();
        let cookie = |text: String| {
            let mut headers = HeaderMap::new();
            headers.insert(COOKIE, HeaderValue::from_str(&text).unwrap());
            console.session(&headers).map(|token| token.reveal().to_owned())
        };
        let pair = format!("rigbox_session={}", token.reveal());
        assert_eq!(cookie(format!("a=b; {pair}")).as_deref(), Some(token.reveal()));
        assert_eq!(cookie(format!("{pair}; {pair}")), None);
        assert_eq!(cookie("rigbox_session=rbs_short".to_owned()), None);
        assert_eq!(cookie(format!("__Host-{pair}")), None);
    }

    #[test]
    fn with_tls_the_cookie_is_bound_to_the_host() {
        let token = SessionToken::mint().unwrap();
        let cookie = |url: &str| {
            let header = Console::new(url).unwrap().cookie(Some(&token), 60).unwrap();
            header.to_str().unwrap().to_owned()
        };
        let plain = cookie(OWN);
        assert!(plain.starts_with("rigbox_session=rbs_") && !plain.contains("Secure"), "{plain}");
        let tls = cookie("https://console.rigbox.example");
        assert!(tls.starts_with("__Host-rigbox_session=") && tls.ends_with("; Secure"), "{tls}");
        assert!(!tls.contains("Domain") && tls.contains("Path=/;") && tls.contains("HttpOnly"));
    }

    #[test]
    fn an_origin_is_no_more_than_that() {
        for bad in ["console", "ftp://x", "http://x/path", "http://user@x", "http://x/?q"] {
            assert!(Console::new(bad).is_none(), "{bad}");
        }
    }
}
