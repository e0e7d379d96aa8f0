//! Bytes of clients on their way in: sockets, and the strict reading of HTTP/1.

pub(crate) mod http1;
pub(crate) mod listen;
