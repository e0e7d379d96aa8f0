//! Connections of the checks to where the VM wanted to connect.

use std::io;
use std::net::SocketAddrV4;
use std::time::Duration;

use tokio::net::TcpStream;

use crate::vm::Vm;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// Connects from the VM's own network, where the VM's own rules apply.
pub(super) async fn connect(vm: &Vm, target: SocketAddrV4) -> io::Result<TcpStream> {
    let connect = async {
        let socket =
            vm.context.descriptors.connect_checked(&vm.boot_id, target).await.map_err(io::Error::other)?;
        let stream = std::net::TcpStream::from(socket);
        stream.set_nonblocking(true)?;
        let stream = TcpStream::from_std(stream)?;
        stream.writable().await?;
        match stream.take_error()? {
            Some(error) => Err(error),
            None => Ok(stream),
        }
    };
    let stream = tokio::time::timeout(CONNECT_TIMEOUT, connect).await??;
    keep_alive(&stream)?;
    Ok(stream)
}

/// Makes the kernel ask after a silent peer: one that vanished must not hold its place for ever.
pub(super) fn keep_alive(stream: &TcpStream) -> io::Result<()> {
    Ok(rustix::net::sockopt::set_socket_keepalive(stream, true)?)
}
