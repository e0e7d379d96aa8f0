//! The way of one request: which host, whose path, who asks, what that opens, and only then the app.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;

use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, LOCATION, ORIGIN,
    VARY,
};
use http::{HeaderMap, HeaderValue, Request, StatusCode};
use hyper::body::Incoming;
use rigbox_core::app_access::{AppPermit, CredentialSource, Refusal, RequestKind};

use crate::Core;
use crate::address::{Whose, has_token, whose};
use crate::answer::{self, Answer, Message};
use crate::control::Credential;
use crate::cookies::APP;
use crate::exchange::{Asked, Busy, Exchange};
use crate::facts;
use crate::forward::{self, Leave};
use crate::gate::{self, NotAdmitted};
use crate::headers::{KEY, Person};
use crate::host::Host;
use crate::line::Place;
use crate::own;
use crate::route::Route;
use crate::strict::{MALFORMED, Switch};

/// The client at the other end of a connection.
#[derive(Debug)]
pub(crate) struct Client {
    /// Its address, for `X-Forwarded-For`.
    pub(crate) address: HeaderValue,
    pub(crate) switch: Arc<Switch>,
    pub(crate) place: Arc<Place>,
    /// It came on the port without TLS, and there is one with.
    pub(crate) to_tls: Option<u16>,
}

impl Client {
    pub(crate) fn address(ip: IpAddr) -> HeaderValue {
        // An IPv4 client of an IPv6 socket is one all the same.
        HeaderValue::from_str(&ip.to_canonical().to_string()).unwrap_or(HeaderValue::from_static("unknown"))
    }
}

/// A credential is not longer than this.
const LONGEST_CREDENTIAL: usize = 4096;
/// What changes while it is being decided is decided again, so many times.
const ATTEMPTS: usize = 4;
/// Most that is repeated of what a preflight asks for.
const LONGEST_LIST: usize = 4096;

/// Answers a request.
pub(crate) async fn handle(
    core: Arc<Core>,
    client: Arc<Client>,
    request: Box<Request<Incoming>>,
    busy: Busy,
) -> Result<Answer, Infallible> {
    Ok(match accept(&core, &client, request, busy).await {
        Ok(answer) => answer,
        Err(refused) => *refused,
    })
}

/// The error is an answer too; boxed, because it is large and rare.
async fn accept(
    core: &Arc<Core>,
    client: &Arc<Client>,
    request: Box<Request<Incoming>>,
    busy: Busy,
) -> Result<Answer, Box<Answer>> {
    let said = |message: &Message, headers: &HeaderMap| Box::new(message.answer(headers));
    let headers = request.headers();
    if let Some(problem) = headers.get(MALFORMED) {
        let problem = String::from_utf8_lossy(problem.as_bytes());
        let text = format!("The request is malformed: {problem}.");
        return Err(said(&answer::bad_request("malformed_request", text), headers));
    }
    let host = Host::of(&request)
        .map_err(|problem| said(&answer::bad_request("bad_host", problem.to_string()), headers))?;
    if let Some(port) = client.to_tls {
        return Err(Box::new(to_tls(&host.name, port, &request)));
    }
    let whose = address(&request).map_err(|message| said(&message, headers))?;
    if !core.control.known.leased(core.limits.control).await {
        return Err(said(&answer::unavailable(), headers));
    }
    if let Whose::Own(rest) = whose {
        let route = route(core, &host.name).await.map_err(|message| said(&message, headers))?;
        let keys = core.assertion_keys.read().map(|keys| keys.clone()).unwrap_or_default();
        return Ok(Box::pin(own::answer(&core.control, &keys, &route, &request, rest)).await);
    }
    if whose == Whose::Nobodys {
        return Ok(own::nobodys(headers));
    }
    let decided = decide(core, &host.name, &request, &busy).await?;
    let leave = Leave { core, client, host: host.text, decided };
    Ok(forward::forward(leave, request).await)
}

/// What the address is, unless it is none for an app.
fn address<B>(request: &Request<B>) -> Result<Whose<'_>, Message> {
    let uri = request.uri();
    // Only extended CONNECT (RFC 8441) has a path.
    let path = uri.path();
    if !path.starts_with('/') && path != "*" {
        return Err(answer::bad_request("bad_address", "The request's address is not a path."));
    }
    if request.method() == http::Method::CONNECT && !facts::is_websocket(request) {
        return Err(answer::bad_request("bad_method", "CONNECT is answered for WebSockets only."));
    }
    if uri.path_and_query().is_some_and(|address| has_token(address.as_str())) {
        let text = "A key stands in the address, where it may be written into logs. Revoke it, and send keys \
                    in the header X-Rigbox-Key.";
        return Err(answer::bad_request("key_in_address", text));
    }
    Ok(whose(path))
}

