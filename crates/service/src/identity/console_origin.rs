//! Origin of the console: the only one where people sign in, and whose pages may act with a session's cookie.

use http::Uri;

/// Origin of the console.
#[derive(Debug, Clone)]
pub struct ConsoleOrigin {
    /// E.g. `http://console.localhost:7070`.
    origin: String,
    /// Host and, unless it is the scheme's default, port; lower case.
    host: String,
    secure: bool,
}

impl ConsoleOrigin {
    /// Parses an origin. Returns `None` if the URL is not one.
    pub fn new(url: &str) -> Option<Self> {
        let uri: Uri = url.parse().ok()?;
        let scheme = uri.scheme_str().filter(|scheme| matches!(*scheme, "http" | "https"))?;
        let host = uri.authority()?.as_str().to_ascii_lowercase();
        let bare = uri.path_and_query().is_none_or(|rest| rest == "/") && !host.contains('@');
        bare.then(|| Self { origin: format!("{scheme}://{host}"), host, secure: scheme == "https" })
    }

    /// Returns the origin as browsers send it in `Origin`.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// Returns the host as browsers send it in `Host`.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Returns whether browsers reach the console by TLS.
    pub fn is_secure(&self) -> bool {
        self.secure
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_bare_origin_is_accepted() {
        for bad in ["console", "ftp://x", "http://x/path", "http://user@x", "http://x/?q"] {
            assert!(ConsoleOrigin::new(bad).is_none(), "{bad}");
        }
    }
}
