//! Transports between the agent and its host.

pub(super) mod virtio_serial;
