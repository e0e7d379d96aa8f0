//! The node's side of the session with guestio: says which VMs there are, passes its reports to their tasks, and connects it to their
//! sockets. Nothing of a guest is read here.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;

use prost::Message;
use rigbox_core::egress::Egress;
use rigbox_proto::guestio::fd_request::Channel;
use rigbox_proto::guestio::node_session_server::NodeSession;
use rigbox_proto::guestio::{
    AdmitRequest, AdmitResponse, Command, DnsPolicy, FdRequest, FdResponse, Report, ShutDown, Vm, VmList,
    command, dns_policy,
};
use rigbox_sys::fdpass;
use rustix::net::sockopt::Timeout;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use tokio::sync::{broadcast, mpsc, watch};
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

use crate::config::{agent_socket, qmp_socket};
use crate::error::Error;
use crate::net;
use crate::packets;

/// Where VMs ask for names.
const DNS_PORT: u16 = 53;
/// Where `vm.nft` turns connections that have to be checked.
const TLS_PORT: u16 = 8443;

/// A VM that guestio attends to.
#[derive(Clone)]
pub(crate) struct Attendee {
    pub(crate) workspace: String,
    pub(crate) metadata_json: String,
    pub(crate) vm_dir: PathBuf,
    pub(crate) netns: PathBuf,
    /// What it may reach; none without a way out.
    pub(crate) egress: Egress,
    /// What it may reach by name.
    pub(crate) names: Arc<net::names::Names>,
    /// Where its reports go.
    pub(crate) reports: mpsc::UnboundedSender<Report>,
}

/// All of them, by boot.
#[derive(Clone)]
pub(crate) struct Attendees {
    roster: watch::Sender<BTreeMap<String, Attendee>>,
    orders: broadcast::Sender<Command>,
}

impl Default for Attendees {
    fn default() -> Self {
        Self { roster: watch::Sender::new(BTreeMap::new()), orders: broadcast::Sender::new(256) }
    }
}

impl Attendees {
    pub(crate) fn add(&self, boot_id: &str, attendee: Attendee) {
        self.roster.send_modify(|roster| {
            roster.insert(boot_id.to_owned(), attendee);
        });
    }

    /// What the VM may reach from now on; those of its names that were admitted, to be kept in step.
    pub(crate) fn set_egress(&self, boot_id: &str, egress: Egress) -> Option<Arc<net::names::Names>> {
        let mut names = None;
        self.roster.send_if_modified(|roster| {
            let Some(attendee) = roster.get_mut(boot_id) else { return false };
            names = Some(Arc::clone(&attendee.names));
            std::mem::replace(&mut attendee.egress, egress) != attendee.egress
        });
        names
    }

    pub(crate) fn remove(&self, boot_id: &str) {
        self.roster.send_if_modified(|roster| roster.remove(boot_id).is_some());
    }

    /// Asks the guest to power off. While guestio is away nobody hears it; the caller's deadline ends the VM then.
    pub(crate) fn shut_down(&self, boot_id: &str, grace_ms: u32) {
        let order = command::Command::ShutDown(ShutDown { boot_id: boot_id.to_owned(), grace_ms });
        let _ = self.orders.send(Command { command: Some(order) });
    }

    /// Serves descriptors at `path`, to `uid` only: one answer per connection.
    pub(crate) fn serve_descriptors(&self, path: &Path, uid: u32) -> Result<(), Error> {
        let attendees = self.clone();
        packets::listen(path, uid, "descriptors", move |peer| {
            // A peer that asks nothing must not stop the others; one that went away is its own affair.
            let _ = packets::limit(&peer, Timeout::Recv, std::time::Duration::from_secs(1))
                .and_then(|()| attendees.answer(&peer));
        })
    }

    fn answer(&self, peer: &impl AsFd) -> std::io::Result<()> {
        let (message, _) = fdpass::receive(peer, 1024)?;
        let request = FdRequest::decode(message.as_slice()).map_err(std::io::Error::other)?;
        match self.connect(&request) {
            Ok(socket) => fdpass::send(peer, &FdResponse::default().encode_to_vec(), &[socket.as_fd()]),
            Err(error) => fdpass::send(peer, &FdResponse { error }.encode_to_vec(), &[]),
        }
    }

