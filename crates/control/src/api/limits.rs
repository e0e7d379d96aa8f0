//! Rate limits as clients see them: headers on every answer, and the refusal.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr};

use axum::extract::{FromRequestParts, Request};
use axum::response::{IntoResponse, Response};
use http::header::RETRY_AFTER;
use http::request::Parts;
use http::{HeaderValue, StatusCode};

use super::connections::Peer;
use super::error::ApiError;
use crate::rates::{Allowance, TooMany};

/// Where the request came from, for handlers.
pub(super) struct Address(pub(super) IpAddr);

impl<S: Sync> FromRequestParts<S> for Address {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self(parts.extensions.get::<Peer>().map_or(UNKNOWN, |peer| peer.0)))
    }
}

/// Where a request came from whose connection nobody noted.
const UNKNOWN: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// Where the request came from.
pub(super) fn address(request: &Request) -> IpAddr {
    request.extensions().get::<Peer>().map_or(UNKNOWN, |peer| peer.0)
}

/// The answer with what is left of the caller's allowance, if there is a limit.
pub(super) fn told(mut answer: Response, allowance: Option<Allowance>) -> Response {
    let Some(Allowance { per_minute, remaining, reset_s }) = allowance else { return answer };
    let headers = answer.headers_mut();
    headers.insert("ratelimit-limit", HeaderValue::from(per_minute));
    headers.insert("ratelimit-remaining", HeaderValue::from(remaining));
    headers.insert("ratelimit-reset", HeaderValue::from(reset_s));
    answer
}

/// The answer to one request too many.
pub(super) fn refusal(too_many: TooMany) -> Response {
    let TooMany { allowance, retry_after_s } = too_many;
    let message =
        format!("more than {} requests a minute: try again in {retry_after_s} s", allowance.per_minute);
    let mut answer = ApiError::new(StatusCode::TOO_MANY_REQUESTS, "rate_limited", message).into_response();
    answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from(retry_after_s));
    told(answer, Some(allowance))
}
