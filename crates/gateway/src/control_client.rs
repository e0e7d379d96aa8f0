//! Client of control's gateway service: every request has a timeout, and their number is bounded.

use std::path::Path;
use std::time::Duration;

use rigbox_proto::gateway::gateway_client::GatewayClient;
use rigbox_proto::transport::unix;
use tokio::sync::Semaphore;
use tonic::Status;
use tonic::transport::Channel;

/// Timeout of one request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum number of concurrent requests.
const MAX_CONCURRENT_REQUESTS: usize = 256;

/// Connection to control.
#[derive(Debug)]
pub struct ControlClient {
    channel: Channel,
    permits: Semaphore,
}

impl ControlClient {
    /// Connects to control's socket for gateways, lazily.
    pub fn new(socket: &Path) -> Self {
        Self { channel: unix::channel(socket), permits: Semaphore::new(MAX_CONCURRENT_REQUESTS) }
    }

    /// Returns the gRPC client, for streams that have no overall timeout.
    pub fn grpc(&self) -> GatewayClient<Channel> {
        GatewayClient::new(self.channel.clone())
    }

    /// Makes one request.
    ///
    /// # Errors
    /// The status of the reply, or `DeadlineExceeded`.
    pub async fn request<T>(
        &self,
        request: impl AsyncFnOnce(GatewayClient<Channel>) -> Result<tonic::Response<T>, Status>,
    ) -> Result<T, Status> {
        let reply = async {
            let _permit =
                self.permits.acquire().await.map_err(|_| Status::unavailable("the role is shutting down"))?;
            request(self.grpc()).await
        };
        let reply = tokio::time::timeout(REQUEST_TIMEOUT, reply).await;
        Ok(reply.map_err(|_| Status::deadline_exceeded("no reply within 5 s"))??.into_inner())
    }
}
