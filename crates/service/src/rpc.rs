//! gRPC channels over unix sockets. They connect on the first call, and again after a disconnect.

use std::path::Path;
use std::time::Duration;

use rigbox_proto::guest_calls;
use rigbox_proto::transport::client::Channel;
use rigbox_proto::transport::unix;
use tonic::transport::Endpoint;

pub(crate) fn channel(socket: &Path) -> Channel {
    let endpoint = Endpoint::from_static("http://unix.invalid")
        .initial_stream_window_size(guest_calls::STREAM_WINDOW_BYTES)
        .initial_connection_window_size(guest_calls::CONNECTION_WINDOW_BYTES)
        .http2_keep_alive_interval(Duration::from_secs(10))
        .keep_alive_timeout(Duration::from_secs(20))
        .connect_timeout(Duration::from_secs(5));
    unix::channel_with(socket, &endpoint)
}
