//! HTTP headers, as more than one crate reads them and passes them on.

use http::HeaderMap;
use http::header::{
    AsHeaderName, CONNECTION, HeaderName, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRANSFER_ENCODING,
    UPGRADE,
};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// Hop-by-hop headers (RFC 9110, 7.6.1), whether or not `Connection` names them.
const HOP_BY_HOP: [HeaderName; 8] = [
    CONNECTION,
    KEEP_ALIVE,
    PROXY_CONNECTION,
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TE,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// Returns the value of a header that occurs exactly once and is visible ASCII.
#[inline]
pub fn single_value(headers: &HeaderMap, name: impl AsHeaderName) -> Option<&str> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().ok(),
        _ => None,
    }
}

/// Removes hop-by-hop headers, and those that `is_forbidden` selects.
pub fn remove_hop_by_hop(headers: &mut HeaderMap, is_forbidden: impl Fn(&HeaderName) -> bool) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
        .collect();
    for name in named {
        headers.remove(name);
    }
    // Scanning the names is cheaper than looking each one up: there is rarely more than one to remove.
    while let Some(name) =
        headers.keys().find(|name| HOP_BY_HOP.contains(name) || is_forbidden(name)).cloned()
    {
        headers.remove(name);
    }
}
