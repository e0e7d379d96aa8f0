//! Control, as this role asks it: each question with its time-out, and not too many at once.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rigbox_core::app_access::CredentialSource;
use rigbox_proto::gateway::gateway_client::GatewayClient;
use rigbox_proto::gateway::{
    IdentifyRequest, RedeemRequest, RedeemResponse, ResolveRequest, identify_request,
};
use rigbox_proto::transport::unix;
use tokio::sync::Semaphore;
use tonic::transport::Channel;
use tonic::{Code, Status};
use zeroize::Zeroizing;

use crate::known::{Known, Shown};
use crate::route::{Identity, Route};

/// An answer that takes longer is none.
const PATIENCE: Duration = Duration::from_secs(5);
/// Questions at once.
const AT_ONCE: usize = 256;
/// How long a credential that does not count is not asked about again.
const INVALID_FOR_MS: i64 = 10_000;

/// Why control said nothing of use.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ControlError {
    /// It does not answer, or not in time.
    #[error("control does not answer: {0}")]
    Away(String),
    /// Its answer makes no sense.
    #[error("control's answer about {0} makes no sense: see that all roles are of one version")]
    Nonsense(&'static str),
}

/// A credential of the platform. It does not print.
#[derive(Clone)]
pub(crate) struct Credential {
    pub(crate) by: CredentialSource,
    secret: Arc<Zeroizing<String>>,
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credential(..)")
    }
}

impl Credential {
    pub(crate) fn new(by: CredentialSource, secret: &str) -> Self {
        Self { by, secret: Arc::new(Zeroizing::new(secret.to_owned())) }
    }

    fn shown_to(&self, app: &str) -> Shown {
        let mut hasher = blake3::Hasher::new();
        hasher
            .update(if self.by == CredentialSource::Header { b"k" } else { b"c" })
            .update(app.as_bytes())
            .update(b"\0");
        hasher.update(self.secret.as_bytes());
        *hasher.finalize().as_bytes()
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Control {
    channel: Channel,
    pub(crate) known: Known,
    questions: Semaphore,
}

impl Control {
    pub(crate) fn new(socket: &Path) -> Self {
        Self { channel: unix::channel(socket), known: Known::new(), questions: Semaphore::new(AT_ONCE) }
    }

    pub(crate) fn client(&self) -> GatewayClient<Channel> {
        GatewayClient::new(self.channel.clone())
    }

    /// What stands at `host`; `None`: nothing.
    pub(crate) async fn route(&self, host: &str) -> Result<Option<Arc<Route>>, ControlError> {
        match self.known.route(host) {
            Some(known) => Ok(known),
            // Boxed, as is everything large and rare: a request's future is moved as a whole.
            None => Box::pin(self.ask_route(host)).await,
        }
    }

    async fn ask_route(&self, host: &str) -> Result<Option<Arc<Route>>, ControlError> {
        let moment = self.known.moment();
        let request = ResolveRequest { host: host.to_owned() };
        match self.ask(async |mut client| client.resolve(request).await).await {
            Ok(route) => {
                let route = Route::read(host, moment, route).ok_or(ControlError::Nonsense("a host"))?;
                let route = Arc::new(route);
                self.known.add_route(host, &route);
                Ok(Some(route))
            }
            Err(status) if status.code() == Code::NotFound => {
                self.known.add_absent(host, moment);
                Ok(None)
            }
            Err(status) => Err(ControlError::Away(status.message().to_owned())),
        }
    }

    /// Whom `credential` stands for at an app.
    pub(crate) async fn identity(
        &self,
        credential: &Credential,
        app: &str,
    ) -> Result<Arc<Identity>, ControlError> {
        let (shown, now) = (credential.shown_to(app), now_ms());
        match self.known.identity(&shown, now) {
            Some(known) => Ok(known),
            None => Box::pin(self.ask_identity(credential, app, shown, now)).await,
        }
    }

    async fn ask_identity(
        &self,
        credential: &Credential,
        app: &str,
        shown: Shown,
        now: i64,
    ) -> Result<Arc<Identity>, ControlError> {
        let moment = self.known.moment();
        let secret = credential.secret.to_string();
        let request = IdentifyRequest {
            credential: Some(match credential.by {
                CredentialSource::Header => identify_request::Credential::Key(secret),
                CredentialSource::Cookie => identify_request::Credential::AppSession(secret),
            }),
            app_id: app.to_owned(),
        };
        let answer = self.ask(async |mut client| client.identify(request).await).await;
        let answer = answer.map_err(|status| ControlError::Away(status.message().to_owned()))?;
        let identity = Identity::read(credential.by, moment, answer, now + INVALID_FOR_MS)
            .ok_or(ControlError::Nonsense("a credential"))?;
        let identity = Arc::new(identity);
        self.known.add_identity(shown, &identity);
        Ok(identity)
    }

    /// Turns a code into a session; `None`: the code is good for nothing.
    pub(crate) async fn redeem(
        &self,
        code: &str,
        app: &str,
        state: &str,
    ) -> Result<Option<RedeemResponse>, ControlError> {
        let request =
            RedeemRequest { code: code.to_owned(), app_id: app.to_owned(), state: state.to_owned() };
        match self.ask(async |mut client| client.redeem(request).await).await {
            Ok(redeemed) => Ok(Some(redeemed)),
            Err(status) if matches!(status.code(), Code::PermissionDenied | Code::InvalidArgument) => {
                Ok(None)
            }
            Err(status) => Err(ControlError::Away(status.message().to_owned())),
        }
    }

    async fn ask<T>(
        &self,
        question: impl AsyncFnOnce(GatewayClient<Channel>) -> Result<tonic::Response<T>, Status>,
    ) -> Result<T, Status> {
        let asked = async {
            let _one = self.questions.acquire().await.map_err(|_| Status::unavailable("the role ends"))?;
            question(self.client()).await
        };
        let answer = tokio::time::timeout(PATIENCE, asked).await;
        Ok(answer.map_err(|_| Status::deadline_exceeded("no answer in 5 s"))??.into_inner())
    }
}

/// Unix time, ms.
pub(crate) fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
