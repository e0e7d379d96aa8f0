//! Control's decisions about apps and credentials, through the cache.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use http::HeaderMap;
use rigbox_core::app_access::{Caller, CredentialSource};
use rigbox_core::ids::WorkspaceId;
use rigbox_gateway::attempts::{FailedAttempts, Quota, quota};
use rigbox_gateway::clock::unix_ms;
use rigbox_gateway::control_client::{ControlClient, Question};
use rigbox_proto::gateway::gateway_client::GatewayClient;
use rigbox_proto::gateway::{
    IdentifyRequest, RedeemRequest, RedeemResponse, ResolveRequest, identify_request,
};
use rigbox_shares::AddressBlock;
use tonic::Code;
use zeroize::Zeroizing;

use crate::decision::cache::{CredentialDigest, DecisionCache};
use crate::decision::route::{Identity, Route};
use crate::request::cookies::APP;

/// Time for which an invalid credential is cached, in milliseconds.
const INVALID_TTL_MS: i64 = 10_000;

/// Invalid credentials of a client a minute, after a burst: the sessions of an office behind one address may all have expired.
const INVALID_CREDENTIALS: Quota = quota(60, 200);

/// Maximum length of a credential; the rest is cut off.
const MAX_CREDENTIAL_LEN: usize = 4096;

/// Error of a request to control.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ControlError {
    /// Control does not respond, or not in time.
    #[error("control does not respond: {0}")]
    Unavailable(String),
    /// The reply is invalid.
    #[error("control's reply about {0} is invalid: all roles have to be of one version")]
    InvalidReply(&'static str),
    /// The client presented too many invalid credentials.
    #[error("too many invalid credentials of one client")]
    TooManyAttempts,
}

/// On whose behalf control is asked.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Asker<'a> {
    /// A client, for a request.
    Client(IpAddr),
    /// Edge itself, about what is open at this workspace.
    Review(&'a WorkspaceId),
}

/// Credential of the platform. It does not print.
#[derive(Clone)]
pub(crate) struct Credential {
    pub(crate) source: CredentialSource,
    secret: Arc<Zeroizing<String>>,
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credential(..)")
    }
}

impl Credential {
    pub(crate) fn new(source: CredentialSource, secret: &str) -> Self {
        let secret = secret.get(..secret.len().min(MAX_CREDENTIAL_LEN)).unwrap_or_default();
        Self { source, secret: Arc::new(Zeroizing::new(secret.to_owned())) }
    }

    /// Returns the session of the app that a request carries.
    pub(crate) fn session(headers: &HeaderMap, secure: bool) -> Option<Self> {
        APP.value(headers, secure).map(|session| Self::new(CredentialSource::Cookie, session))
    }

    fn digest_at(&self, app: &str) -> CredentialDigest {
        let mut hasher = blake3::Hasher::new();
        hasher
            .update(if self.source == CredentialSource::Header { b"k" } else { b"c" })
            .update(app.as_bytes())
            .update(b"\0");
        hasher.update(self.secret.as_bytes());
        *hasher.finalize().as_bytes()
    }
}

/// Control, behind the cache of its decisions.
#[derive(Debug)]
pub(crate) struct Control {
    client: ControlClient,
    pub(crate) attempts: FailedAttempts<AddressBlock>,
    pub(crate) cache: DecisionCache,
}

impl Control {
    pub(crate) fn new(socket: &Path) -> Self {
        Self {
            client: ControlClient::new(socket),
            attempts: FailedAttempts::new(INVALID_CREDENTIALS),
            cache: DecisionCache::new(),
        }
    }

    /// Returns the client, for the watch.
    pub(crate) fn client(&self) -> &ControlClient {
        &self.client
    }

    /// Returns the route of a host, or `None` if it has no app.
    pub(crate) async fn route(
        &self,
        host: &str,
        asker: Asker<'_>,
    ) -> Result<Option<Arc<Route>>, ControlError> {
        match self.cache.route(host) {
            Some(cached) => Ok(cached),
            // Boxed, as is everything large and rare: a request's future is moved as a whole.
            None => Box::pin(self.request_route(host, asker)).await,
        }
    }

