//! Unix sockets between the node and the unprivileged roles of this machine, on which it hands out descriptors.

pub(crate) mod bridge_listener;
pub(crate) mod dial;
pub(crate) mod guestio;
mod seqpacket;
