//! Transports of the gRPC boundaries between roles.

pub mod client;
pub mod unix;
