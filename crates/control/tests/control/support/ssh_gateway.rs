//! The SSH gateway beside control, and a client of it.

use std::net::{Ipv4Addr, SocketAddr};

use rigbox_proto::ssh::HostKeysRequest;
use rigbox_proto::ssh::ssh_gateway_client::SshGatewayClient;
use rigbox_ssh::authentication::{USERAUTH, is_service_accept, service_request};
use rigbox_ssh::connection::Connection;
use rigbox_ssh::transport::Transport;
use rigbox_ssh::{Config, Limits};
use rigbox_ssh_keys::private_key::PrivateKey;
use tokio::net::TcpStream;
use tokio::runtime::Runtime;

use super::{TestControl, runtime};

/// SSH gateway, whose VMs cannot be dialed.
pub(crate) struct SshGateway {
    address: SocketAddr,
    host_key: Vec<u8>,
    runtime: Option<Runtime>,
}

impl SshGateway {
    pub(crate) async fn start(rig: &TestControl, limits: Limits) -> Self {
        let config = Config {
            listen: (Ipv4Addr::LOCALHOST, 0).into(),
            control_socket: rig.path("ssh.sock"),
            dial_socket: rig.path("no-node.sock"),
            streams: None,
            limits,
        };
        let bound = rigbox_ssh::bind(config).unwrap();
        let (address, runtime) = (bound.address(), runtime());
        runtime.spawn(async move { bound.run(std::future::pending()).await.unwrap() });
        let channel = rigbox_proto::transport::unix::channel(&rig.path("ssh.sock"));
        let keys = SshGatewayClient::new(channel).host_keys(HostKeysRequest {}).await.unwrap().into_inner();
        let host_key = PrivateKey::ed25519(&keys.seeds[0]).unwrap().public();
        Self { address, host_key, runtime: Some(runtime) }
    }

    /// Like `kill -9` of the gateway.
    pub(crate) fn kill(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }

    /// Returns a connection that may log in.
    pub(crate) async fn connect(&self) -> Connection<TcpStream> {
        let stream = TcpStream::connect(self.address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let mut connection = Connection::new(stream, Transport::client(self.host_key.clone()).unwrap());
        connection.open().await.unwrap();
        connection.send(&service_request(USERAUTH)).await.unwrap();
        assert!(is_service_accept(&connection.receive().await.unwrap()));
        connection
    }
}

impl Drop for SshGateway {
    fn drop(&mut self) {
        self.kill();
    }
}
