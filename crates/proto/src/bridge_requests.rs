//! Requests on the bridge that come from no owner of a workspace: pages in a browser of the VM, and programs that forward for others. Both
//! roles that read requests of VMs refuse them.

use http::header::{HOST, ORIGIN};
use http::{HeaderMap, HeaderName, Uri};

/// Host under which a VM reaches its bridge.
const HOST_NAME: &str = "172.16.0.1:9090";
/// Headers of programs that forward.
const FORWARDED: [&str; 3] = ["x-forwarded-for", "forwarded", "via"];

/// Returns the reason for refusing a request, if there is one. `is_of_page` tells the headers, beside `Origin`, that only a page's requests
/// have.
pub fn refusal(
    headers: &HeaderMap,
    uri: &Uri,
    is_of_page: impl Fn(&HeaderName) -> bool,
) -> Option<&'static str> {
    let mut hosts = headers.get_all(HOST).iter();
    let named =
        matches!((hosts.next(), hosts.next()), (Some(host), None) if host.as_bytes() == HOST_NAME.as_bytes());
    if !named || uri.authority().is_some_and(|authority| authority != HOST_NAME) {
        return Some("Unknown host. The bridge is at http://172.16.0.1:9090.");
    }
    if headers.contains_key(ORIGIN) || headers.keys().any(is_of_page) {
        return Some("Requests from browser pages are not allowed on the bridge.");
    }
    if FORWARDED.iter().any(|name| headers.contains_key(*name)) {
        return Some("Forwarded requests are not allowed on the bridge.");
    }
    None
}
