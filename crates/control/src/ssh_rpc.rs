//! gRPC service for the SSH gateway, over [`SshLogIns`] and [`SshSessions`].

use std::pin::Pin;

use futures_util::Stream;
use rigbox_proto::ssh::log_in_response::Outcome;
use rigbox_proto::ssh::review_response::Verdict;
use rigbox_proto::ssh::ssh_gateway_server::{SshGateway, SshGatewayServer};
use rigbox_proto::ssh::{
    AttachRequest, AttachResponse, CloseRequest, CloseResponse, Granted, HostKeysRequest, HostKeysResponse,
    LogInRequest, LogInResponse, OfferKeyRequest, OfferKeyResponse, PrepareVmRequest, PrepareVmResponse,
    Refused, ReviewRequest, ReviewResponse, Starting,
};
use rigbox_service::gateways::Gateways;
use rigbox_service::ssh_log_ins::{PrepareError, SignedLogIn, SshLogIn, SshLogIns, SshReview};
use rigbox_service::ssh_sessions::SshSessions;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

use crate::gateway_rpc::{self, id, unavailable};
use crate::{Error, GatewaysConfig};

struct Service {
    log_ins: SshLogIns,
    sessions: SshSessions,
}

/// Serves the SSH gateway for as long as the future is polled.
pub(crate) fn listen(
    config: &GatewaysConfig,
    gateways: Gateways,
    log_ins: SshLogIns,
    sessions: SshSessions,
) -> Result<impl Future<Output = ()> + Send + use<>, Error> {
    let own = Server::builder().add_service(SshGatewayServer::new(Service { log_ins, sessions }));
    gateway_rpc::serve(config, gateways, own)
}

#[tonic::async_trait]
impl SshGateway for Service {
    type AttachStream = Pin<Box<dyn Stream<Item = Result<AttachResponse, Status>> + Send>>;

    async fn attach(&self, request: Request<AttachRequest>) -> Result<Response<Self::AttachStream>, Status> {
        let attachment = self.sessions.attach(id(&request.into_inner().gateway_id)?);
        // Dropped with the stream, which the gateway's end closes.
        let silence = futures_util::stream::once(async move {
            let _attachment = attachment;
            std::future::pending().await
        });
        Ok(Response::new(Box::pin(silence)))
    }

    async fn host_keys(&self, _: Request<HostKeysRequest>) -> Result<Response<HostKeysResponse>, Status> {
        let seeds = self.log_ins.host_key_seeds().await.map_err(unavailable)?;
        let seeds = seeds.iter().map(|seed| seed.to_vec().into()).collect();
        Ok(Response::new(HostKeysResponse { seeds }))
    }

    async fn offer_key(
        &self,
        request: Request<OfferKeyRequest>,
    ) -> Result<Response<OfferKeyResponse>, Status> {
        let accepted = self.log_ins.accepts(&request.into_inner().key).await.map_err(unavailable)?;
        Ok(Response::new(OfferKeyResponse { accepted }))
    }

    async fn log_in(&self, request: Request<LogInRequest>) -> Result<Response<LogInResponse>, Status> {
        let LogInRequest {
            session_id,
            user_name,
            algorithm,
            key,
            signature,
            client_address,
            may_start,
            gateway_id,
        } = request.into_inner();
        let log_in = SignedLogIn {
            gateway: &id(&gateway_id)?,
            session_id: &session_id,
            user_name: &user_name,
            algorithm: &algorithm,
            key: &key,
            signature: &signature,
            from: client_address.parse().ok(),
            may_start,
        };
        let outcome = match self.log_ins.log_in(log_in).await.map_err(unavailable)? {
            SshLogIn::Refused => Outcome::Refused(Refused {}),
            SshLogIn::Unavailable(text) => Outcome::Unavailable(text),
            SshLogIn::Starting(id, text) => {
                Outcome::Starting(Starting { workspace_id: id.to_string(), text })
            }
            SshLogIn::Granted(session) => Outcome::Granted(Granted {
                workspace_id: session.workspace.to_string(),
                boot_id: session.boot,
                boot_key: session.boot_key.to_vec().into(),
                key_id: session.key.to_string(),
            }),
        };
        Ok(Response::new(LogInResponse { outcome: Some(outcome) }))
    }

    async fn prepare_vm(
        &self,
        request: Request<PrepareVmRequest>,
    ) -> Result<Response<PrepareVmResponse>, Status> {
        let PrepareVmRequest { workspace_id, boot_id } = request.into_inner();
        let prepared = self.log_ins.prepare_vm(&id(&workspace_id)?, &boot_id).await;
        let host_keys = prepared.map_err(|error| match error {
            PrepareError::NotRunning => Status::failed_precondition(error.to_string()),
            PrepareError::Guest(error) => Status::unavailable(error.to_string()),
            PrepareError::Store(error) => unavailable(error),
        })?;
        let host_keys = host_keys.into_iter().map(Into::into).collect();
        Ok(Response::new(PrepareVmResponse { host_keys }))
    }

    async fn review(&self, request: Request<ReviewRequest>) -> Result<Response<ReviewResponse>, Status> {
        let ReviewRequest { workspace_id, boot_id, key_id } = request.into_inner();
        let reviewed = self.log_ins.review(&id(&workspace_id)?, &boot_id, &id(&key_id)?).await;
        let verdict = match reviewed.map_err(unavailable)? {
            SshReview::GoesOn => Verdict::GoesOn,
            SshReview::Revoked => Verdict::Revoked,
            SshReview::BootEnded => Verdict::BootEnded,
        };
        Ok(Response::new(ReviewResponse { verdict: verdict.into() }))
    }

    async fn close(&self, request: Request<CloseRequest>) -> Result<Response<CloseResponse>, Status> {
        let CloseRequest { session_id, bytes_to_vm, bytes_to_client } = request.into_inner();
        self.sessions.close(&session_id, (bytes_to_vm, bytes_to_client)).await.map_err(unavailable)?;
        Ok(Response::new(CloseResponse {}))
    }
}
