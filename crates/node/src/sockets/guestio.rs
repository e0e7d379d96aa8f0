//! The node's side of the session with guestio: lists the VMs that run, passes guestio's reports to their tasks, and hands out
//! descriptors of their sockets. The node reads no byte of a guest here.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prost::Message;
use rigbox_core::egress::{Egress, is_checked};
use rigbox_proto::guestio::fd_request::Channel;
use rigbox_proto::guestio::node_session_server::NodeSession;
use rigbox_proto::guestio::{
    AdmitRequest, AdmitResponse, Command, DnsLimits, DnsPolicy, FdRequest, FdResponse, RefusalReport,
    RefusalResponse, Report, RunState, ShutDown, Vm, VmList, Vmm, command, dns_policy, report,
};
use rigbox_sys::fdpass;
use rustix::fs::{Mode, OFlags, open};
use rustix::net::SocketType;
use rustix::net::sockopt::Timeout;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{broadcast, mpsc, watch};
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

use super::seqpacket;
use crate::config::{agent_socket, firecracker_log, firecracker_metrics, monitor_socket, streams_socket};
use crate::error::Error;
use crate::net;
use crate::net::admitted_names::{Admission, AdmissionPool, AdmittedNames};
use crate::record::ProcessId;
use crate::refusals::Refusals;
use crate::sandbox::run_folder;
use crate::vmm::firecracker::{API_SOCKET, VSOCK_SOCKET};
use crate::vmm::kind::VmmKind;

/// Port of the VM's resolver.
const DNS_PORT: u16 = 53;
/// Ports to which `vm.nft` redirects connections whose name has to be checked: by the TLS handshake, and by the requests.
const TLS_PORT: u16 = 8443;
const HTTP_PORT: u16 = 8080;
/// Commands by which guestio may lag before it has to start over.
const MAX_COMMAND_LAG: usize = 256;
const MAX_FD_REQUEST_BYTES: usize = 1024;
const FD_REQUEST_TIMEOUT: Duration = Duration::from_secs(1);
/// Maximum length of a text in a report, in characters.
const MAX_REPORT_TEXT_CHARS: usize = 1024;

/// VM that guestio is attached to.
#[derive(Clone)]
pub(crate) struct AttachedVm {
    pub(crate) workspace: String,
    pub(crate) metadata_json: String,
    pub(crate) vmm: VmmKind,
    /// Uid of the VMM, and its process, where that is known.
    pub(crate) uid: u32,
    pub(crate) process: Option<ProcessId>,
    pub(crate) vm_dir: PathBuf,
    pub(crate) netns: PathBuf,
    /// Destinations that the VM may reach; none without an uplink.
    pub(crate) egress: Egress,
    pub(crate) dns_limits: DnsLimits,
    pub(crate) admitted_names: Arc<AdmittedNames>,
    /// State that the VMM is to be in, and the epoch of its guest.
    pub(crate) run_state: RunState,
    pub(crate) epoch: u32,
    /// The VMM has no guest until it is loaded.
    pub(crate) is_restored: bool,
    /// End of a pipe for the VM's memory, until guestio fetches it.
    pub(crate) memory_pipe: MemorySlot,
    /// Receiver of guestio's reports about the VM.
    pub(crate) reports: mpsc::Sender<Report>,
}

/// Place of a descriptor that is handed out once.
pub(crate) type MemorySlot = Arc<Mutex<Option<OwnedFd>>>;

/// All attached VMs, by boot id.
#[derive(Clone)]
pub(crate) struct AttachedVms {
    vms: watch::Sender<Vms>,
    commands: broadcast::Sender<Command>,
}

/// VMs by boot id.
#[derive(Clone, Default)]
struct Vms {
    attached: BTreeMap<String, AttachedVm>,
    /// Those of an earlier process of the node that were not looked for yet. guestio keeps what it has of them.
    recovering: BTreeSet<String>,
}

impl Default for AttachedVms {
    fn default() -> Self {
        Self { vms: watch::Sender::default(), commands: broadcast::Sender::new(MAX_COMMAND_LAG) }
    }
}

impl AttachedVms {
    /// Lets guestio keep what it has of a VM, until this is inserted or removed.
    pub(crate) fn recover(&self, boot_id: &str) {
        self.vms.send_modify(|vms| {
            vms.recovering.insert(boot_id.to_owned());
        });
    }

    pub(crate) fn insert(&self, boot_id: &str, vm: AttachedVm) {
        self.vms.send_modify(|vms| {
            vms.recovering.remove(boot_id);
            vms.attached.insert(boot_id.to_owned(), vm);
        });
    }

