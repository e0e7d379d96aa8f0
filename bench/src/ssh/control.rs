//! Control of the benchmark `ssh`: takes every log-in whose signature is right, and grants the one workspace. Unlike the real one, it has no
//! database.

use std::path::Path;
use std::pin::Pin;
use std::time::Duration;

use anyhow::Result;
use rigbox_proto::gateway::changes_server::{Changes, ChangesServer};
use rigbox_proto::gateway::watch_event::Event;
use rigbox_proto::gateway::{Lease, WatchAck, WatchEvent};
use rigbox_proto::ssh::log_in_response::Outcome;
use rigbox_proto::ssh::review_response::Verdict;
use rigbox_proto::ssh::ssh_gateway_server::{SshGateway, SshGatewayServer};
use rigbox_proto::ssh::{
    AttachRequest, AttachResponse, CloseRequest, CloseResponse, Granted, HostKeysRequest, HostKeysResponse,
    LogInRequest, LogInResponse, OfferKeyRequest, OfferKeyResponse, PrepareVmRequest, PrepareVmResponse,
    Refused, ReviewRequest, ReviewResponse,
};
use rigbox_proto::transport::unix;
use rigbox_ssh_keys::log_in::signed_text;
use rigbox_ssh_keys::signature::verify;
use rigbox_testkit::gateway::{BOOT, WORKSPACE};
use tokio_stream::{Stream, StreamExt};
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};

use super::keys::{BOOT_SEED, GATEWAY_SEED};

const LEASE: Duration = Duration::from_secs(10);
/// Time between two leases, as control's.
const RENEWAL_INTERVAL: Duration = Duration::from_millis(300);

/// Starts it at the socket `path` on the current runtime. `host_key` is that of the server behind the gateway.
pub(super) fn start(path: &Path, host_key: Vec<u8>) -> Result<()> {
    let connections = unix::listen(path, vec![rustix::process::geteuid().as_raw()])?;
    let server = Server::builder()
        .add_service(SshGatewayServer::new(Table { host_key }))
        .add_service(ChangesServer::new(NoChanges));
    tokio::spawn(async move {
        if let Err(error) = server.serve_with_incoming(connections).await {
            eprintln!("control's socket failed: {error}");
        }
    });
    Ok(())
}

struct Table {
    host_key: Vec<u8>,
}

#[tonic::async_trait]
impl SshGateway for Table {
    type AttachStream = futures_util::stream::Pending<Result<AttachResponse, Status>>;

    async fn attach(&self, _: Request<AttachRequest>) -> Result<Response<Self::AttachStream>, Status> {
        Ok(Response::new(futures_util::stream::pending()))
    }

    async fn host_keys(&self, _: Request<HostKeysRequest>) -> Result<Response<HostKeysResponse>, Status> {
        Ok(Response::new(HostKeysResponse { seeds: vec![GATEWAY_SEED.to_vec().into()] }))
    }

    async fn offer_key(&self, _: Request<OfferKeyRequest>) -> Result<Response<OfferKeyResponse>, Status> {
        Ok(Response::new(OfferKeyResponse { accepted: true }))
    }

    async fn log_in(&self, request: Request<LogInRequest>) -> Result<Response<LogInResponse>, Status> {
        let LogInRequest { session_id, user_name, algorithm, key, signature, .. } = request.into_inner();
        let text = signed_text(&session_id, &user_name, &algorithm, &key);
        let granted = Granted {
            workspace_id: WORKSPACE.to_owned(),
            boot_id: BOOT.to_owned(),
            boot_key: BOOT_SEED.to_vec().into(),
            key_id: "sk-aaaaaaaa".to_owned(),
        };
        let outcome = match verify(&key, &algorithm, &text, &signature) {
            Ok(_) => Outcome::Granted(granted),
            Err(_) => Outcome::Refused(Refused {}),
        };
        Ok(Response::new(LogInResponse { outcome: Some(outcome) }))
    }

    async fn prepare_vm(&self, _: Request<PrepareVmRequest>) -> Result<Response<PrepareVmResponse>, Status> {
        Ok(Response::new(PrepareVmResponse { host_keys: vec![self.host_key.clone().into()] }))
    }

    async fn review(&self, _: Request<ReviewRequest>) -> Result<Response<ReviewResponse>, Status> {
        Ok(Response::new(ReviewResponse { verdict: Verdict::GoesOn.into() }))
    }

    async fn close(&self, _: Request<CloseRequest>) -> Result<Response<CloseResponse>, Status> {
        Ok(Response::new(CloseResponse {}))
    }
}

/// Watch on which nothing but the lease comes.
struct NoChanges;

#[tonic::async_trait]
impl Changes for NoChanges {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<WatchEvent, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<Streaming<WatchAck>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let mut acknowledgements = request.into_inner();
        tokio::spawn(async move { while let Ok(Some(_)) = acknowledgements.message().await {} });
        let lease_ms = u32::try_from(LEASE.as_millis()).unwrap_or(u32::MAX);
        let lease = Lease { lease_ms, ..Lease::default() };
        let renewals = tokio::time::interval(RENEWAL_INTERVAL);
        let renewals = futures_util::stream::unfold((1, renewals), move |(sequence, mut renewals)| {
            let event = Event::Lease(lease.clone());
            async move {
                renewals.tick().await;
                Some((WatchEvent::now(sequence, event), (sequence + 1, renewals)))
            }
        });
        Ok(Response::new(Box::pin(renewals.map(Ok))))
    }
}
