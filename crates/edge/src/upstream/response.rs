//! Response of an app on its way to the client, or the reason that there is none.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderValue, StatusCode, Version};
use http_body::Frame;
use hyper::body::Incoming;
use rigbox_gateway::active_grants::EndReason;

use crate::decision::access_request::Grant;
use crate::error_pages::Response;
use crate::request::headers;
use crate::state::Worker;
use crate::upstream::pool::{ConnectError, Sender};
use crate::upstream::request_body::{BodyFault, client_fault};
use crate::upstream::response_body::{AppBody, ResponseBody};

/// Reason that an app did not respond.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ForwardError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("invalid response: {0}")]
    Response(hyper::Error),
    /// The client's body failed, not the app.
    #[error("{0}")]
    Body(BodyFault),
    #[error("ended: {0:?}")]
    Ended(EndReason),
}

impl ForwardError {
    /// Tells whether the client or the app made a request fail.
    pub(crate) fn sending(error: hyper::Error) -> Self {
        client_fault(&error).map_or(Self::Response(error), Self::Body)
    }
}

/// Turns an app's response into the one to the client. `first` was read ahead of its body; `reuse` is the connection to return to the
/// pool at the end.
pub(crate) fn to_client(
    worker: &Worker,
    grant: Arc<Grant>,
    response: http::Response<Incoming>,
    first: Option<Frame<Bytes>>,
    mut reuse: Option<(Sender, Arc<Worker>)>,
) -> Response {
    let (mut head, body) = response.into_parts();
    if head.headers.contains_key(TRANSFER_ENCODING) && head.headers.remove(CONTENT_LENGTH).is_some() {
        // Two lengths: the chunks count (RFC 9112, 6.3), and nothing behind them is believed.
        reuse = None;
    }
    let upgrade = head.headers.get(UPGRADE).filter(|_| head.status == StatusCode::UPGRADE_REQUIRED).cloned();
    headers::to_client(&mut head.headers, &grant.decision().route.host);
    if let Some(upgrade) = upgrade {
        head.headers.insert(UPGRADE, upgrade);
        head.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    }
    head.version = Version::HTTP_11;
    head.extensions.clear();
    let idle_timeout = worker.limits.idle;
    grant.touch(idle_timeout);
    let mut app = AppBody { body, grant, idle_timeout, first, reuse };
    app.reuse_at_end();
    Response::from_parts(head, ResponseBody::App(app))
}