/// http to https.
fn to_tls<B>(host: &str, port: u16, request: &Request<B>) -> Answer {
    let path = request.uri().path_and_query().map_or("/", |address| address.as_str());
    let port = if port == 443 { String::new() } else { format!(":{port}") };
    let mut answer = answer::own(StatusCode::PERMANENT_REDIRECT, None);
    if let Ok(address) = HeaderValue::from_str(&format!("https://{host}{port}{path}")) {
        answer.headers_mut().insert(LOCATION, address);
    }
    answer
}

async fn route(core: &Core, host: &str) -> Result<Arc<Route>, Message> {
    match core.control.route(host).await {
        Ok(Some(route)) => Ok(route),
        Ok(None) if core.is_below_domain(host) => Err(answer::no_app(host)),
        Ok(None) => Err(answer::misdirected(host)),
        Err(error) => {
            tracing::warn!(%error, host, "what stands at a host cannot be told");
            Err(answer::unavailable())
        }
    }
}

/// A request that may go on.
pub(crate) struct Decided {
    pub(crate) permit: AppPermit,
    pub(crate) exchange: Arc<Exchange>,
    /// Whom the app is told of.
    pub(crate) person: Option<Person>,
}

/// Decides about a request, and enters it among those that a change is looked for in.
async fn decide<B>(
    core: &Core,
    host: &str,
    request: &Request<B>,
    busy: &Busy,
) -> Result<Decided, Box<Answer>> {
    let headers = request.headers();
    for _ in 0..ATTEMPTS {
        let route = route(core, host).await.map_err(|message| Box::new(message.answer(headers)))?;
        let kind = facts::kind(request, &route.cors_origins);
        let asked = Asked {
            credential: credential(headers, route.secure),
            kind,
            source: facts::source(request, &route.origin, kind == RequestKind::WebSocket),
        };
        let admitted = match gate::admit(&core.control, &route, &asked).await {
            Ok(admitted) => admitted,
            Err(NotAdmitted::Refused(refusal)) => {
                return Err(Box::new(refused(refusal, &route, request, asked.credential.as_ref())));
            }
            Err(NotAdmitted::Control(error)) => {
                tracing::warn!(%error, "whom a credential stands for cannot be told");
                return Err(Box::new(answer::unavailable().answer(headers)));
            }
        };
        let user = admitted.identity.as_deref().filter(|_| admitted.permit.user().is_some());
        let exchange =
            core.exchanges.begin(asked, Arc::clone(&route), user, busy.clone(), core.limits.answer);
        let known = &core.control.known;
        let current = known.is_leased()
            && known.is_current(&route)
            && admitted.identity.as_ref().is_none_or(|identity| known.is_current_identity(identity));
        if current {
            let person = user.and_then(|user| user.person.clone());
            return Ok(Decided { permit: admitted.permit, exchange, person });
        }
    }
    Err(Box::new(answer::unavailable().answer(headers)))
}

/// The credential that counts: what a program shows on purpose before what a browser sends along.
fn credential(headers: &HeaderMap, secure: bool) -> Option<Credential> {
    let bounded = |text: &str| text.get(..text.len().min(LONGEST_CREDENTIAL)).unwrap_or_default().to_owned();
    if headers.contains_key(KEY) {
        // Two are as good as a wrong one.
        let key = crate::headers::only(headers, KEY).unwrap_or_default();
        return Some(Credential::new(CredentialSource::Header, &bounded(key)));
    }
    APP.value(headers, secure).map(|session| Credential::new(CredentialSource::Cookie, &bounded(session)))
}

fn refused<B>(
    refusal: Refusal,
    route: &Route,
    request: &Request<B>,
    credential: Option<&Credential>,
) -> Answer {
    let headers = request.headers();
    match refusal {
        Refusal::SignIn => {
            let path = request.uri().path_and_query().map_or("/", |address| address.as_str());
            own::sign_in(route, headers, path)
        }
        Refusal::PreflightAllowed => preflight(headers),
        Refusal::InvalidCredential
            if credential.is_some_and(|credential| credential.by == CredentialSource::Cookie) =>
        {
            let mut answer = answer::refused(refusal).answer(headers);
            own::forget_session(&mut answer, route);
            answer
        }
        refusal => answer::refused(refusal).answer(headers),
    }
}

/// 204 for an origin that is listed.
fn preflight(headers: &HeaderMap) -> Answer {
    let mut answer = answer::own(StatusCode::NO_CONTENT, None);
    let bounded = |name| headers.get(name).filter(|value| value.len() <= LONGEST_LIST).cloned();
    let pairs = [
        (ACCESS_CONTROL_ALLOW_ORIGIN, bounded(ORIGIN)),
        (ACCESS_CONTROL_ALLOW_METHODS, bounded(ACCESS_CONTROL_REQUEST_METHOD)),
        (ACCESS_CONTROL_ALLOW_HEADERS, bounded(ACCESS_CONTROL_REQUEST_HEADERS)),
        (ACCESS_CONTROL_MAX_AGE, Some(HeaderValue::from_static("60"))),
        (VARY, Some(HeaderValue::from_static("origin"))),
    ];
    for (name, value) in pairs {
        if let Some(value) = value {
            answer.headers_mut().insert(name, value);
        }
    }
    answer
}
