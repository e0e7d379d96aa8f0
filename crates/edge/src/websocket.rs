//! WebSockets: opened at the app by RFC 6455, whether the client used that or HTTP/2 (RFC 8441). After the handshake, bytes pass unread.

use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_STANDARD as BASE64;
use http::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE};
use http::{HeaderValue, Method, Request, StatusCode, Uri, Version};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use rigbox_gateway::active_grants::EndReason;

use crate::config::Limits;
use crate::context::ForwardRequest;
use crate::decision::access_request::Grant;
use crate::decision::route::ForwardedIdentity;
use crate::error_pages::{self, Response, ResponseForm};
use crate::request::headers::{self, Forwarding};
use crate::upstream::request_body::RequestBody;
use crate::upstream::response::{ForwardError, to_client};
use crate::upstream::response_body::ResponseBody;
use crate::upstream::tunnel::Tunnel;

/// Opens a WebSocket at the app.
pub(crate) async fn open(
    forward_request: ForwardRequest<'_>,
    mut request: Box<Request<Incoming>>,
) -> Result<Response, ForwardError> {
    let ForwardRequest { worker, client, host, authorized, .. } = forward_request;
    let grant = authorized.grant;
    let route = Arc::clone(&grant.decision().route);
    let upstream = route.upstream().ok_or(ForwardError::Ended(EndReason::UpstreamGone))?;
    let Ok(place) = worker.websockets.take(route.app.workspace.clone()) else {
        return Ok(error_pages::too_many_websockets().render(ResponseForm::Json));
    };
    let client_upgrade = hyper::upgrade::on(&mut *request);
    let over_http2 = request.version() == Version::HTTP_2;
    let scheme = if route.secure { "https" } else { "http" };
    let forwarding = Forwarding { client: &client.address, scheme, host, version: request.version() };
    let request = to_app(request, forwarding, authorized.identity.as_ref(), over_http2);

    let connected = grant.run_until_ended(worker.pool.connect(&authorized.permit, upstream)).await;
    let mut sender = connected.map_err(ForwardError::Ended)??;
    let sent = grant.run_until_ended(sender.send_request(request)).await.map_err(ForwardError::Ended)?;
    let mut response = sent.map_err(ForwardError::Response)?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Ok(to_client(worker, grant, response, None, None));
    }
    if !headers::lists(response.headers(), &UPGRADE, "websocket") {
        return Ok(error_pages::app_failed(&route).render(ResponseForm::Json));
    }
    let app_upgrade = hyper::upgrade::on(&mut response);
    client.upgrade.set();
    let handshake = handshake_response(&response, &route.host, over_http2);
    grant.touch(worker.limits.tunnel);
    let limits = worker.limits;
    tokio::spawn(async move {
        tunnel(client_upgrade, app_upgrade, grant, limits).await;
        drop(place);
    });
    Ok(handshake)
}

fn to_app(
    request: Box<Request<Incoming>>,
    forwarding: Forwarding<'_>,
    identity: Option<&ForwardedIdentity>,
    over_http2: bool,
) -> Request<RequestBody> {
    let (mut head, _) = request.into_parts();
    headers::to_app(&mut head.headers, forwarding, identity);
    head.headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    head.headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    if over_http2 {
        // HTTP/2 has no such key; the app checks no more than its form.
        let mut random = [0; 16];
        if getrandom::fill(&mut random).is_ok()
            && let Ok(key) = HeaderValue::from_str(&BASE64.encode(random))
        {
            head.headers.insert(SEC_WEBSOCKET_KEY, key);
        }
    }
    head.method = Method::GET;
    head.version = Version::HTTP_11;
    head.uri = head.uri.path_and_query().cloned().map(Uri::from).unwrap_or_default();
    head.extensions.clear();
    Request::from_parts(head, RequestBody::Empty)
}

fn handshake_response(app: &http::Response<Incoming>, host: &str, over_http2: bool) -> Response {
    let mut response = http::Response::new(ResponseBody::Own(None));
    *response.headers_mut() = app.headers().clone();
    headers::to_client(response.headers_mut(), host);
    if over_http2 {
        response.headers_mut().remove(SEC_WEBSOCKET_ACCEPT);
    } else {
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        response.headers_mut().insert(UPGRADE, HeaderValue::from_static("websocket"));
    }
    response
}

async fn tunnel(client: OnUpgrade, app: OnUpgrade, grant: Arc<Grant>, limits: Limits) {
    let both = grant.run_until_ended(async { tokio::try_join!(client, app) }).await;
    let Ok(Ok((client, app))) = both else { return };
    let (client, app) = (TokioIo::new(client), TokioIo::new(app));
    // How the tunnel ends is between the client and the app.
    drop(Tunnel::new(client, app, grant, limits.tunnel).await);
}
