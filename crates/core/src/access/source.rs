//! Which site made a browser send a request, from what the browser says about it.

/// Who made the browser ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Source {
    /// A page of the app itself.
    Own,
    /// A page of another origin, or it cannot be told.
    Other,
}

/// The headers that a page cannot forge, as they came.
#[derive(Debug, Clone, Copy, Default)]
pub struct Told<'a> {
    /// `Origin` (RFC 6454).
    pub origin: Option<&'a str>,
    /// `Sec-Fetch-Site` (W3C Fetch Metadata).
    pub sec_fetch_site: Option<&'a str>,
    /// `Referer` (RFC 9110, 10.1.3).
    pub referer: Option<&'a str>,
}

impl Source {
    /// The source of a request to the app at the origin `own` (`scheme://host[:port]`). Every header that came has to agree; without
    /// the first two (browsers leave them out on plain http) the page's address tells. A WebSocket is known by `Origin` alone.
    pub fn of(told: Told<'_>, own: &str, websocket: bool) -> Self {
        let Told { origin, sec_fetch_site, referer } = told;
        let by_origin = origin.map(|origin| origin.eq_ignore_ascii_case(own));
        let by_site = sec_fetch_site.map(|site| site == "same-origin");
        let is_own = match (by_origin, by_site) {
            (Some(origin), site) => origin && site.unwrap_or(true),
            (None, _) if websocket => false,
            (None, Some(site)) => site,
            (None, None) => referer.is_some_and(|referer| is_of(referer, own)),
        };
        if is_own { Self::Own } else { Self::Other }
    }
}

fn is_of(address: &str, origin: &str) -> bool {
    let Some((head, rest)) = address.split_at_checked(origin.len()) else { return false };
    head.eq_ignore_ascii_case(origin) && (rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_header_has_to_agree() {
        const OWN: &str = "http://web.rigbox.localhost:7080";
        const SIBLING: &str = "http://evil.rigbox.localhost:7080";
        let own_page = format!("{OWN}/a");
        let looks_like_it = format!("{OWN}.evil.example/");
        // origin, sec-fetch-site, referer, own?, own for a WebSocket?
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
            let told = Told { origin, sec_fetch_site: site, referer };
            let expected = |own| if own { Source::Own } else { Source::Other };
            assert_eq!(Source::of(told, OWN, false), expected(own), "{told:?}");
            assert_eq!(Source::of(told, OWN, true), expected(websocket), "WebSocket, {told:?}");
        }
    }
}