    /// Sets the destinations that a VM may reach, and its limits. Returns its admitted names, which have to be updated as well.
    pub(crate) fn set_policy(
        &self,
        boot_id: &str,
        egress: Egress,
        dns_limits: DnsLimits,
    ) -> Option<Arc<AdmittedNames>> {
        let mut admitted_names = None;
        self.vms.send_if_modified(|vms| {
            let Some(vm) = vms.attached.get_mut(boot_id) else { return false };
            admitted_names = Some(Arc::clone(&vm.admitted_names));
            let changed = vm.egress != egress || vm.dns_limits != dns_limits;
            (vm.egress, vm.dns_limits) = (egress, dns_limits);
            changed
        });
        admitted_names
    }

    /// Sets the state that a VMM is to be in, and the epoch of its guest.
    pub(crate) fn set_run_state(&self, boot_id: &str, run_state: RunState, epoch: u32) {
        self.vms.send_if_modified(|vms| {
            let Some(vm) = vms.attached.get_mut(boot_id) else { return false };
            let changed = (vm.run_state, vm.epoch) != (run_state, epoch);
            (vm.run_state, vm.epoch) = (run_state, epoch);
            changed
        });
    }

    /// Offers guestio a pipe for the memory of a VM, or takes it back.
    pub(crate) fn set_memory_pipe(&self, boot_id: &str, pipe: Option<OwnedFd>) {
        if let Some(vm) = self.get(boot_id) {
            *vm.memory_pipe.lock().unwrap_or_else(PoisonError::into_inner) = pipe;
        }
    }

    pub(crate) fn remove(&self, boot_id: &str) {
        self.vms.send_if_modified(|vms| {
            let was_recovering = vms.recovering.remove(boot_id);
            vms.attached.remove(boot_id).is_some() || was_recovering
        });
    }

    /// Asks the guest to power off. While guestio is away this has no effect, and the VM is killed at the caller's deadline.
    pub(crate) fn shut_down(&self, boot_id: &str, grace_ms: u32) {
        let command = command::Command::ShutDown(ShutDown { boot_id: boot_id.to_owned(), grace_ms });
        let _ = self.commands.send(Command { command: Some(command) });
    }

    /// Serves descriptors to `uid` at `path`: one request per connection.
    pub(crate) fn serve_descriptors(&self, path: &Path, uid: u32) -> Result<(), Error> {
        let attached_vms = self.clone();
        seqpacket::listen(path, uid, "descriptors", move |peer| {
            // A silent peer must not block the others. A peer that disconnected needs no response.
            let _ = seqpacket::set_timeout(&peer, Timeout::Recv, FD_REQUEST_TIMEOUT)
                .and_then(|()| attached_vms.serve_descriptor(&peer));
        })
    }

    fn serve_descriptor(&self, peer: &impl AsFd) -> std::io::Result<()> {
        let (message, _) = fdpass::receive(peer, MAX_FD_REQUEST_BYTES)?;
        let request = FdRequest::decode(message.as_slice()).map_err(std::io::Error::other)?;
        match self.open_socket(&request) {
            Ok(socket) => fdpass::send(peer, &FdResponse::default().encode_to_vec(), &[socket.as_fd()]),
            Err(error) => fdpass::send(peer, &FdResponse { error }.encode_to_vec(), &[]),
        }
    }

    fn open_socket(&self, request: &FdRequest) -> Result<OwnedFd, String> {
        let vm = self.get(&request.boot_id);
        let vm = vm.ok_or_else(|| format!("no VM with boot id {:?}", request.boot_id))?;
        let socket = match request.channel() {
            Channel::Agent => return vm.connect(&agent_socket(&vm.vm_dir), VSOCK_SOCKET),
            Channel::Streams => return vm.connect(&streams_socket(&vm.vm_dir), VSOCK_SOCKET),
            Channel::Monitor => return vm.connect(&monitor_socket(&vm.vm_dir), API_SOCKET),
            Channel::Console => return vm.open_console(),
            Channel::Log => return open_pipe(&firecracker_log(&vm.vm_dir)),
            Channel::Metrics => return open_pipe(&firecracker_metrics(&vm.vm_dir)),
            Channel::Memory => return vm.take_memory_pipe(),
            Channel::DnsUdp => net::service_socket(&vm.netns, SocketType::DGRAM, DNS_PORT),
            Channel::DnsTcp => net::service_socket(&vm.netns, SocketType::STREAM, DNS_PORT),
            Channel::TlsListener => net::service_socket(&vm.netns, SocketType::STREAM, TLS_PORT),
            Channel::HttpListener => net::service_socket(&vm.netns, SocketType::STREAM, HTTP_PORT),
            Channel::CheckedUpstream => {
                let port = u16::try_from(request.port).ok().filter(|port| is_checked(*port));
                let port = port.ok_or_else(|| format!("port {} is not a checked one", request.port))?;
                net::connect_checked(&vm.netns, Ipv4Addr::from_bits(request.address), port)
            }
            Channel::Nflog => net::nflog_socket(&vm.netns),
            Channel::Unspecified => return Err("the request has no channel".into()),
        };
        socket.map_err(|error| error.to_string())
    }

