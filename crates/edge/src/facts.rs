//! What a request says about itself, in the words of the table in `rigbox_core::app_access`.

use http::header::{
    ACCEPT, ACCESS_CONTROL_REQUEST_METHOD, CONNECTION, CONTENT_TYPE, HeaderName, ORIGIN, REFERER,
    SEC_WEBSOCKET_KEY, UPGRADE,
};
use http::{HeaderMap, Method, Request, Version};
use rigbox_core::app_access::{FetchMetadata, Initiator, RequestKind};

use crate::headers::{lists, only};

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const SEC_FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");
const SEC_FETCH_DEST: HeaderName = HeaderName::from_static("sec-fetch-dest");

/// Whether a request opens a WebSocket: by RFC 6455, or by RFC 8441 on HTTP/2.
pub(crate) fn is_websocket<B>(request: &Request<B>) -> bool {
    let headers = request.headers();
    match request.version() {
        Version::HTTP_2 => request
            .extensions()
            .get::<hyper::ext::Protocol>()
            .is_some_and(|protocol| protocol.as_str().eq_ignore_ascii_case("websocket")),
        _ => {
            request.method() == Method::GET
                && headers.contains_key(UPGRADE)
                && lists(headers, &UPGRADE, "websocket")
                && lists(headers, &CONNECTION, "upgrade")
                && headers.contains_key(SEC_WEBSOCKET_KEY)
        }
    }
}

/// What kind of request it is, for an app that answers the `listed` origins by CORS.
pub(crate) fn kind<B>(request: &Request<B>, listed: &[String]) -> RequestKind {
    let headers = request.headers();
    if is_websocket(request) {
        return RequestKind::WebSocket;
    }
    if request.method() == Method::OPTIONS
        && headers.contains_key(ORIGIN)
        && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD)
    {
        let origin = only(headers, ORIGIN);
        return RequestKind::Preflight {
            listed: origin.is_some_and(|origin| listed.iter().any(|one| one == origin)),
        };
    }
    if is_navigation(request.method(), headers) { RequestKind::Navigation } else { RequestKind::Other }
}

fn is_navigation(method: &Method, headers: &HeaderMap) -> bool {
    if !matches!(*method, Method::GET | Method::HEAD) {
        return false;
    }
    let told = [SEC_FETCH_MODE, SEC_FETCH_DEST, SEC_FETCH_SITE].iter().any(|name| headers.contains_key(name));
    if told {
        return only(headers, SEC_FETCH_MODE) == Some("navigate")
            && only(headers, SEC_FETCH_DEST) == Some("document");
    }
    !headers.contains_key(ORIGIN) && wants_page(headers)
}

/// Whether it is a call of gRPC (not gRPC-Web, which is HTTP like any other).
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|kind| {
        kind.as_bytes()
            .strip_prefix(b"application/grpc")
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(b"+") || rest.starts_with(b";"))
    })
}

/// Whether whoever asks can show a page.
pub(crate) fn wants_page(headers: &HeaderMap) -> bool {
    headers.get_all(ACCEPT).iter().any(|value| memchr::memmem::find(value.as_bytes(), b"text/html").is_some())
}

/// Which site made a browser ask.
pub(crate) fn source<B>(request: &Request<B>, own: &str, websocket: bool) -> Initiator {
    let headers = request.headers();
    // What came twice cannot be told.
    if [ORIGIN, SEC_FETCH_SITE, REFERER].iter().any(|name| headers.get_all(name).iter().nth(1).is_some()) {
        return Initiator::CrossOrigin;
    }
    // What is no text is no origin of ours.
    let text = |name: HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or("null"));
    let told =
        FetchMetadata { origin: text(ORIGIN), sec_fetch_site: text(SEC_FETCH_SITE), referer: text(REFERER) };
    Initiator::of(told, own, websocket)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(method: &str, pairs: &[(&str, &str)]) -> Request<()> {
        let mut request = Request::builder().method(method).uri("/");
        for (name, value) in pairs {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap()
    }

    #[test]
    fn a_navigation_is_what_the_browser_calls_one() {
        let page = ("accept", "text/html,application/xhtml+xml");
        let (mode, dest) = (("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document"));
        for (method, sent, is) in [
            ("GET", &[mode, dest][..], true),
            ("HEAD", &[mode, dest], true),
            ("POST", &[mode, dest], false),
            ("GET", &[mode, ("sec-fetch-dest", "iframe")], false),
            ("GET", &[("sec-fetch-mode", "cors"), page], false),
            ("GET", &[mode], false),
            ("GET", &[page], true),
            ("GET", &[page, ("origin", "http://a.example")], false),
            ("GET", &[("accept", "*/*")], false),
            ("GET", &[], false),
            ("GET", &[mode, mode, dest], false),
        ] {
            let kind = kind(&request(method, sent), &[]);
            assert_eq!(kind == RequestKind::Navigation, is, "{method} {sent:?}: {kind:?}");
        }
    }

    #[test]
    fn a_preflight_is_of_a_listed_origin_or_not() {
        let asks = ("access-control-request-method", "PUT");
        let listed = ["https://a.example".to_owned()];
        for (method, sent, expected) in [
            (
                "OPTIONS",
                &[asks, ("origin", "https://a.example")][..],
                RequestKind::Preflight { listed: true },
            ),
            ("OPTIONS", &[asks, ("origin", "https://b.example")], RequestKind::Preflight { listed: false }),
            (
                "OPTIONS",
                &[asks, ("origin", "https://a.example.evil")],
                RequestKind::Preflight { listed: false },
            ),
            ("OPTIONS", &[asks], RequestKind::Other),
            ("OPTIONS", &[("origin", "https://a.example")], RequestKind::Other),
            ("GET", &[asks, ("origin", "https://a.example")], RequestKind::Other),
        ] {
            assert_eq!(kind(&request(method, sent), &listed), expected, "{method} {sent:?}");
        }
    }

    #[test]
    fn what_came_twice_is_of_nobody() {
        const OWN: &str = "http://web.rigbox.localhost:7080";
        assert_eq!(source(&request("GET", &[("origin", OWN)]), OWN, true), Initiator::SameOrigin);
        let twice = request("GET", &[("origin", OWN), ("origin", OWN)]);
        assert_eq!(source(&twice, OWN, true), Initiator::CrossOrigin);
    }
}
