//! A WebSocket: opened at the app as RFC 6455 says, whether the client opened it so or by HTTP/2 (RFC 8441). After that its bytes pass
//! unread.

use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_STANDARD as BASE64;
use http::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE};
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, Version};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;

use crate::answer::{self, Answer, Wanted};
use crate::body::{Down, Up};
use crate::exchange::{Ended, Exchange};
use crate::forward::{Failed, Leave, for_client};
use crate::headers::{self, Way};
use crate::relay::Relay;

/// Opens one at the app.
pub(crate) async fn open(leave: Leave<'_>, mut request: Box<Request<Incoming>>) -> Result<Answer, Failed> {
    let Leave { core, client, host, decided } = leave;
    let exchange = decided.exchange;
    let upstream = exchange.route.upstream().ok_or(Failed::Ended(Ended::Gone))?;
    let on_client = hyper::upgrade::on(&mut *request);
    let shared = request.version() == Version::HTTP_2;
    let scheme = if exchange.route.secure { "https" } else { "http" };
    let way = Way { client: &client.address, scheme, host };
    let request = for_app(request, way, decided.person.as_ref(), shared);

    let connected = exchange.unless_ended(core.pool.connect(&decided.permit, upstream)).await;
    let mut sender = connected.map_err(Failed::Ended)??;
    let sent = exchange.unless_ended(sender.send_request(request)).await.map_err(Failed::Ended)?;
    let mut response = sent.map_err(Failed::Answer)?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Ok(for_client(core, exchange, response, None));
    }
    if !headers::lists(response.headers(), &UPGRADE, "websocket") {
        return Ok(answer::app_failed(&exchange.route).said(Wanted::Json));
    }
    let on_app = hyper::upgrade::on(&mut response);
    client.switch.to_raw();
    let answer = opened(&response, &exchange, shared);
    exchange.moves(core.limits.relay);
    tokio::spawn(relay(on_client, on_app, exchange, core.limits));
    Ok(answer)
}

fn for_app(
    request: Box<Request<Incoming>>,
    way: Way<'_>,
    person: Option<&headers::Person>,
    shared: bool,
) -> Request<Up> {
    let (mut head, _) = request.into_parts();
    headers::to_app(&mut head.headers, way, person);
    head.headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    head.headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    if shared {
        // HTTP/2 has no such handshake; the app checks no more than its form.
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
    Request::from_parts(head, Up::Nothing)
}

fn opened(response: &Response<Incoming>, exchange: &Exchange, shared: bool) -> Answer {
    let mut answer = Response::new(Down::Own(None));
    *answer.headers_mut() = response.headers().clone();
    headers::to_client(answer.headers_mut(), &exchange.route.host);
    if shared {
        answer.headers_mut().remove(SEC_WEBSOCKET_ACCEPT);
    } else {
        *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        answer.headers_mut().insert(UPGRADE, HeaderValue::from_static("websocket"));
    }
    answer
}

async fn relay(on_client: OnUpgrade, on_app: OnUpgrade, exchange: Arc<Exchange>, limits: crate::Limits) {
    let both = exchange.unless_ended(async { tokio::try_join!(on_client, on_app) }).await;
    let Ok(Ok((client, app))) = both else { return };
    let (client, app) = (TokioIo::new(client), TokioIo::new(app));
    // How it ends is between the two.
    drop(Relay::new(client, app, exchange, limits.relay).await);
}
