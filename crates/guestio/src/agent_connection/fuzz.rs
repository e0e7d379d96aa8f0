//! Fuzz targets of what a guest's agent sends after the handshake: HTTP/2 with gRPC messages.

use std::fmt::Debug;
use std::time::Duration;

use prost::Message;
use rigbox_proto::guest::{
    ChangeFileResponse, ExecOutput, FileEntry, FileEvent, HelloRequest, HelloResponse, ListPortsResponse,
    ListProcessesResponse, ReadFileOutput, ReadOutputRequest, ShutdownEvent, SystemEvent,
};
use rigbox_testkit::Pieces;

use super::*;

/// Bytes of this end's preface, settings and two requests, after which the guest responds.
const REQUEST_BYTES: usize = 230;
/// Time for two calls on a connection that has ended.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// Makes two calls on a connection on which the guest sends `bytes`.
async fn call(bytes: &[u8]) {
    let stream = Pieces::split(bytes).after_written(REQUEST_BYTES);
    let Ok(client) = connect(stream).await else { return };
    let (mut first, mut second) = (client.clone(), client);
    let hello = first.hello(HelloRequest::default());
    let output = async {
        let mut messages = second.read_output(ReadOutputRequest::default()).await?.into_inner();
        while let Some(message) = messages.message().await? {
            assert!(message.encoded_len() <= guest_stream::MAX_MESSAGE_BYTES);
        }
        Ok::<_, tonic::Status>(())
    };
    let (hello, _output) = tokio::join!(hello, output);
    if let Ok(hello) = hello {
        assert!(hello.into_inner().encoded_len() <= guest_stream::MAX_MESSAGE_BYTES);
    }
}

#[test]
fn agent_frames() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    bolero::check!(name = "agent_frames").for_each(|bytes: &[u8]| {
        let called = async { tokio::time::timeout(CALL_TIMEOUT, call(bytes)).await };
        runtime.block_on(called).expect("calls end with their connection");
    });
}

/// Decodes a message, and encodes it again.
fn check<T: Message + Default + PartialEq + Debug>(bytes: &[u8]) {
    let Ok(message) = T::decode(bytes) else { return };
    let encoded = message.encode_to_vec();
    assert_eq!(T::decode(encoded.as_slice()).unwrap(), message);
}

#[test]
fn agent_messages() {
    let checks = [
        check::<ChangeFileResponse>,
        check::<ExecOutput>,
        check::<FileEntry>,
        check::<FileEvent>,
        check::<HelloResponse>,
        check::<ListPortsResponse>,
        check::<ListProcessesResponse>,
        check::<ReadFileOutput>,
        check::<ShutdownEvent>,
        check::<SystemEvent>,
    ];
    bolero::check!(name = "agent_messages")
        .for_each(|bytes: &[u8]| checks.iter().for_each(|check| check(bytes)));
}
