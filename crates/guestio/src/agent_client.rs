//! gRPC client of an agent, which is as hostile as its guest: messages are bounded, and statuses have nothing that the library fails on.

use http::Response;
use http_body_util::BodyExt;
use hyper::body::Frame;
use rigbox_proto::guest::guest_client::GuestClient;
use rigbox_proto::guest_stream;
use tonic::body::Body;
use tonic::transport::Channel;
use tower::util::MapResponse;

/// Client of an agent.
pub(crate) type AgentClient = GuestClient<MapResponse<Channel, StatusFilter>>;
/// Filter of an agent's responses.
type StatusFilter = fn(Response<Body>) -> Response<Body>;

/// Trailer with the details of a status. No agent of ours sends it, and tonic panics if it is not valid base64.
const STATUS_DETAILS: &str = "grpc-status-details-bin";

/// Removes the details of a status, which is in the trailers, or in the head of a response without a body.
pub(crate) fn without_details(response: Response<Body>) -> Response<Body> {
    let (mut head, body) = response.into_parts();
    head.headers.remove(STATUS_DETAILS);
    let body = body.map_frame(|frame| match frame.into_trailers() {
        Ok(mut trailers) => {
            trailers.remove(STATUS_DETAILS);
            Frame::trailers(trailers)
        }
        Err(frame) => frame,
    });
    Response::from_parts(head, Body::new(body))
}

/// Returns the client on a channel to an agent.
pub(crate) fn new(channel: Channel) -> AgentClient {
    let filter: StatusFilter = without_details;
    GuestClient::new(MapResponse::new(channel, filter))
        .max_decoding_message_size(guest_stream::MAX_MESSAGE_BYTES)
        .max_encoding_message_size(guest_stream::MAX_MESSAGE_BYTES)
}
