//! gRPC boundaries between Rigbox's roles, generated from `proto/*.proto`, and the code that both ends share: faults with a stable
//! code ([`fault`]), the handshake on a guest's byte stream ([`guest_stream`]), and unix sockets with authenticated peers
//! ([`transport::unix`]).

pub mod bridge_requests;
pub mod fault;
pub mod guest_calls;
pub mod guest_stream;
pub mod handover;
pub mod headers;
pub mod memory_files;
pub mod transport;
mod watch_event;

/// Boundary between the AI proxy and control.
#[allow(missing_docs, clippy::all, clippy::pedantic, unreachable_pub)] // generated
pub mod ai {
    tonic::include_proto!("rigbox.ai.v1");
}
/// Boundary between control and node.
#[allow(missing_docs, clippy::all, clippy::pedantic, unreachable_pub)] // generated
pub mod node {
    tonic::include_proto!("rigbox.node.v1");
}
/// Boundary between node and guestio.
#[allow(missing_docs, clippy::all, clippy::pedantic, unreachable_pub)] // generated
pub mod guestio {
    tonic::include_proto!("rigbox.guestio.v1");
}
/// Handover of connections of VMs, from the node to the role that serves them.
#[allow(missing_docs, clippy::all, clippy::pedantic, unreachable_pub)] // generated
pub mod bridge {
    tonic::include_proto!("rigbox.bridge.v1");
}
/// Boundary between gateways and node: dialing ports of VMs.
#[allow(missing_docs, clippy::all, clippy::pedantic, unreachable_pub)] // generated
pub mod dial {
    tonic::include_proto!("rigbox.dial.v1");
}
/// Boundary between gateways and control.
#[allow(missing_docs, clippy::all, clippy::pedantic, unreachable_pub)] // generated
pub mod gateway {
    tonic::include_proto!("rigbox.gateway.v1");
}
/// Service of the agent in a VM.
#[allow(missing_docs, clippy::all, clippy::pedantic, unreachable_pub)] // generated
pub mod guest {
    tonic::include_proto!("rigbox.guest.v1");
}
/// Boundary between the SSH gateway and control.
#[allow(missing_docs, clippy::all, clippy::pedantic, unreachable_pub)] // generated
pub mod ssh {
    tonic::include_proto!("rigbox.ssh.v1");
}

/// Implements a `Debug` that shows the message's name and none of its fields.
macro_rules! redacted_debug {
    ($($message:path),* $(,)?) => {$(
        impl std::fmt::Debug for $message {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(concat!(stringify!($message), "(..)"))
            }
        }
    )*};
}
redacted_debug!(
    ai::Setup,
    ai::Upstream,
    ai::ProviderKey,
    ai::OpenOwnCallResponse,
    ai::open_own_call_response::Outcome,
    ai::OwnKey,
    ai::OpenSecretResponse,
    ai::open_secret_response::Outcome,
    ai::Secret,
    gateway::IdentifyRequest,
    gateway::identify_request::Credential,
    gateway::RedeemRequest,
    gateway::RedeemResponse,
    guest::DeliverSecretsRequest,
    guest::Resumed,
    node::MemoryKey,
    ssh::HostKeysResponse,
    ssh::LogInRequest,
    ssh::LogInResponse,
    ssh::log_in_response::Outcome,
    ssh::Granted,
);

/// Metadata of calls to a node: the id of the caller's database.
pub const DATABASE_HEADER: &str = "rigbox-database";
/// Request header with the workspace id, for calls of the guest service from control to guestio.
pub const WORKSPACE_HEADER: &str = "rigbox-workspace";
