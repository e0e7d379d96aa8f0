//! Simulated socket of the node for gateways: connects ports of workspaces with addresses on this host.

use std::collections::HashMap;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::{Arc, Mutex};

use prost::Message;
use rigbox_proto::dial::{DialRequest, DialResponse};
use rigbox_sys::fdpass;

type Ports = Arc<Mutex<HashMap<(String, String, u32), SocketAddr>>>;

/// Simulated node, as gateways see it.
pub struct Node {
    ports: Ports,
    /// Requests so far.
    pub dialled: Arc<Mutex<Vec<DialRequest>>>,
}

impl Node {
    /// Starts it at `path`.
    pub fn start(path: &Path) -> Self {
        let listener = fdpass::listen(path).unwrap();
        let (ports, dialled) = (Ports::default(), Arc::<Mutex<Vec<DialRequest>>>::default());
        let (these, log) = (Arc::clone(&ports), Arc::clone(&dialled));
        std::thread::spawn(move || {
            while let Ok(peer) = rustix::net::accept(&listener) {
                let Ok((message, _)) = fdpass::receive(&peer, 1024) else { continue };
                let request = DialRequest::decode(message.as_slice()).unwrap();
                log.lock().unwrap().push(request.clone());
                let key = (request.workspace_id, request.boot_id, request.port);
                let address = these.lock().unwrap().get(&key).copied();
                let no_vm = DialResponse { code: "no_vm".to_owned(), message: String::new() };
                let Some(address) = address else {
                    let _ = fdpass::send(&peer, &no_vm.encode_to_vec(), &[]);
                    continue;
                };
                // As the real node does, without waiting for the connection.
                let socket = connecting(address);
                let _ = fdpass::send(&peer, &DialResponse::default().encode_to_vec(), &[socket.as_fd()]);
            }
        });
        Self { ports, dialled }
    }

    /// Lets `port` of a workspace's boot lead to `address`.
    pub fn listens(&self, workspace: &str, boot: &str, port: u32, address: SocketAddr) {
        self.ports.lock().unwrap().insert((workspace.to_owned(), boot.to_owned(), port), address);
    }

    /// Removes all ports.
    pub fn forget(&self) {
        self.ports.lock().unwrap().clear();
    }
}

fn connecting(address: SocketAddr) -> TcpStream {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with};
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None).unwrap();
    match connect(&socket, &address) {
        Ok(()) | Err(rustix::io::Errno::INPROGRESS) => {}
        Err(error) => panic!("{error}"),
    }
    TcpStream::from(socket)
}
