//! Session with the agent of one VM: handshake, hello, then calls. It is reopened for as long as the VM is attached.

use std::sync::Arc;
use std::time::Duration;

use rigbox_proto::guest::shutdown_event::Kind;
use rigbox_proto::guest::{HelloRequest, Resumed, ShutDownRequest, WatchShutdownRequest, WatchSystemRequest};
use rigbox_proto::guestio::Vmm;
use rigbox_proto::guestio::fd_request::Channel;
use rigbox_proto::guestio::guest_ended::Cause;
use rigbox_sys::random::ENTROPY_BYTES;

use crate::agent_connection::{Connection, SessionError};
use crate::sanitize::sanitize;
use crate::vm::{AgentState, Vm};

pub(crate) const RECONNECT_DELAY: Duration = Duration::from_millis(500);
/// Delay between attempts to reach an agent that is not there yet.
const BOOT_RECONNECT_DELAY: Duration = Duration::from_millis(20);
const HELLO_TIMEOUT: Duration = Duration::from_secs(15);
/// Time from systemd's announcement of a halt, which causes no event, until the guest counts as ended.
const HALT_DELAY: Duration = Duration::from_secs(10);

/// Keeps a session for as long as the VM is attached.
pub(crate) async fn run(vm: Arc<Vm>) {
    loop {
        let epoch = vm.running().await;
        let result = tokio::select! {
            result = session(&vm, epoch) => result,
            () = vm.left(epoch) => {
                vm.set_agent(AgentState::Lost("the VM stands still".to_owned()));
                continue;
            }
        };
        let was_pending = matches!(*vm.agent.borrow(), AgentState::Pending);
        if let Err(error) = result {
            // While it boots, attempts follow fast.
            if was_pending {
                tracing::debug!(workspace = %vm.workspace_id, boot = %vm.boot_id, %error, "no agent yet");
            } else {
                tracing::info!(workspace = %vm.workspace_id, boot = %vm.boot_id, %error, "agent session ended; reconnecting");
            }
            // An unavailable node says nothing about the agent, and a pending agent may still be booting.
            if !was_pending && !matches!(error, SessionError::Descriptor(_)) {
                let reason = sanitize(&error.to_string());
                // A reconnect usually takes a moment. The agent counts as lost only if that fails.
                if !matches!(error, SessionError::Lost) {
                    vm.set_agent(AgentState::Lost(reason));
                }
            }
        }
        // Firecracker answers at once that the agent does not listen yet; on a serial port the handshake waits for it.
        let is_booting = was_pending && vm.vmm == Vmm::Firecracker;
        tokio::time::sleep(if is_booting { BOOT_RECONNECT_DELAY } else { RECONNECT_DELAY }).await;
    }
}

async fn session(vm: &Vm, epoch: u32) -> Result<(), SessionError> {
    let Connection { mut client, _shutdown } = Connection::open(vm, Channel::Agent).await?;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let hello = HelloRequest {
        metadata_json: vm.metadata_json.clone(),
        now_unix_ns: i64::try_from(now.as_nanos()).unwrap_or(i64::MAX),
        resumed: if epoch == 0 { None } else { Some(resumed()?) },
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
    vm.set_agent(AgentState::Ready(client.clone(), epoch));

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

/// Returns what sets a guest right that was out of time.
fn resumed() -> Result<Resumed, SessionError> {
    let mut entropy = vec![0; ENTROPY_BYTES];
    getrandom::fill(&mut entropy).map_err(|error| SessionError::Open(error.to_string()))?;
    Ok(Resumed { entropy: entropy.into() })
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
