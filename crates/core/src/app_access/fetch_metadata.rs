//! Origin of the page that caused a browser's request, as told by the request's headers.

/// Page that caused a request (the Fetch standard's request initiator).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Initiator {
    /// A page of the app itself.
    SameOrigin,
    /// A page of another origin, or an unknown one.
    CrossOrigin,
}

/// Request headers that a page cannot forge, as received.
#[derive(Debug, Clone, Copy, Default)]
pub struct FetchMetadata<'a> {
    /// `Origin` (RFC 6454).
    pub origin: Option<&'a str>,
    /// `Sec-Fetch-Site` (W3C Fetch Metadata).
    pub sec_fetch_site: Option<&'a str>,
    /// `Referer` (RFC 9110, 10.1.3).
    pub referer: Option<&'a str>,
}

impl Initiator {
    /// Classifies a request to the app at the origin `own` (`scheme://host[:port]`). All headers present have
    /// to agree. Without `Origin` and `Sec-Fetch-Site`, which browsers omit on plain HTTP, the `Referer`
    /// decides. A WebSocket is judged by `Origin` alone.
    pub fn of(metadata: FetchMetadata<'_>, own: &str, websocket: bool) -> Self {
        let FetchMetadata { origin, sec_fetch_site, referer } = metadata;
        let by_origin = origin.map(|origin| origin.eq_ignore_ascii_case(own));
        let by_site = sec_fetch_site.map(|site| site == "same-origin");
        let is_own = match (by_origin, by_site) {
            (Some(origin), site) => origin && site.unwrap_or(true),
            (None, _) if websocket => false,
            (None, Some(site)) => site,
            (None, None) => referer.is_some_and(|referer| is_of(referer, own)),
        };
        if is_own { Self::SameOrigin } else { Self::CrossOrigin }
    }
}

fn is_of(url: &str, origin: &str) -> bool {
    let Some((head, rest)) = url.split_at_checked(origin.len()) else { return false };
    head.eq_ignore_ascii_case(origin) && (rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_fetch_metadata_must_agree() {
        const OWN: &str = "http://web.rigbox.localhost:7080";
        const SIBLING: &str = "http://evil.rigbox.localhost:7080";
        let own_page = format!("{OWN}/a");
        let looks_like_it = format!("{OWN}.evil.example/");
        // origin, sec-fetch-site, referer, same origin?, same origin for a WebSocket?
        for (origin, site, referer, own, websocket) in [
            (Some(OWN), None, None, true, true),
            (Some(OWN), Some("same-origin"), None, true, true),
            (Some(OWN), Some("same-site"), None, false, false),
            (Some(SIBLING), Some("same-origin"), None, false, false),
            (Some(SIBLING), None, Some(OWN), false, false),
            (Some("null"), None, None, false, false),
            (None, Some("same-origin"), None, true, false),
            (None, Some("same-site"), Some(OWN), false, false),
            (None, Some("cross-site"), None, false, false),
            (None, Some("none"), None, false, false),
            (None, None, Some(OWN), true, false),
            (None, None, Some(own_page.as_str()), true, false),
            (None, None, Some(SIBLING), false, false),
            (None, None, Some(looks_like_it.as_str()), false, false),
            (None, None, None, false, false),
        ] {
            let metadata = FetchMetadata { origin, sec_fetch_site: site, referer };
            let expected = |own| if own { Initiator::SameOrigin } else { Initiator::CrossOrigin };
            assert_eq!(Initiator::of(metadata, OWN, false), expected(own), "{metadata:?}");
            assert_eq!(Initiator::of(metadata, OWN, true), expected(websocket), "WebSocket, {metadata:?}");
        }
    }
}
