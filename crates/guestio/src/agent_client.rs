//! gRPC client of an agent, which is as hostile as its guest: messages are bounded.

use rigbox_proto::guest::guest_client::GuestClient;
use rigbox_proto::guest_stream;
use rigbox_proto::transport::client::Channel;

/// Client of an agent.
pub(crate) type AgentClient = GuestClient<Channel>;

/// Returns the client on a channel to an agent.
pub(crate) fn new(channel: Channel) -> AgentClient {
    GuestClient::new(channel)
        .max_decoding_message_size(guest_stream::MAX_MESSAGE_BYTES)
        .max_encoding_message_size(guest_stream::MAX_MESSAGE_BYTES)
}
