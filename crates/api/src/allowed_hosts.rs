//! Host names under which the API answers.

use std::collections::HashSet;
use std::net::SocketAddr;

use http::Uri;

/// Host names of this API, lower case, with port. A page whose name was rebound to this address (DNS
/// rebinding) sends another name.
pub struct AllowedHosts(HashSet<String>);

impl AllowedHosts {
    /// Creates the set. Returns `None` if the URL is invalid. `console` is the console's host as browsers
    /// send it.
    pub fn new(public_url: &str, console: &str, listen: SocketAddr) -> Option<Self> {
        let uri: Uri = public_url.parse().ok()?;
        let host = uri.host()?.to_ascii_lowercase();
        let default = match uri.scheme_str()? {
            "http" => 80,
            "https" => 443,
            _ => return None,
        };
        let port = uri.port_u16().unwrap_or(default);
        let mut hosts = HashSet::from([format!("{host}:{port}"), console.to_owned()]);
        if port == default {
            hosts.insert(host);
        }
        for local in ["localhost", "127.0.0.1", "[::1]"] {
            hosts.extend([port, listen.port()].map(|port| format!("{local}:{port}")));
            if port == default {
                hosts.insert(local.to_owned());
            }
        }
        Some(Self(hosts))
    }

    pub(crate) fn contains(&self, host: &str) -> bool {
        self.0.contains(&host.to_ascii_lowercase())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_own_names_with_own_port_are_allowed() {
        let listen = "127.0.0.1:7070".parse().unwrap();
        let hosts = AllowedHosts::new("http://rigbox.example:7070", "console.example", listen).unwrap();
        for good in
            ["rigbox.example:7070", "RIGBOX.example:7070", "localhost:7070", "127.0.0.1:7070", "[::1]:7070"]
        {
            assert!(hosts.contains(good), "{good}");
        }
        for bad in ["rigbox.example", "localhost", "evil.example:7070", "localhost:80", "", "localhost:7070."]
        {
            assert!(!hosts.contains(bad), "{bad}");
        }
        let tls = AllowedHosts::new("https://rigbox.example", "rigbox.example", listen).unwrap();
        assert!(
            tls.contains("rigbox.example")
                && tls.contains("rigbox.example:443")
                && tls.contains("localhost:7070")
        );
        assert!(AllowedHosts::new("rigbox", "rigbox", listen).is_none());
    }
}
