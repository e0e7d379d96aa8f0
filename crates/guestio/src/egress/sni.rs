//! TLS server name check for VMs with an allow-list. The VM's network redirects connections to port 443 of listed names here
//! (`checked_redirect` in the node's `vm.nft`). A connection is forwarded only if its ClientHello asks for a listed name, because many
//! names share an address, and for no other one in an encrypted part, unless the list's owner allows that. Everything after the
//! ClientHello is forwarded without inspection.

use std::io;
use std::net::SocketAddrV4;
use std::sync::Arc;
use std::time::Duration;

use rigbox_core::egress::HTTPS_PORT;
use rigbox_proto::guestio::fd_request::Channel;
use rustls::server::Acceptor;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::allow_list::AllowList;
use crate::egress::accept::serve_redirected;
use crate::egress::encrypted_name::has_encrypted_name;
use crate::egress::upstream;
use crate::vm::Vm;

const CLIENT_HELLO_TIMEOUT: Duration = Duration::from_secs(10);
const MAX_CLIENT_HELLO_BYTES: usize = 64 * 1024;

/// Checks connections for as long as the VM is attached.
pub(crate) async fn run(vm: Arc<Vm>) {
    let forward = |vm: Arc<Vm>, stream, target| async move { forward(&vm, stream, target).await };
    serve_redirected(vm, Channel::TlsListener, forward).await;
}

/// Reads the ClientHello of a connection, and forwards the connection if its server name is allowed.
async fn forward(vm: &Vm, mut stream: TcpStream, target: SocketAddrV4) -> io::Result<()> {
    let mut client_hello = Vec::new();
    let name = read_server_name(&mut stream, &mut client_hello);
    let name = tokio::time::timeout(CLIENT_HELLO_TIMEOUT, name).await?;
    let is_listed = |list: &AllowList, name: &str| {
        list.allows(name, HTTPS_PORT) && (list.allows_ech() || !has_encrypted_name(&client_hello))
    };
    let Some(name) = name.ok().filter(|name| is_listed(&vm.allow_list.borrow(), name)) else {
        vm.refuse_checked(target);
        return Ok(());
    };
    upstream::keep_alive(&stream)?;
    let mut upstream = upstream::connect(vm, target).await?;
    upstream.write_all(&client_hello).await?;
    let mut allow_list = vm.allow_list.subscribe();
    tokio::select! {
        copied = tokio::io::copy_bidirectional(&mut stream, &mut upstream) => copied.map(drop),
        // A change of the list applies to open connections as well.
        _ = allow_list.wait_for(|list| !is_listed(list, &name)) => Ok(()),
    }
}

/// Reads the server name of the client's TLS handshake, in lower case. Stores the bytes that were read in `client_hello`.
async fn read_server_name(
    stream: &mut (impl AsyncRead + Unpin),
    client_hello: &mut Vec<u8>,
) -> io::Result<String> {
    let mut acceptor = Acceptor::default();
    let mut buffer = [0; 4096];
    loop {
        let length = stream.read(&mut buffer).await?;
        let mut bytes = buffer.get(..length).unwrap_or_default();
        if bytes.is_empty() || client_hello.len() > MAX_CLIENT_HELLO_BYTES {
            return Err(io::Error::other("the client sent no TLS handshake"));
        }
        client_hello.extend_from_slice(bytes);
        while !bytes.is_empty() {
            acceptor.read_tls(&mut bytes)?;
        }
        match acceptor.accept() {
            Ok(None) => {}
            Ok(Some(accepted)) => {
                let name = accepted.client_hello().server_name().map(str::to_ascii_lowercase);
                return name.ok_or_else(|| io::Error::other("the client sent no server name"));
            }
            Err((error, _)) => return Err(io::Error::other(error)),
        }
    }
}

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests;
