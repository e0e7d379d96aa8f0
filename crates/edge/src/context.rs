//! Values that travel with a request through the pipeline.

use std::net::IpAddr;
use std::sync::Arc;

use http::HeaderValue;
use rigbox_core::app_access::AppPermit;
use rigbox_gateway::connections::ConnectionGuard;

use crate::decision::access_request::Grant;
use crate::decision::route::ForwardedIdentity;
use crate::inbound::http1::UpgradeFlag;
use crate::request::classify::Classification;
use crate::state::Worker;

/// Client at the other end of a connection.
#[derive(Debug)]
pub(crate) struct Client {
    /// Address for `X-Forwarded-For`.
    pub(crate) address: HeaderValue,
    /// Address for limits and for control.
    pub(crate) ip: IpAddr,
    pub(crate) upgrade: Arc<UpgradeFlag>,
    pub(crate) guard: Arc<ConnectionGuard>,
    /// Port to redirect to, if the client connected without TLS where TLS is configured.
    pub(crate) redirect_to_tls: Option<u16>,
}

impl Client {
    /// Returns a client address as a header value.
    pub(crate) fn address(ip: IpAddr) -> HeaderValue {
        // An IPv4 client of an IPv6 socket is shown as IPv4.
        HeaderValue::from_str(&ip.to_canonical().to_string()).unwrap_or(HeaderValue::from_static("unknown"))
    }
}

/// Access of one request to its app.
pub(crate) struct Authorized {
    pub(crate) permit: AppPermit,
    pub(crate) grant: Arc<Grant>,
    /// Identity to forward to the app.
    pub(crate) identity: Option<ForwardedIdentity>,
}

/// Everything needed to forward a request.
pub(crate) struct ForwardRequest<'a> {
    pub(crate) worker: &'a Arc<Worker>,
    pub(crate) client: &'a Arc<Client>,
    pub(crate) host: HeaderValue,
    pub(crate) authorized: Authorized,
    pub(crate) classification: Classification,
}
