//! gRPC channels over unix sockets. They connect on the first call, and again after a disconnect.

use std::path::Path;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rigbox_proto::guest_calls;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

pub(crate) fn channel(socket: &Path) -> Channel {
    let socket = socket.to_owned();
    Endpoint::from_static("http://unix.invalid")
        .initial_stream_window_size(guest_calls::STREAM_WINDOW_BYTES)
        .initial_connection_window_size(guest_calls::CONNECTION_WINDOW_BYTES)
        .http2_keep_alive_interval(Duration::from_secs(10))
        .keep_alive_timeout(Duration::from_secs(20))
        .connect_timeout(Duration::from_secs(5))
        .connect_with_connector_lazy(service_fn(move |_: Uri| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        }))
}
