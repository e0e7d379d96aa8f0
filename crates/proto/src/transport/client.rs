//! Channels of gRPC clients, whose peers may be less trusted than they are: no status of a peer has anything that the library fails on.

use http::Response;
use http_body::Frame;
use http_body_util::BodyExt;
use tonic::body::Body;
use tonic::{Status, transport};
use tower::util::MapResponse;

/// Channel of a client.
pub type Channel = MapResponse<transport::Channel, StatusFilter>;
/// Filter of the responses to a client.
pub type StatusFilter = fn(Response<Body>) -> Response<Body>;

/// Returns a channel whose responses are filtered.
pub fn filtered(channel: transport::Channel) -> Channel {
    MapResponse::new(channel, without_details)
}

/// Removes the details of a status, which are in the trailers, or in the head of a response without a body. No role of ours and no agent
/// sends them, and tonic panics if they are not valid base64.
pub fn without_details(response: Response<Body>) -> Response<Body> {
    let (mut head, body) = response.into_parts();
    head.headers.remove(Status::GRPC_STATUS_DETAILS);
    let body = body.map_frame(|frame| match frame.into_trailers() {
        Ok(mut trailers) => {
            trailers.remove(Status::GRPC_STATUS_DETAILS);
            Frame::trailers(trailers)
        }
        Err(frame) => frame,
    });
    Response::from_parts(head, Body::new(body))
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;

    use http::{HeaderMap, HeaderValue};
    use tokio_stream::{Stream, StreamExt};
    use tonic::metadata::MetadataMap;
    use tonic::transport::Server;
    use tonic::{Code, Request, Streaming};

    use super::*;
    use crate::guestio::node_session_client::NodeSessionClient;
    use crate::guestio::node_session_server::{NodeSession, NodeSessionServer};
    use crate::guestio::{AdmitRequest, AdmitResponse, Command, RefusalReport, RefusalResponse, Report};
    use crate::transport::unix;

    /// Peer whose statuses have details that are not base64.
    struct Hostile;

    fn status() -> Status {
        let mut headers = HeaderMap::new();
        headers.insert(Status::GRPC_STATUS_DETAILS, HeaderValue::from_static("*"));
        Status::with_metadata(Code::NotFound, "no such thing", MetadataMap::from_headers(headers))
    }

    #[tonic::async_trait]
    impl NodeSession for Hostile {
        type OpenStream = Pin<Box<dyn Stream<Item = Result<Command, Status>> + Send>>;

        async fn open(
            &self,
            _reports: Request<Streaming<Report>>,
        ) -> Result<tonic::Response<Self::OpenStream>, Status> {
            let items = [Ok(Command::default()), Err(status())];
            Ok(tonic::Response::new(Box::pin(tokio_stream::iter(items))))
        }

        async fn admit(
            &self,
            _request: Request<AdmitRequest>,
        ) -> Result<tonic::Response<AdmitResponse>, Status> {
            Err(status())
        }

        async fn report_refusals(
            &self,
            _request: Request<RefusalReport>,
        ) -> Result<tonic::Response<RefusalResponse>, Status> {
            Err(status())
        }
    }

    #[tokio::test]
    async fn malformed_details_of_a_status_are_a_plain_error() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("peer.sock");
        let own_uid = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(folder.path()).unwrap());
        let incoming = unix::listen(&socket, vec![own_uid]).unwrap();
        tokio::spawn(
            Server::builder().add_service(NodeSessionServer::new(Hostile)).serve_with_incoming(incoming),
        );
        let mut client = NodeSessionClient::new(unix::channel(&socket));
        // In the head of a response without a body.
        let error = client.admit(AdmitRequest::default()).await.unwrap_err();
        assert_eq!((error.code(), error.message()), (Code::NotFound, "no such thing"));
        // In the trailers, after a message.
        let mut commands = client.open(tokio_stream::pending()).await.unwrap().into_inner();
        commands.next().await.unwrap().unwrap();
        let error = commands.next().await.unwrap().unwrap_err();
        assert_eq!((error.code(), error.message()), (Code::NotFound, "no such thing"));
    }
}
