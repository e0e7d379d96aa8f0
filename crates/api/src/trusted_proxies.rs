//! Proxies whose `X-Forwarded-For` is believed. (`Forwarded` is not read: a proxy that writes one of the two passes the other on as the
//! client sent it.)

use std::net::IpAddr;

use http::HeaderMap;
use ipnet::IpNet;

/// Networks of the proxies in front of the API.
#[derive(Debug, Clone, Default)]
pub struct TrustedProxies(Vec<IpNet>);

impl From<Vec<IpNet>> for TrustedProxies {
    fn from(networks: Vec<IpNet>) -> Self {
        Self(networks)
    }
}

impl TrustedProxies {
    /// Returns whether an address is one of a proxy.
    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
    }

    /// Returns the address of the client of a request that came from `peer`: the rightmost one that is no proxy's. What is left of it, the
    /// client may have made up.
    pub(crate) fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let mut client = peer.to_canonical();
        let lines = headers.get_all("x-forwarded-for").iter().rev();
        let mut entries = lines.flat_map(|line| line.to_str().unwrap_or_default().rsplit(','));
        while self.contains(client) {
            // Something else than an address ends what can be believed.
            let Some(address) = entries.next().and_then(parse) else { break };
            client = address;
        }
        client
    }
}

/// Parses an entry; some proxies add the port.
fn parse(entry: &str) -> Option<IpAddr> {
    let entry = entry.trim();
    let address =
        entry.parse::<IpAddr>().or_else(|_| entry.parse::<std::net::SocketAddr>().map(|with| with.ip()));
    let bare = || entry.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    address.ok().or_else(bare).map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn client_is_the_rightmost_address_that_is_no_proxys() {
        let proxies = TrustedProxies(vec!["10.0.0.0/8".parse().unwrap(), "2001:db8::/64".parse().unwrap()]);
        let client = |peer: &str, lines: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append("x-forwarded-for", http::HeaderValue::from_static(line));
            }
            proxies.client(peer.parse().unwrap(), &headers).to_string()
        };
        for (peer, lines, expected) in [
            // Who is no proxy is not believed.
            ("192.0.2.1", &["198.51.100.1"][..], "192.0.2.1"),
            ("10.0.0.1", &[], "10.0.0.1"),
            ("10.0.0.1", &["198.51.100.1"], "198.51.100.1"),
            ("::ffff:10.0.0.1", &["198.51.100.1"], "198.51.100.1"),
            ("2001:db8::1", &["2001:db8:0:1::1"], "2001:db8:0:1::1"),
            // The client's own entries are on the left, in the same line or in one before.
            ("10.0.0.1", &["127.0.0.1, 198.51.100.1"], "198.51.100.1"),
            ("10.0.0.1", &["203.0.113.9", "198.51.100.1, 10.0.0.2"], "198.51.100.1"),
            ("10.0.0.1", &["198.51.100.1:4711"], "198.51.100.1"),
            ("10.0.0.1", &["[2001:db8:0:1::1]:4711"], "2001:db8:0:1::1"),
            ("10.0.0.1", &["[2001:db8:0:1::1]"], "2001:db8:0:1::1"),
            ("10.0.0.1", &["198.51.100.1, unknown"], "10.0.0.1"),
            ("10.0.0.1", &["198.51.100.1, unknown, 10.0.0.7"], "10.0.0.7"),
            ("10.0.0.1", &["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
            ("10.0.0.1", &[""], "10.0.0.1"),
        ] {
            assert_eq!(client(peer, lines), expected, "{peer} {lines:?}");
        }
        assert_eq!(
            TrustedProxies::default().client("10.0.0.1".parse().unwrap(), &HeaderMap::new()).to_string(),
            "10.0.0.1"
        );
    }
}
