//! Fuzz target of the statuses of a guest's agent, as they arrive in the trailers of a call.

use http::{HeaderMap, HeaderName, HeaderValue};

use super::*;
use rigbox_proto::transport::client::without_details;

/// Reads `name: value` lines.
fn trailers(text: &[u8]) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    for line in text.split(|byte| *byte == b'\n') {
        let mut halves = line.splitn(2, |byte| *byte == b':');
        let (name, value) = (halves.next().unwrap_or_default(), halves.next().unwrap_or_default());
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
            trailers.append(name, value);
        }
    }
    trailers
}

#[test]
fn agent_status() {
    bolero::check!(name = "agent_status").for_each(|text: &[u8]| {
        let mut response = http::Response::new(tonic::body::Body::empty());
        *response.headers_mut() = trailers(text);
        let response = without_details(response);
        let Some(status) = Status::from_header_map(response.headers()) else { return };
        let passed = check_status(&status);
        let known =
            ["bad_request", "busy", "ended", "not_found", "permission_denied", "no_space", AGENT_LOST];
        assert!(known.contains(&fault::code(&passed)), "{passed:?}");
        assert!(passed.message().chars().count() <= 1024 && !passed.message().contains(char::is_control));
        assert!(passed.details().is_empty() && passed.metadata().len() == 1, "nothing else is passed on");
        // What has been checked stays what it is.
        let again = check_status(&passed);
        assert_eq!(fault::code(&again), fault::code(&passed));
        assert_eq!((again.code(), again.message()), (passed.code(), passed.message()));
    });
}
