//! Transports of the gRPC boundaries between roles.

pub mod unix;
