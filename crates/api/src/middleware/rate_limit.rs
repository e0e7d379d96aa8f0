//! Rate limits in HTTP: headers on every response, and the refusal.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr};

use axum::extract::{FromRequestParts, Request};
use axum::response::{IntoResponse, Response};
use http::header::RETRY_AFTER;
use http::request::Parts;
use http::{HeaderValue, StatusCode};

use crate::error::ApiError;
use crate::server::PeerAddress;
use rigbox_service::rate_limits::{Allowance, LimitExceeded};

/// Address of the client, as an extractor.
pub(crate) struct Address(pub(crate) IpAddr);

impl<S: Sync> FromRequestParts<S> for Address {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self(parts.extensions.get::<PeerAddress>().map_or(UNKNOWN, |peer| peer.0)))
    }
}

/// Address of a client that was not recorded.
const UNKNOWN: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// Returns the address of the client.
pub(crate) fn address(request: &Request) -> IpAddr {
    request.extensions().get::<PeerAddress>().map_or(UNKNOWN, |peer| peer.0)
}

/// Adds the headers with the caller's remaining allowance, if there is a limit.
pub(crate) fn with_headers(mut response: Response, allowance: Option<Allowance>) -> Response {
    let Some(Allowance { per_minute, remaining, reset_s }) = allowance else { return response };
    let headers = response.headers_mut();
    headers.insert("ratelimit-limit", HeaderValue::from(per_minute));
    headers.insert("ratelimit-remaining", HeaderValue::from(remaining));
    headers.insert("ratelimit-reset", HeaderValue::from(reset_s));
    response
}

/// Returns the response to a request over the limit.
pub(crate) fn refusal(exceeded: LimitExceeded) -> Response {
    let LimitExceeded { allowance, retry_after_s } = exceeded;
    let message = format!(
        "The rate limit of {} requests per minute was exceeded. Try again in {retry_after_s} s.",
        allowance.per_minute
    );
    let mut response = ApiError::new(StatusCode::TOO_MANY_REQUESTS, "rate_limited", message).into_response();
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(retry_after_s));
    with_headers(response, Some(allowance))
}
