//! A request that may go on goes to its app, and the app's answer to the client.

use std::sync::Arc;

use http::header::{HOST, TE};
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, Version};
use http_body::Body;
use hyper::body::Incoming;

use crate::Core;
use crate::answer::{self, Answer, Message, Wanted};
use crate::body::{App, Down, Up};
use crate::exchange::{Ended, Exchange};
use crate::facts;
use crate::handle::{Client, Decided};
use crate::headers::{self, Way};
use crate::known::Change;
use crate::pool::{ConnectError, Sender};
use crate::route::{Route, State};
use crate::websocket;

/// All that leaving for the app takes.
pub(crate) struct Leave<'a> {
    pub(crate) core: &'a Arc<Core>,
    pub(crate) client: &'a Arc<Client>,
    pub(crate) host: HeaderValue,
    pub(crate) decided: Decided,
}

/// Why there is no answer of the app.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failed {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("the app's answer: {0}")]
    Answer(hyper::Error),
    #[error("ended: {0:?}")]
    Ended(Ended),
}

/// Forwards a request.
pub(crate) async fn forward(leave: Leave<'_>, request: Box<Request<Incoming>>) -> Answer {
    let route = Arc::clone(&leave.decided.exchange.route);
    match route.state {
        State::Up(_) => {}
        State::AppStopped => return answer::app_stopped(&route).answer(request.headers()),
        State::WorkspaceDown => return answer::workspace_down(&route).answer(request.headers()),
    }
    let wanted = Wanted::by(request.headers());
    let core = leave.core;
    let forwarded = if facts::is_websocket(&request) {
        Box::pin(websocket::open(leave, request)).await
    } else {
        send(leave, request, wanted).await
    };
    forwarded.unwrap_or_else(|failed| failure(core, &route, &failed).said(wanted))
}

fn failure(core: &Core, route: &Route, failed: &Failed) -> Message {
    let message = match failed {
        Failed::Connect(error) => {
            // What control said of this VM may be out of date; the next request asks again.
            if matches!(error, ConnectError::Dial(crate::dial::DialError::NoVm)) {
                core.control.known.forget(&Change::Workspace(route.app.workspace.clone()));
            }
            answer::not_connected(error, route)
        }
        Failed::Answer(_) => answer::app_failed(route),
        Failed::Ended(why) => answer::ended(*why, route),
    };
    tracing::debug!(app = %route.name, error = %failed, "no answer of an app");
    message
}

async fn send(leave: Leave<'_>, request: Box<Request<Incoming>>, wanted: Wanted) -> Result<Answer, Failed> {
    let Leave { core, client, host, decided } = leave;
    let exchange = Arc::clone(&decided.exchange);
    // HTTP/2 goes to the app only for what needs it.
    let grpc = request.version() == Version::HTTP_2 && wanted == Wanted::Grpc;
    let request = for_app(core, client, host, &decided, request, grpc);
    let (response, back) = if grpc {
        (Box::pin(shared(core, &decided, request)).await?, None)
    } else {
        let (response, sender) = alone(core, &decided, request).await?;
        (response, Some((sender, Arc::clone(core))))
    };
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return Ok(answer::app_failed(&exchange.route).said(wanted));
    }
    Ok(for_client(core, exchange, response, back))
}

