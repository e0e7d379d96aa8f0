//! The node's side of the session with guestio: says which VMs there are, passes its reports to their tasks, and connects it to their
//! sockets. Nothing of a guest is read here.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;

use prost::Message;
use rigbox_proto::attend::attendance_server::Attendance;
use rigbox_proto::attend::fd_request::Channel;
use rigbox_proto::attend::{FdReply, FdRequest, Order, Report, Roster, ShutDown, Vm, order};
use rigbox_sys::fdpass;
use rustix::net::sockopt::Timeout;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use tokio::sync::{broadcast, mpsc, watch};
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

use crate::config::{agent_socket, qmp_socket};
use crate::error::Error;
use crate::packets;

/// A VM that guestio attends to.
#[derive(Clone)]
pub(crate) struct Attendee {
    pub(crate) workspace: String,
    pub(crate) about_json: String,
    pub(crate) vm_dir: PathBuf,
    /// Where its reports go.
    pub(crate) reports: mpsc::UnboundedSender<Report>,
}

/// All of them, by boot.
#[derive(Clone)]
pub(crate) struct Attendees {
    roster: watch::Sender<BTreeMap<String, Attendee>>,
    orders: broadcast::Sender<Order>,
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

    pub(crate) fn remove(&self, boot_id: &str) {
        self.roster.send_if_modified(|roster| roster.remove(boot_id).is_some());
    }

    /// Asks the guest to power off. While guestio is away nobody hears it; the caller's deadline ends the VM then.
    pub(crate) fn shut_down(&self, boot_id: &str, grace_ms: u32) {
        let order = order::Order::ShutDown(ShutDown { boot_id: boot_id.to_owned(), grace_ms });
        let _ = self.orders.send(Order { order: Some(order) });
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
            Ok(socket) => fdpass::send(peer, &FdReply::default().encode_to_vec(), &[socket.as_fd()]),
            Err(error) => fdpass::send(peer, &FdReply { error }.encode_to_vec(), &[]),
        }
    }

    fn connect(&self, request: &FdRequest) -> Result<std::os::fd::OwnedFd, String> {
        let attendee = self.roster.borrow().get(&request.boot_id).cloned();
        let attendee = attendee.ok_or_else(|| format!("no VM has the boot {:?}", request.boot_id))?;
        let path = match request.channel() {
            Channel::Agent => agent_socket(&attendee.vm_dir),
            Channel::Qmp => qmp_socket(&attendee.vm_dir),
            Channel::Unspecified => return Err("the request names no channel".into()),
        };
        // Non-blocking: a VMM that does not accept must not stop the node.
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let connected = || {
            let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
            connect(&socket, &SocketAddrUnix::new(&path)?)?;
            Ok::<_, rustix::io::Errno>(socket)
        };
        connected().map_err(|errno| format!("{}: {errno}", path.display()))
    }

    fn orders(&self) -> impl Stream<Item = Result<Order, Status>> + Send + use<> {
        let orders = tokio_stream::wrappers::BroadcastStream::new(self.orders.subscribe());
        let rosters = tokio_stream::wrappers::WatchStream::new(self.roster.subscribe()).map(|roster| {
            let vms = roster.into_iter().map(|(boot_id, attendee)| Vm {
                workspace_id: attendee.workspace,
                boot_id,
                about_json: attendee.about_json,
            });
            Ok(Order { order: Some(order::Order::Roster(Roster { vms: vms.collect() })) })
        });
        let orders =
            orders.map(|order| order.map_err(|_| Status::data_loss("guestio is too slow: begin again")));
        rosters.merge(orders)
    }
}

/// The gRPC service for guestio.
pub(crate) struct Service {
    pub(crate) attendees: Arc<Attendees>,
}

#[tonic::async_trait]
impl Attendance for Service {
    type AttendStream = Pin<Box<dyn Stream<Item = Result<Order, Status>> + Send>>;

    async fn attend(
        &self,
        request: Request<Streaming<Report>>,
    ) -> Result<Response<Self::AttendStream>, Status> {
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
}
