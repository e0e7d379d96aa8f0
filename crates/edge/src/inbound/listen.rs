//! Listening sockets: one per worker, sharing an address.

use std::io;
use std::net::{SocketAddr, TcpListener};

use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::error::Error;

/// Length of the queue of connections to be accepted.
const BACKLOG: i32 = 4096;
/// Descriptor limit to ask for: enough for the default of [`crate::Limits::connections`].
const WANTED_DESCRIPTORS: u64 = 131_072;

/// Opens `count` sockets at one address. The first may choose the port.
pub(crate) fn listen_all(address: &mut SocketAddr, count: usize) -> Result<Vec<TcpListener>, Error> {
    let mut listeners = Vec::with_capacity(count);
    for _ in 0..count {
        let opened = listen(*address).and_then(|listener| Ok((listener.local_addr()?, listener)));
        let (chosen, listener) = opened.map_err(|source| Error::Listen { address: *address, source })?;
        *address = chosen;
        listeners.push(listener);
    }
    Ok(listeners)
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    sockopt::set_socket_reuseport(&socket, true)?;
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(TcpListener::from(socket))
}

/// Raises the descriptor limit as far as possible (root may exceed the hard limit), and returns it.
pub(crate) fn raise_descriptor_limit() -> usize {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let all = |limit: u64| Rlimit { current: Some(limit), maximum: Some(limit) };
    let wanted = maximum.map_or(WANTED_DESCRIPTORS, |maximum| maximum.max(WANTED_DESCRIPTORS));
    let raised = setrlimit(Resource::Nofile, all(wanted)).map(|()| wanted);
    let raised = raised.or_else(|_| {
        let maximum = maximum.unwrap_or(wanted);
        setrlimit(Resource::Nofile, all(maximum)).map(|()| maximum)
    });
    raised.ok().and_then(|raised| usize::try_from(raised).ok()).unwrap_or(1024)
}
