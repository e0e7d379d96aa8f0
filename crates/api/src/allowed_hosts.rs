//! Host names under which the API answers.

use std::collections::HashSet;
use std::net::SocketAddr;

use http::Uri;

/// The names under which this API answers, lower case, with port. A page whose name was made to point here
/// (DNS rebinding) has another name.
pub struct AllowedHosts(HashSet<String>);

impl AllowedHosts {
    /// `None` when the URL is none. `console` is the console's host as browsers send it.
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

    pub(crate) fn has(&self, host: &str) -> bool {
        self.0.contains(&host.to_ascii_lowercase())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_names_with_our_port_are_ours() {
        let listen = "127.0.0.1:7070".parse().unwrap();
        let hosts = AllowedHosts::new("http://rigbox.example:7070", "console.example", listen).unwrap();
        for good in
            ["rigbox.example:7070", "RIGBOX.example:7070", "localhost:7070", "127.0.0.1:7070", "[::1]:7070"]
        {
            assert!(hosts.has(good), "{good}");
        }
        for bad in ["rigbox.example", "localhost", "evil.example:7070", "localhost:80", "", "localhost:7070."]
        {
            assert!(!hosts.has(bad), "{bad}");
        }
        let tls = AllowedHosts::new("https://rigbox.example", "rigbox.example", listen).unwrap();
        assert!(tls.has("rigbox.example") && tls.has("rigbox.example:443") && tls.has("localhost:7070"));
        assert!(AllowedHosts::new("rigbox", "rigbox", listen).is_none());
    }
}
