//! VM for tests of the checks: its node hands out connections to a server of the test, whatever is asked for.

use std::net::{SocketAddr, SocketAddrV4, TcpStream as StdStream};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rigbox_core::egress::BlockedNetworks;
use rigbox_proto::guestio::dns_policy::Mode;
use rigbox_proto::guestio::node_session_client::NodeSessionClient;
use rigbox_proto::guestio::{DnsPolicy, FdResponse};
use rigbox_proto::transport::unix;
use rigbox_sys::fdpass;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::allow_list::AllowList;
use crate::descriptors::Descriptors;
use crate::egress::EgressBudget;
use crate::vm::{ReportSender, Vm, VmContext};

pub(super) const TARGET: SocketAddrV4 = SocketAddrV4::new(std::net::Ipv4Addr::new(1, 2, 3, 4), 80);

pub(super) struct Testbed {
    pub(super) vm: Arc<Vm>,
    /// Bytes that the server has read, by connection.
    pub(super) received: Arc<Mutex<Vec<Vec<u8>>>>,
    _folder: tempfile::TempDir,
}

pub(super) fn policy(domains: &[&str], allow_ech: bool) -> DnsPolicy {
    let domains = domains.iter().map(|domain| (*domain).to_owned()).collect();
    DnsPolicy { mode: Mode::Listed.into(), domains, allow_ech }
}

impl Testbed {
    /// Starts the server, which answers each read with `respond`'s result.
    pub(super) async fn start(policy: DnsPolicy, respond: fn(&[u8]) -> Vec<u8>) -> Self {
        Self::start_with_resolvers(policy, respond, &[]).await
    }

    pub(super) async fn start_with_resolvers(
        policy: DnsPolicy,
        respond: fn(&[u8]) -> Vec<u8>,
        resolvers: &[SocketAddr],
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server: SocketAddr = listener.local_addr().unwrap();
        let fd_socket = folder.path().join("fds.sock");
        fdpass::serve(&fd_socket, nix_uid(), "descriptors", move |peer: OwnedFd| {
            fdpass::receive(&peer, 1024).unwrap();
            let socket = StdStream::connect(server).unwrap();
            use prost::Message;
            let _ = fdpass::send(&peer, &FdResponse::default().encode_to_vec(), &[socket.as_fd()]);
        })
        .unwrap();
        let received: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
        tokio::spawn(serve(listener, Arc::clone(&received), respond));
        let context = VmContext {
            descriptors: Descriptors::new(fd_socket),
            node: NodeSessionClient::new(unix::channel(&folder.path().join("none"))),
            resolvers: resolvers.into(),
            blocked_networks: Arc::new(BlockedNetworks::default()),
            internal_zones: Arc::default(),
            egress: EgressBudget::new(crate::DnsLimits::default()),
            reports: ReportSender::default(),
        };
        let vm = rigbox_proto::guestio::Vm { dns_policy: Some(policy), ..Default::default() };
        Self { vm: Arc::new(Vm::new(vm, context)), received, _folder: folder }
    }

    pub(super) fn set_policy(&self, policy: DnsPolicy) {
        self.vm.set_allow_list(AllowList::parse(Some(policy)));
    }

    pub(super) fn received(&self) -> Vec<String> {
        let received = self.received.lock().unwrap();
        received.iter().map(|bytes| String::from_utf8_lossy(bytes).into_owned()).collect()
    }
}

fn nix_uid() -> u32 {
    rustix::process::getuid().as_raw()
}

async fn serve(listener: TcpListener, received: Arc<Mutex<Vec<Vec<u8>>>>, respond: fn(&[u8]) -> Vec<u8>) {
    while let Ok((mut stream, _)) = listener.accept().await {
        let received = Arc::clone(&received);
        let index = {
            let mut all = received.lock().unwrap();
            all.push(Vec::new());
            all.len() - 1
        };
        tokio::spawn(async move {
            let mut buffer = vec![0; 4096];
            while let Ok(length @ 1..) = stream.read(&mut buffer).await {
                let bytes = &buffer[..length];
                received.lock().unwrap()[index].extend(bytes);
                stream.write_all(&respond(bytes)).await.unwrap();
            }
        });
    }
}

/// Returns the two ends of a connection.
pub(super) async fn connection() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap());
    let (client, server) = tokio::join!(client, listener.accept());
    (client.unwrap(), server.unwrap().0)
}

/// Sends bytes, and returns what comes back until `end` or the end of the connection.
pub(super) async fn exchange(stream: &mut TcpStream, bytes: &[u8], end: &str) -> String {
    stream.write_all(bytes).await.unwrap();
    let mut response = Vec::new();
    let read = async {
        let mut buffer = [0; 1024];
        while let Ok(length @ 1..) = stream.read(&mut buffer).await {
            response.extend(&buffer[..length]);
            if !end.is_empty() && String::from_utf8_lossy(&response).ends_with(end) {
                break;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(10), read).await.expect("a response or an end");
    String::from_utf8(response).unwrap()
}
