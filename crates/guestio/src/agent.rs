//! The session with the agent of one VM: handshake, hello, then calls; opened again for as long as the VM is attended to.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rigbox_proto::guest::guest_client::GuestClient;
use rigbox_proto::guest::shutdown_event::Kind;
use rigbox_proto::guest::{HelloRequest, ShutDownRequest, WatchShutdownRequest};
use rigbox_proto::guest_stream;
use rigbox_proto::guestio::fd_request::Channel;
use rigbox_proto::guestio::guest_ended::Cause;
use rigbox_proto::transport::unix;
use tokio::net::UnixStream;

use crate::vm::{AgentState, Vm};

const AGAIN_AFTER: Duration = Duration::from_millis(500);
const HELLO_WITHIN: Duration = Duration::from_secs(15);
/// A session in which nothing comes back for this long is over: pings go out every 10 s.
const PING_EVERY: Duration = Duration::from_secs(10);
const PING_WITHIN: Duration = Duration::from_secs(20);
/// From systemd's announcement of a halt to its end: it never shows otherwise.
const HALT_AFTER: Duration = Duration::from_secs(10);

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
enum SessionError {
    #[error(transparent)]
    Fd(#[from] crate::fds::FdError),
    #[error(transparent)]
    Handshake(#[from] guest_stream::HandshakeError),
    #[error("the agent's session could not be opened: {0}")]
    Open(String),
    #[error("the agent's session broke")]
    Broke,
}

/// Keeps a session; dropped with the VM's entry.
pub(crate) async fn attend(vm: Arc<Vm>) {
    loop {
        let result = session(&vm).await;
        let was_awaited = matches!(*vm.agent.borrow(), AgentState::Awaited);
        if let Err(error) = result {
            tracing::info!(workspace = %vm.workspace_id, boot = %vm.boot_id, %error, "agent session over");
            // A node that is away says nothing about the agent; one that has not been heard of yet may still be booting.
            if !was_awaited && !matches!(error, SessionError::Fd(_)) {
                let reason = crate::text::clean(&error.to_string());
                // The usual reconnect takes a moment: callers are told `lost` only when it does not succeed.
                if !matches!(error, SessionError::Broke) {
                    vm.set_agent(AgentState::Lost(reason));
                }
            }
        }
        tokio::time::sleep(AGAIN_AFTER).await;
    }
}

/// Shuts the socket down when the session is over: a call in flight would keep it open otherwise.
struct ShutOnDrop(std::os::unix::net::UnixStream);

impl Drop for ShutOnDrop {
    fn drop(&mut self) {
        let _ = self.0.shutdown(std::net::Shutdown::Both);
    }
}

async fn session(vm: &Vm) -> Result<(), SessionError> {
    let mut io = vm.fds.connect(&vm.boot_id, Channel::Agent).await?;
    let copy = io.as_fd().try_clone_to_owned().map_err(crate::fds::FdError::Node)?;
    let _shut = ShutOnDrop(copy.into());
    let mut nonce = [0; guest_stream::NONCE_LEN];
    getrandom::fill(&mut nonce).map_err(|error| SessionError::Open(error.to_string()))?;
    guest_stream::open(&mut io, nonce).await?;

    let mut client = connect(io).await.map_err(|error| SessionError::Open(error.to_string()))?;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let hello = HelloRequest {
        metadata_json: vm.metadata_json.clone(),
        now_unix_ns: i64::try_from(now.as_nanos()).unwrap_or(i64::MAX),
    };
    let opened = async {
        let hello = client.hello(hello).await?.into_inner();
        let ends = client.watch_shutdown(WatchShutdownRequest {}).await?.into_inner();
        Ok::<_, tonic::Status>((hello, ends))
    };
    let (hello, mut ends) = tokio::time::timeout(HELLO_WITHIN, opened)
        .await
        .map_err(|_| SessionError::Open("the agent did not answer the hello".into()))?
        .map_err(|status| SessionError::Open(crate::text::clean(status.message())))?;
    tracing::info!(
        workspace = %vm.workspace_id, boot = %vm.boot_id,
        version = %crate::text::clean(&hello.version), "agent ready"
    );
    vm.set_agent(AgentState::Ready(client.clone()));

    let mut shut_down = vm.shut_down.subscribe();
    // It may have been asked for before this session.
    shut_down.mark_changed();
    loop {
        tokio::select! {
            announcement = ends.message() => match announcement {
                Ok(Some(announcement)) => announced(vm, announcement.kind()).await,
                Ok(None) | Err(_) => return Err(SessionError::Broke),
            },
            Ok(()) = shut_down.changed() => {
                let Some(grace_ms) = *shut_down.borrow_and_update() else { continue };
                let request = client.shut_down(ShutDownRequest { grace_ms });
                if !matches!(tokio::time::timeout(HELLO_WITHIN, request).await, Ok(Ok(_))) {
                    vm.power_button.notify_one();
                }
            }
        }
    }
}

async fn announced(vm: &Vm, kind: Kind) {
    let cause = match kind {
        Kind::Poweroff => Cause::Poweroff,
        Kind::Reboot => Cause::Reboot,
        Kind::Halt => Cause::Halt,
        Kind::Unspecified => return,
    };
    vm.announced.send_replace(Some(cause));
    if cause == Cause::Halt {
        tokio::time::sleep(HALT_AFTER).await;
        vm.set_ended(Cause::Halt, "the guest halted");
    }
}

async fn connect(io: UnixStream) -> Result<GuestClient<tonic::transport::Channel>, tonic::transport::Error> {
    let mut io = Some(TokioIo::new(io));
    let connector = tower::service_fn(move |_: tonic::transport::Uri| {
        // There is one stream; a broken session is opened anew from the start.
        let io = io.take().ok_or_else(|| std::io::Error::from(std::io::ErrorKind::NotConnected));
        async move { io }
    });
    let channel = unix::endpoint()
        .http2_keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_WITHIN)
        .keep_alive_while_idle(true)
        .connect_with_connector(connector)
        .await?;
    Ok(GuestClient::new(channel)
        .max_decoding_message_size(guest_stream::MAX_MESSAGE_BYTES)
        .max_encoding_message_size(guest_stream::MAX_MESSAGE_BYTES))
}