    async fn request_route(&self, host: &str, asker: Asker<'_>) -> Result<Option<Arc<Route>>, ControlError> {
        let epoch = self.cache.epochs().current();
        let request = ResolveRequest { host: host.to_owned() };
        let question = match asker {
            Asker::Client(client) => Question::Route(client.into()),
            Asker::Review(workspace) => Question::Review(workspace),
        };
        match self
            .client
            .request(question, async |channel| GatewayClient::new(channel).resolve(request).await)
            .await
        {
            Ok(route) => {
                let route = Route::parse(host, epoch, route).ok_or(ControlError::InvalidReply("a host"))?;
                let route = Arc::new(route);
                self.cache.add_route(host, &route);
                Ok(Some(route))
            }
            Err(status) if status.code() == Code::NotFound => {
                self.cache.add_absent(host, epoch);
                Ok(None)
            }
            Err(status) => Err(ControlError::Unavailable(status.message().to_owned())),
        }
    }

    /// Returns the identity of a credential at an app.
    pub(crate) async fn identity(
        &self,
        credential: &Credential,
        app: &str,
        asker: Asker<'_>,
    ) -> Result<Arc<Identity>, ControlError> {
        let (digest, now) = (credential.digest_at(app), unix_ms());
        match self.cache.identity(&digest, now) {
            Some(cached) => Ok(cached),
            None => Box::pin(self.request_identity(credential, app, asker, digest, now)).await,
        }
    }

    async fn request_identity(
        &self,
        credential: &Credential,
        app: &str,
        asker: Asker<'_>,
        digest: CredentialDigest,
        now: i64,
    ) -> Result<Arc<Identity>, ControlError> {
        let question = match asker {
            Asker::Client(client) if !self.attempts.may_try(&client.into()) => {
                return Err(ControlError::TooManyAttempts);
            }
            Asker::Client(client) => Question::Identity(client.into()),
            Asker::Review(workspace) => Question::Review(workspace),
        };
        let epoch = self.cache.epochs().current();
        let secret = credential.secret.to_string();
        let request = IdentifyRequest {
            credential: Some(match credential.source {
                CredentialSource::Header => identify_request::Credential::Key(secret),
                CredentialSource::Cookie => identify_request::Credential::AppSession(secret),
            }),
            app_id: app.to_owned(),
            client_address: match asker {
                Asker::Client(client) => client.to_string(),
                Asker::Review(_) => String::new(),
            },
        };
        let reply = self
            .client
            .request(question, async |channel| GatewayClient::new(channel).identify(request).await)
            .await;
        let reply = reply.map_err(|status| ControlError::Unavailable(status.message().to_owned()))?;
        let identity = Identity::parse(credential.source, epoch, reply, now + INVALID_TTL_MS)
            .ok_or(ControlError::InvalidReply("a credential"))?;
        let identity = Arc::new(identity);
        self.cache.add_identity(digest, &identity);
        if let (Asker::Client(client), Caller::Invalid) = (asker, &identity.caller) {
            self.attempts.failed(client.into());
        }
        Ok(identity)
    }

    /// Exchanges a code for a session of the app. Returns `None` if the code is invalid.
    pub(crate) async fn redeem(
        &self,
        code: &str,
        route: &Route,
        state: &str,
        client: IpAddr,
    ) -> Result<Option<RedeemResponse>, ControlError> {
        let request = RedeemRequest {
            code: code.to_owned(),
            app_id: route.app.id.to_string(),
            state: state.to_owned(),
            host: route.host.clone(),
        };
        let question = Question::Handoff(client.into());
        match self
            .client
            .request(question, async |channel| GatewayClient::new(channel).redeem(request).await)
            .await
        {
            Ok(redeemed) => Ok(Some(redeemed)),
            Err(status) if matches!(status.code(), Code::PermissionDenied | Code::InvalidArgument) => {
                Ok(None)
            }
            Err(status) => Err(ControlError::Unavailable(status.message().to_owned())),
        }
    }
}
