//! The edge role over real sockets: a real server in front of a real app. Control and the node are replaced
//! by a table (`support::gateway`) and by a socket that connects to the app (`support::node`).

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)] // clippy knows the functions of tests only by their attribute

mod bodies;
mod clients;
mod grpc;
mod limits;
mod many;
mod memory;
mod requirements;
mod responses;
mod reuse;
mod sign_in;
mod smuggling;
mod streams;
mod stripping;
mod support;
mod table;
mod tls;
mod websockets;
