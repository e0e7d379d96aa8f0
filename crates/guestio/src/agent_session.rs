//! Session with the agent of one VM: handshake, hello, then calls. It is reopened for as long as the VM is attached.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rigbox_proto::guest::guest_client::GuestClient;
use rigbox_proto::guest::shutdown_event::Kind;
use rigbox_proto::guest::{HelloRequest, ShutDownRequest, WatchShutdownRequest, WatchSystemRequest};
use rigbox_proto::guest_stream;
use rigbox_proto::guestio::fd_request::Channel;
use rigbox_proto::guestio::guest_ended::Cause;
use rigbox_proto::transport::unix;
use tokio::net::UnixStream;

use crate::descriptors::DescriptorError;
use crate::sanitize::sanitize;
use crate::vm::{AgentState, Vm};

const RECONNECT_DELAY: Duration = Duration::from_millis(500);
const HELLO_TIMEOUT: Duration = Duration::from_secs(15);
/// Interval of HTTP/2 pings, and the time without a response after which the session is lost.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// Time from systemd's announcement of a halt, which causes no event, until the guest counts as ended.
const HALT_DELAY: Duration = Duration::from_secs(10);

/// Reason why a session ended.
#[derive(Debug, thiserror::Error)]
enum SessionError {
    #[error(transparent)]
    Descriptor(#[from] DescriptorError),
    #[error(transparent)]
    Handshake(#[from] guest_stream::HandshakeError),
    #[error("failed to open a session with the agent: {0}")]
    Open(String),
    #[error("lost the session with the agent")]
    Lost,
}

/// Keeps a session for as long as the VM is attached.
pub(crate) async fn run(vm: Arc<Vm>) {
    loop {
        let result = session(&vm).await;
        let was_pending = matches!(*vm.agent.borrow(), AgentState::Pending);
        if let Err(error) = result {
            tracing::info!(workspace = %vm.workspace_id, boot = %vm.boot_id, %error, "agent session ended; reconnecting");
            // An unavailable node says nothing about the agent, and a pending agent may still be booting.
            if !was_pending && !matches!(error, SessionError::Descriptor(_)) {
                let reason = sanitize(&error.to_string());
                // A reconnect usually takes a moment. The agent counts as lost only if that fails.
                if !matches!(error, SessionError::Lost) {
                    vm.set_agent(AgentState::Lost(reason));
                }
            }
        }
        tokio::time::sleep(RECONNECT_DELAY).await;
    }
}

/// Shuts the socket down at the end of the session. A call in flight would otherwise keep it open.
struct ShutdownOnDrop(std::os::unix::net::UnixStream);

impl Drop for ShutdownOnDrop {
    fn drop(&mut self) {
        let _ = self.0.shutdown(std::net::Shutdown::Both);
    }
}

async fn session(vm: &Vm) -> Result<(), SessionError> {
    let mut io = vm.context.descriptors.connect(&vm.boot_id, Channel::Agent).await?;
    let copy = io.as_fd().try_clone_to_owned().map_err(DescriptorError::Node)?;
    let _shutdown = ShutdownOnDrop(copy.into());
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
        // At once, because in a VM that still boots each round trip takes long.
        let (mut shutdown, mut system) = (client.clone(), client.clone());
        let (hello, shutdown_events, system_events) = tokio::try_join!(
            client.hello(hello),
            shutdown.watch_shutdown(WatchShutdownRequest {}),
            system.watch_system(WatchSystemRequest {}),
        )?;
        Ok::<_, tonic::Status>((hello.into_inner(), shutdown_events.into_inner(), system_events.into_inner()))
    };
    let (hello, mut shutdown_events, mut system_events) = tokio::time::timeout(HELLO_TIMEOUT, opened)
        .await
        .map_err(|_| SessionError::Open("the agent did not respond to the hello".into()))?
        .map_err(|status| SessionError::Open(sanitize(status.message())))?;
    tracing::info!(
        workspace = %vm.workspace_id, boot = %vm.boot_id,
        version = %sanitize(&hello.version), "agent ready"
    );
    vm.set_agent(AgentState::Ready(client.clone()));

    let mut shut_down = vm.shut_down.subscribe();
    // It may have been requested before this session.
    shut_down.mark_changed();
    loop {
        tokio::select! {
            event = shutdown_events.message() => match event {
                Ok(Some(event)) => handle_shutdown(vm, event.kind()).await,
                Ok(None) | Err(_) => return Err(SessionError::Lost),
            },
            event = system_events.message() => match event {
                // A word that guests do not use is dropped.
                Ok(Some(event)) => if let Ok(state) = event.state.parse() { vm.set_system(state) },
                Ok(None) | Err(_) => return Err(SessionError::Lost),
            },
            Ok(()) = shut_down.changed() => {
                let Some(grace_ms) = *shut_down.borrow_and_update() else { continue };
                let request = client.shut_down(ShutDownRequest { grace_ms });
                if !matches!(tokio::time::timeout(HELLO_TIMEOUT, request).await, Ok(Ok(_))) {
                    vm.power_button.notify_one();
                }
            }
        }
    }
}

/// Records the kind of shutdown that systemd has started.
async fn handle_shutdown(vm: &Vm, kind: Kind) {
    let cause = match kind {
        Kind::Poweroff => Cause::Poweroff,
        Kind::Reboot => Cause::Reboot,
        Kind::Halt => Cause::Halt,
        Kind::Unspecified => return,
    };
    vm.announced.send_replace(Some(cause));
    if cause == Cause::Halt {
        tokio::time::sleep(HALT_DELAY).await;
        vm.set_ended(Cause::Halt, "the guest halted");
    }
}

async fn connect(io: UnixStream) -> Result<GuestClient<tonic::transport::Channel>, tonic::transport::Error> {
    let mut io = Some(TokioIo::new(io));
    let connector = tower::service_fn(move |_: tonic::transport::Uri| {
        // The stream can be used once. A lost session is reopened from the start.
        let io = io.take().ok_or_else(|| std::io::Error::from(std::io::ErrorKind::NotConnected));
        async move { io }
    });
    let channel = unix::endpoint()
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .connect_with_connector(connector)
        .await?;
    Ok(GuestClient::new(channel)
        .max_decoding_message_size(guest_stream::MAX_MESSAGE_BYTES)
        .max_encoding_message_size(guest_stream::MAX_MESSAGE_BYTES))
}