fn for_app(
    core: &Core,
    client: &Client,
    host: HeaderValue,
    decided: &Decided,
    request: Box<Request<Incoming>>,
    grpc: bool,
) -> Request<Up> {
    let (mut head, body) = request.into_parts();
    let trailers = headers::lists(&head.headers, &TE, "trailers");
    let exchange = &decided.exchange;
    let scheme = if exchange.route.secure { "https" } else { "http" };
    let way = Way { client: &client.address, scheme, host };
    headers::to_app(&mut head.headers, way, decided.person.as_ref());
    if grpc {
        head.uri = absolute(&head.uri, head.headers.get(HOST));
        head.headers.remove(HOST);
        if trailers {
            head.headers.insert(TE, HeaderValue::from_static("trailers"));
        }
        head.version = Version::HTTP_2;
    } else {
        // The address as a path; it came whole from a proxy's client, or by HTTP/2.
        if head.uri.authority().is_some() {
            let path = head.uri.path_and_query().cloned();
            head.uri = path.map(Uri::from).unwrap_or_default();
        }
        head.version = Version::HTTP_11;
    }
    head.extensions.clear();
    let body = if body.is_end_stream() {
        Up::Nothing
    } else {
        Up::Client { body, exchange: Arc::clone(exchange), patience: core.limits.answer }
    };
    Request::from_parts(head, body)
}

fn absolute(uri: &Uri, host: Option<&HeaderValue>) -> Uri {
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(http::uri::Scheme::HTTP);
    parts.authority = host.and_then(|host| host.as_bytes().try_into().ok());
    parts.path_and_query = uri.path_and_query().cloned();
    Uri::from_parts(parts).unwrap_or_default()
}

/// On a connection that is this request's until its answer has ended.
async fn alone(
    core: &Core,
    decided: &Decided,
    mut request: Request<Up>,
) -> Result<(Response<Incoming>, Sender), Failed> {
    let exchange = &decided.exchange;
    let upstream = exchange.route.upstream().ok_or(Failed::Ended(Ended::Gone))?;
    while let Some((mut sender, old)) = core.pool.take(&decided.permit, upstream).await {
        // The app may close a connection that has waited at the moment we use it: then a request that changes nothing is sent again.
        let again = (old && is_repeatable(&request)).then(|| Box::new(copy(&request)));
        let sent = exchange.unless_ended(sender.try_send_request(request)).await.map_err(Failed::Ended)?;
        match sent {
            Ok(response) => return Ok((response, sender)),
            Err(mut error) => match (error.take_message(), again) {
                (Some(unsent), _) => request = unsent,
                (None, Some(copy)) => request = *copy,
                (None, None) => return Err(Failed::Answer(error.into_error())),
            },
        }
    }
    let connected = exchange.unless_ended(Box::pin(core.pool.connect(&decided.permit, upstream))).await;
    let mut sender = connected.map_err(Failed::Ended)??;
    let sent = exchange.unless_ended(sender.send_request(request)).await.map_err(Failed::Ended)?;
    Ok((sent.map_err(Failed::Answer)?, sender))
}

fn is_repeatable(request: &Request<Up>) -> bool {
    matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS)
        && request.body().is_end_stream()
}

fn copy(request: &Request<Up>) -> Request<Up> {
    let mut copy = Request::new(Up::Nothing);
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.headers_mut() = request.headers().clone();
    copy
}

/// On a connection that many share.
async fn shared(core: &Core, decided: &Decided, request: Request<Up>) -> Result<Response<Incoming>, Failed> {
    let exchange = &decided.exchange;
    let upstream = exchange.route.upstream().ok_or(Failed::Ended(Ended::Gone))?;
    let sent = async {
        let mut sender = core.pool.connect_shared(&decided.permit, upstream).await?;
        sender.ready().await.map_err(Failed::Answer)?;
        sender.send_request(request).await.map_err(Failed::Answer)
    };
    exchange.unless_ended(sent).await.map_err(Failed::Ended)?
}

/// An app's answer, on its way to the client.
pub(crate) fn for_client(
    core: &Core,
    exchange: Arc<Exchange>,
    response: Response<Incoming>,
    back: Option<(Sender, Arc<Core>)>,
) -> Answer {
    let (mut head, body) = response.into_parts();
    headers::to_client(&mut head.headers, &exchange.route.host);
    head.version = Version::HTTP_11;
    head.extensions.clear();
    let patience = core.limits.idle;
    exchange.moves(patience);
    let mut app = App { body, exchange, patience, back };
    app.give_back_at_end();
    Response::from_parts(head, Down::App(app))
}
