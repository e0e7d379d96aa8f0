//! Port 443 towards the names on a VM's allow-list. The VM's network turns such connections to here (`to_check` in the node's `vm.nft`), and
//! one goes on only when its TLS asks for a listed name: many names share an address, and the list is of names. What follows the first
//! message is passed on and not looked into.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::time::Duration;

use rigbox_proto::guestio::fd_request::Channel;
use rustls::server::Acceptor;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::fds::FdError;
use crate::refusals::What;
use crate::vm::Vm;

/// Connections of one VM at a time.
const CONNECTIONS: usize = 256;
const HELLO_WITHIN: Duration = Duration::from_secs(10);
const CONNECTED_WITHIN: Duration = Duration::from_secs(30);
/// Longest first message, bytes.
const HELLO: usize = 64 * 1024;
const AGAIN_AFTER: Duration = Duration::from_secs(1);
const PORT: u16 = 443;
const TCP: u8 = 6;

/// Checks for as long as the VM is attended to; dropped with its entry.
pub(crate) async fn attend(vm: Arc<Vm>) {
    loop {
        if let Err(error) = serve(&vm).await {
            tracing::debug!(workspace = %vm.workspace_id, boot = %vm.boot_id, %error, "names in TLS");
        }
        tokio::time::sleep(AGAIN_AFTER).await;
    }
}

async fn serve(vm: &Arc<Vm>) -> Result<(), FdError> {
    let listener: std::net::TcpListener = vm.fds.get(&vm.boot_id, Channel::TlsListener).await?.into();
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, _) = accepted?;
                let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
                let vm = Arc::clone(vm);
                connections.spawn(async move {
                    let _place = place;
                    if let Err(error) = check(&vm, stream).await {
                        tracing::debug!(workspace = %vm.workspace_id, %error, "a connection to port 443");
                    }
                });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Reads the first message and passes everything on, if it may be.
async fn check(vm: &Vm, mut stream: TcpStream) -> io::Result<()> {
    // Where the VM meant to go: the kernel remembers.
    let target: SocketAddrV4 = rustix::net::sockopt::ip_original_dst(&stream)?;
    let mut first = Vec::new();
    let asked = tokio::time::timeout(HELLO_WITHIN, server_name(&mut stream, &mut first)).await?;
    let allowed = |name: &str| vm.names.borrow().needs_admission() && vm.names.borrow().allows(name);
    let Some(name) = asked.ok().filter(|name| allowed(name)) else {
        vm.refusals.note(What::Packet { protocol: TCP, address: *target.ip(), port: PORT });
        return Ok(());
    };
    let mut upstream = tokio::time::timeout(CONNECTED_WITHIN, connect(vm, *target.ip())).await??;
    upstream.write_all(&first).await?;
    for socket in [&stream, &upstream] {
        // What has silently gone does not keep its place for ever.
        rustix::net::sockopt::set_socket_keepalive(socket, true)?;
    }
    let mut names = vm.names.subscribe();
    tokio::select! {
        passed = tokio::io::copy_bidirectional(&mut stream, &mut upstream) => passed.map(drop),
        // A change of the list counts for what is open.
        _ = names.wait_for(|names| !(names.needs_admission() && names.allows(&name))) => Ok(()),
    }
}

/// A connection from the VM's own network, where the VM's own rules hold.
async fn connect(vm: &Vm, address: Ipv4Addr) -> io::Result<TcpStream> {
    let socket = vm.fds.towards(&vm.boot_id, address).await.map_err(io::Error::other)?;
    let stream = std::net::TcpStream::from(socket);
    stream.set_nonblocking(true)?;
    let stream = TcpStream::from_std(stream)?;
    stream.writable().await?;
    match stream.take_error()? {
        Some(error) => Err(error),
        None => Ok(stream),
    }
}

/// The name that the client asks for, in lower case; `first` becomes what it sent so far.
async fn server_name(stream: &mut TcpStream, first: &mut Vec<u8>) -> io::Result<String> {
    let mut acceptor = Acceptor::default();
    let mut buffer = [0; 4096];
    loop {
        let length = stream.read(&mut buffer).await?;
        let mut bytes = buffer.get(..length).unwrap_or_default();
        if bytes.is_empty() || first.len() > HELLO {
            return Err(io::Error::other("no TLS in what it says"));
        }
        first.extend_from_slice(bytes);
        while !bytes.is_empty() {
            acceptor.read_tls(&mut bytes)?;
        }
        match acceptor.accept() {
            Ok(None) => {}
            Ok(Some(accepted)) => {
                let name = accepted.client_hello().server_name().map(str::to_ascii_lowercase);
                return name.ok_or_else(|| io::Error::other("it asks for no name"));
            }
            Err((error, _)) => return Err(io::Error::other(error)),
        }
    }
}
