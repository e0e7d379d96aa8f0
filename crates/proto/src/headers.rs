//! Reading of HTTP headers that more than one crate relies on.

use http::HeaderMap;
use http::header::AsHeaderName;

/// Returns the value of a header that occurs exactly once and is visible ASCII.
#[inline]
pub fn single_value(headers: &HeaderMap, name: impl AsHeaderName) -> Option<&str> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().ok(),
        _ => None,
    }
}