    fn connect(&self, request: &FdRequest) -> Result<OwnedFd, String> {
        let attendee = self.roster.borrow().get(&request.boot_id).cloned();
        let attendee = attendee.ok_or_else(|| format!("no VM has the boot {:?}", request.boot_id))?;
        let socket = match request.channel() {
            Channel::Agent => return connect_to(&agent_socket(&attendee.vm_dir)),
            Channel::Monitor => return connect_to(&qmp_socket(&attendee.vm_dir)),
            Channel::DnsUdp => net::service_socket(&attendee.netns, SocketType::DGRAM, DNS_PORT),
            Channel::DnsTcp => net::service_socket(&attendee.netns, SocketType::STREAM, DNS_PORT),
            Channel::TlsListener => net::service_socket(&attendee.netns, SocketType::STREAM, TLS_PORT),
            Channel::TlsUpstream => {
                net::socket_towards(&attendee.netns, Ipv4Addr::from_bits(request.address))
            }
            Channel::Nflog => net::refusals_socket(&attendee.netns),
            Channel::Unspecified => return Err("the request names no channel".into()),
        };
        socket.map_err(|error| error.to_string())
    }

    fn orders(&self) -> impl Stream<Item = Result<Command, Status>> + Send + use<> {
        let orders = tokio_stream::wrappers::BroadcastStream::new(self.orders.subscribe());
        let rosters = tokio_stream::wrappers::WatchStream::new(self.roster.subscribe()).map(|roster| {
            let vms = roster.into_iter().map(|(boot_id, attendee)| Vm {
                workspace_id: attendee.workspace,
                boot_id,
                metadata_json: attendee.metadata_json,
                dns_policy: Some(dns_policy(&attendee.egress)),
            });
            Ok(Command { command: Some(command::Command::Vms(VmList { vms: vms.collect() })) })
        });
        let orders =
            orders.map(|order| order.map_err(|_| Status::data_loss("guestio is too slow: begin again")));
        rosters.merge(orders)
    }
}

/// A connection to a VM's socket.
fn connect_to(path: &Path) -> Result<OwnedFd, String> {
    // Non-blocking: a VMM that does not accept must not stop the node.
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let connected = || {
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        connect(&socket, &SocketAddrUnix::new(path)?)?;
        Ok::<_, rustix::io::Errno>(socket)
    };
    connected().map_err(|errno| format!("{}: {errno}", path.display()))
}

/// The names that may be looked up.
fn dns_policy(egress: &Egress) -> DnsPolicy {
    match egress {
        Egress::Internet => DnsPolicy { mode: dns_policy::Mode::Any.into(), domains: vec![] },
        Egress::List { domains, .. } => DnsPolicy {
            mode: dns_policy::Mode::Listed.into(),
            domains: domains.iter().map(ToString::to_string).collect(),
        },
        Egress::None => DnsPolicy { mode: dns_policy::Mode::None.into(), domains: vec![] },
    }
}

/// The gRPC service for guestio.
pub(crate) struct Service {
    pub(crate) attendees: Arc<Attendees>,
}

#[tonic::async_trait]
impl NodeSession for Service {
    type OpenStream = Pin<Box<dyn Stream<Item = Result<Command, Status>> + Send>>;

    async fn open(&self, request: Request<Streaming<Report>>) -> Result<Response<Self::OpenStream>, Status> {
        let mut reports = request.into_inner();
        let attendees = Arc::clone(&self.attendees);
        tokio::spawn(async move {
            while let Ok(Some(report)) = reports.message().await {
                let attendee = attendees.roster.borrow().get(&report.boot_id).cloned();
                if let Some(attendee) = attendee {
                    // A task that has ended needs no report.
                    let _ = attendee.reports.send(report);
                }
            }
        });
        Ok(Response::new(Box::pin(self.attendees.orders())))
    }

    async fn admit(&self, request: Request<AdmitRequest>) -> Result<Response<AdmitResponse>, Status> {
        let request = request.into_inner();
        let attendees = Arc::clone(&self.attendees);
        let admitted = tokio::task::spawn_blocking(move || {
            let attendee = attendees.roster.borrow().get(&request.boot_id).cloned();
            let Some(attendee) = attendee else { return Ok(()) };
            let addresses: Vec<Ipv4Addr> = request.addresses.into_iter().map(Ipv4Addr::from_bits).collect();
            let egress = || attendees.roster.borrow().get(&request.boot_id).map(|vm| vm.egress.clone());
            let ttl = std::time::Duration::from_secs(request.ttl_s.into());
            attendee.names.admit(&attendee.netns, egress, &request.name, &addresses, ttl)
        });
        admitted.await.map_err(|error| Status::internal(error.to_string()))??;
        Ok(Response::new(AdmitResponse {}))
    }
}
