//! Classification of a request: what it is, in the terms of `rigbox_core::app_access`, and the form of an error response to it.

use http::header::{
    ACCEPT, ACCESS_CONTROL_REQUEST_METHOD, CONNECTION, CONTENT_TYPE, HeaderName, ORIGIN, REFERER,
    SEC_WEBSOCKET_KEY, UPGRADE,
};
use http::{HeaderMap, Method, Request, Version};
use rigbox_core::app_access::{FetchMetadata, Initiator, RequestKind};
use rigbox_proto::headers::single_value;

use crate::error_pages::ResponseForm;
use crate::request::headers::lists;

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const SEC_FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");
const SEC_FETCH_DEST: HeaderName = HeaderName::from_static("sec-fetch-dest");

/// Properties of a request that do not depend on its app, determined once.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Classification {
    /// True if the request opens a WebSocket, by RFC 6455 or, on HTTP/2, by RFC 8441.
    pub(crate) is_websocket: bool,
    /// Form of an error response.
    pub(crate) form: ResponseForm,
}

impl Classification {
    /// Classifies a request.
    pub(crate) fn of<B>(request: &Request<B>) -> Self {
        let headers = request.headers();
        let form = if is_grpc(headers) {
            ResponseForm::Grpc
        } else if accepts_page(headers) {
            ResponseForm::Page
        } else {
            ResponseForm::Json
        };
        Self { is_websocket: is_websocket(request), form }
    }
}

fn is_websocket<B>(request: &Request<B>) -> bool {
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

/// Returns the kind of a request to an app that allows these origins by CORS.
pub(crate) fn kind<B>(
    request: &Request<B>,
    classification: Classification,
    cors_origins: &[String],
) -> RequestKind {
    let headers = request.headers();
    if classification.is_websocket {
        return RequestKind::WebSocket;
    }
    if request.method() == Method::OPTIONS
        && headers.contains_key(ORIGIN)
        && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD)
    {
        let origin = single_value(headers, ORIGIN);
        return RequestKind::Preflight {
            listed: origin.is_some_and(|origin| cors_origins.iter().any(|listed| listed == origin)),
        };
    }
    if is_navigation(request.method(), headers) { RequestKind::Navigation } else { RequestKind::Other }
}

fn is_navigation(method: &Method, headers: &HeaderMap) -> bool {
    if !matches!(*method, Method::GET | Method::HEAD) {
        return false;
    }
    if has_fetch_metadata(headers) {
        return single_value(headers, SEC_FETCH_MODE) == Some("navigate")
            && single_value(headers, SEC_FETCH_DEST) == Some("document");
    }
    !headers.contains_key(ORIGIN) && accepts_page(headers)
}

/// Returns whether a browser says how a request came about. On plain HTTP browsers do not.
pub(crate) fn has_fetch_metadata(headers: &HeaderMap) -> bool {
    [SEC_FETCH_MODE, SEC_FETCH_DEST, SEC_FETCH_SITE].iter().any(|name| headers.contains_key(name))
}

/// Returns whether a request is a gRPC call. (gRPC-Web is HTTP like any other.)
fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|content_type| {
        content_type
            .as_bytes()
            .strip_prefix(b"application/grpc")
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(b"+") || rest.starts_with(b";"))
    })
}

/// Returns whether the client can display a page.
fn accepts_page(headers: &HeaderMap) -> bool {
    headers.get_all(ACCEPT).iter().any(|value| memchr::memmem::find(value.as_bytes(), b"text/html").is_some())
}

/// Returns which page caused a request to the app at the origin `own`.
pub(crate) fn initiator<B>(request: &Request<B>, own: &str, websocket: bool) -> Initiator {
    let headers = request.headers();
    // A header that occurs twice proves nothing.
    if [ORIGIN, SEC_FETCH_SITE, REFERER].iter().any(|name| headers.get_all(name).iter().nth(1).is_some()) {
        return Initiator::CrossOrigin;
    }
    // A value that is not text is not our origin.
    let value = |name: HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or("null"));
    let metadata = FetchMetadata {
        origin: value(ORIGIN),
        sec_fetch_site: value(SEC_FETCH_SITE),
        referer: value(REFERER),
    };
    Initiator::of(metadata, own, websocket)
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

    fn classified(request: &Request<()>, cors_origins: &[String]) -> RequestKind {
        kind(request, Classification::of(request), cors_origins)
    }

    #[test]
    fn navigation_is_declared_by_the_browser() {
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
            let kind = classified(&request(method, sent), &[]);
            assert_eq!(kind == RequestKind::Navigation, is, "{method} {sent:?}: {kind:?}");
        }
    }

    #[test]
    fn preflight_is_judged_by_the_listed_origins() {
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
            assert_eq!(classified(&request(method, sent), &listed), expected, "{method} {sent:?}");
        }
    }

    #[test]
    fn repeated_origin_is_cross_origin() {
        const OWN: &str = "http://web.rigbox.localhost:7080";
        assert_eq!(initiator(&request("GET", &[("origin", OWN)]), OWN, true), Initiator::SameOrigin);
        let twice = request("GET", &[("origin", OWN), ("origin", OWN)]);
        assert_eq!(initiator(&twice, OWN, true), Initiator::CrossOrigin);
    }
}