    fn get(&self, boot_id: &str) -> Option<AttachedVm> {
        self.vms.borrow().attached.get(boot_id).cloned()
    }

    fn command_stream(&self) -> impl Stream<Item = Result<Command, Status>> + Send + use<> {
        let vm_lists = tokio_stream::wrappers::WatchStream::new(self.vms.subscribe()).map(|vms| {
            let recovering_boot_ids = vms.recovering.into_iter().collect();
            let vms = vms.attached.into_iter().map(|(boot_id, vm)| Vm {
                workspace_id: vm.workspace,
                boot_id,
                metadata_json: vm.metadata_json,
                dns_policy: Some(dns_policy_of(&vm.egress)),
                dns_limits: Some(vm.dns_limits),
                vmm: match vm.vmm {
                    VmmKind::Qemu => Vmm::Qemu,
                    VmmKind::Firecracker => Vmm::Firecracker,
                }
                .into(),
                run_state: vm.run_state.into(),
                epoch: vm.epoch,
                is_restored: vm.is_restored,
            });
            Ok(Command {
                command: Some(command::Command::Vms(VmList { vms: vms.collect(), recovering_boot_ids })),
            })
        });
        let commands = tokio_stream::wrappers::BroadcastStream::new(self.commands.subscribe());
        let commands =
            commands.map(|command| command.map_err(|_| Status::data_loss("guestio is too slow; reconnect")));
        vm_lists.merge(commands)
    }
}

impl AttachedVm {
    /// Connects to a socket of the VMM: to `ours` in the VM's folder, if the node has made it, or to `theirs` in the VMM's own.
    fn connect(&self, ours: &Path, theirs: &str) -> Result<OwnedFd, String> {
        match self.vmm {
            VmmKind::Qemu => run_folder::connect_without_waiting(ours)
                .map_err(|error| format!("{}: {error}", ours.display())),
            VmmKind::Firecracker => run_folder::connect_to(&self.vm_dir, theirs, self.uid)
                .map_err(|error| format!("the VMM's `{theirs}`: {error}")),
        }
    }

    /// Opens the pipe that the VMM writes the guest's console to.
    fn open_console(&self) -> Result<OwnedFd, String> {
        let process = self.process.ok_or("the VM has no process yet")?;
        process.open_output().map_err(|error| format!("the VMM's output: {error}"))
    }

    fn take_memory_pipe(&self) -> Result<OwnedFd, String> {
        let mut slot = self.memory_pipe.lock().unwrap_or_else(PoisonError::into_inner);
        slot.take().ok_or_else(|| "the VM's memory is not being saved".to_owned())
    }
}

/// Opens a pipe that the VMM writes to, which the node has made.
fn open_pipe(path: &Path) -> Result<OwnedFd, String> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    open(path, flags, Mode::empty()).map_err(|error| format!("{}: {error}", path.display()))
}

fn dns_policy_of(egress: &Egress) -> DnsPolicy {
    match egress {
        Egress::Internet => DnsPolicy { mode: dns_policy::Mode::Any.into(), ..DnsPolicy::default() },
        Egress::List { domains, allow_ech, .. } => DnsPolicy {
            mode: dns_policy::Mode::Listed.into(),
            domains: domains.iter().map(ToString::to_string).collect(),
            allow_ech: *allow_ech,
        },
        Egress::None => DnsPolicy { mode: dns_policy::Mode::None.into(), ..DnsPolicy::default() },
    }
}

/// Bounds the texts of a report, which go to the journal, to control and to the log.
fn shortened(mut report: Report) -> Report {
    let text = match &mut report.report {
        Some(report::Report::AgentLost(lost)) => &mut lost.reason,
        Some(report::Report::GuestEnded(ended)) => &mut ended.detail,
        Some(report::Report::StateReached(reached)) => &mut reached.error,
        _ => return report,
    };
    *text = text.chars().filter(|c| !c.is_control()).take(MAX_REPORT_TEXT_CHARS).collect();
    report
}

/// gRPC service for guestio.
pub(crate) struct GuestioService {
    pub(crate) attached_vms: Arc<AttachedVms>,
    pub(crate) admission_pool: AdmissionPool,
    pub(crate) refusals: Refusals,
}

