//! The gRPC boundaries between Rigbox's roles, as generated from `proto/*.proto`, and what all callers share:
//! faults with a stable code ([`fault`]), the rules of the guest's byte stream
//! ([`stream`]), and unix sockets with known peers ([`unix`]).

pub mod fault;
pub mod stream;
pub mod unix;

/// Control and node.
#[allow(missing_docs, clippy::all, clippy::pedantic, unreachable_pub)] // generated
pub mod node {
    tonic::include_proto!("rigbox.node.v1");
}
/// Node and guestio.
#[allow(missing_docs, clippy::all, clippy::pedantic, unreachable_pub)] // generated
pub mod attend {
    tonic::include_proto!("rigbox.attend.v1");
}
/// Connections of VMs, from the node to the role that answers.
#[allow(missing_docs, clippy::all, clippy::pedantic, unreachable_pub)] // generated
pub mod bridge {
    tonic::include_proto!("rigbox.bridge.v1");
}
/// Gateways and node: connections to ports of VMs.
#[allow(missing_docs, clippy::all, clippy::pedantic, unreachable_pub)] // generated
pub mod dial {
    tonic::include_proto!("rigbox.dial.v1");
}
/// Gateways and control.
#[allow(missing_docs, clippy::all, clippy::pedantic, unreachable_pub)] // generated
pub mod gateway {
    tonic::include_proto!("rigbox.gateway.v1");
}
/// The agent in a VM.
#[allow(missing_docs, clippy::all, clippy::pedantic, unreachable_pub)] // generated
pub mod guest {
    tonic::include_proto!("rigbox.guest.v1");
}

/// A `Debug` that names the message and shows nothing of it.
macro_rules! secret {
    ($($message:path),* $(,)?) => {$(
        impl std::fmt::Debug for $message {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(concat!(stringify!($message), "(..)"))
            }
        }
    )*};
}
secret!(
    gateway::IdentifyRequest,
    gateway::identify_request::Credential,
    gateway::RedeemRequest,
    gateway::Redeemed,
    guest::DeliverRequest,
);

/// Request header that names the workspace when control calls the guest service on guestio.
pub const WORKSPACE_HEADER: &str = "rigbox-workspace";