#[tonic::async_trait]
impl NodeSession for GuestioService {
    type OpenStream = Pin<Box<dyn Stream<Item = Result<Command, Status>> + Send>>;

    async fn open(&self, request: Request<Streaming<Report>>) -> Result<Response<Self::OpenStream>, Status> {
        let mut reports = request.into_inner();
        let attached_vms = Arc::clone(&self.attached_vms);
        tokio::spawn(async move {
            while let Ok(Some(report)) = reports.message().await {
                if let Some(vm) = attached_vms.get(&report.boot_id) {
                    // Never waits: one VM's task must not hold back the reports of the others. One that has ended needs no report.
                    if let Err(TrySendError::Full(_)) = vm.reports.try_send(shortened(report)) {
                        tracing::warn!(
                            workspace = vm.workspace,
                            "too many reports from guestio; dropping one"
                        );
                    }
                }
            }
        });
        Ok(Response::new(Box::pin(self.attached_vms.command_stream())))
    }

    async fn report_refusals(
        &self,
        request: Request<RefusalReport>,
    ) -> Result<Response<RefusalResponse>, Status> {
        let RefusalReport { boot_id, refused } = request.into_inner();
        if let Some(vm) = self.attached_vms.get(&boot_id) {
            self.refusals.publish(&vm.workspace, refused);
        }
        Ok(Response::new(RefusalResponse {}))
    }

    async fn admit(&self, request: Request<AdmitRequest>) -> Result<Response<AdmitResponse>, Status> {
        let AdmitRequest { boot_id, name, addresses, ttl_s } = request.into_inner();
        if let Some(vm) = self.attached_vms.get(&boot_id) {
            let addresses = addresses.into_iter().map(Ipv4Addr::from_bits).collect();
            let admission = Admission { name, addresses, ttl: Duration::from_secs(ttl_s.into()) };
            let attached_vms = Arc::clone(&self.attached_vms);
            let current_egress = move || attached_vms.get(&boot_id).map(|vm| vm.egress);
            let AttachedVm { workspace, netns, admitted_names, .. } = vm;
            admitted_names.admit(&self.admission_pool, &workspace, netns, current_egress, admission).await?;
        }
        Ok(Response::new(AdmitResponse {}))
    }
}

#[cfg(test)]
mod fuzz;

#[cfg(test)]
mod tests {
    use rigbox_core::egress::BlockedNetworks;

    use super::*;

    #[tokio::test]
    async fn guestio_hears_of_changed_limits_and_not_of_unchanged_ones() {
        let vms = AttachedVms::default();
        let limits = |queries| DnsLimits { queries, queries_per_s: 5 };
        #[expect(clippy::disallowed_methods, reason = "bound: one VM of a test")]
        let (reports, _reports) = mpsc::channel(1);
        let vm = AttachedVm {
            workspace: "ws-1".to_owned(),
            metadata_json: String::new(),
            vmm: VmmKind::Qemu,
            uid: 0,
            process: None,
            vm_dir: PathBuf::new(),
            netns: PathBuf::new(),
            egress: Egress::Internet,
            dns_limits: limits(64),
            admitted_names: Arc::new(AdmittedNames::new(BlockedNetworks::default())),
            run_state: RunState::Running,
            epoch: 0,
            is_restored: false,
            memory_pipe: MemorySlot::default(),
            reports,
        };
        vms.insert("boot", vm);
        let mut commands = Box::pin(vms.command_stream());
        let mut next = async || {
            let command = tokio::time::timeout(Duration::from_millis(100), commands.next()).await.ok()?;
            match command.unwrap().unwrap().command {
                Some(command::Command::Vms(list)) => list.vms.first().and_then(|vm| vm.dns_limits),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(next().await, Some(limits(64)));
        assert!(vms.set_policy("boot", Egress::Internet, limits(2)).is_some());
        assert_eq!(next().await, Some(limits(2)));
        assert!(vms.set_policy("boot", Egress::Internet, limits(2)).is_some());
        assert_eq!(next().await, None);
    }

    #[tokio::test]
    async fn vm_of_an_earlier_process_is_left_to_guestio_until_it_was_looked_for() {
        let vms = AttachedVms::default();
        vms.recover("boot");
        let mut commands = Box::pin(vms.command_stream());
        let mut next = async || match commands.next().await.unwrap().unwrap().command {
            Some(command::Command::Vms(list)) => list,
            other => panic!("{other:?}"),
        };
        assert_eq!(next().await.recovering_boot_ids, ["boot"]);
        vms.remove("boot");
        assert_eq!(next().await, VmList::default());
    }
}
