//! The VMs that this role attends to: one entry per boot, with its agent session and its QMP connection as tasks that end with the
//! entry.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use rigbox_proto::guest::guest_client::GuestClient;
use rigbox_proto::guestio::node_session_client::NodeSessionClient;
use rigbox_proto::guestio::{GuestEnded, Report, guest_ended, report};
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tonic::transport::Channel;

use crate::fds::Fds;
use crate::names::Names;
use crate::refusals::Refusals;
use crate::{agent, dns, qmp_task, refusals, tls};

/// What the agent of a VM is to its callers.
#[derive(Clone)]
pub(crate) enum AgentState {
    /// Not heard of yet in this boot.
    Awaited,
    Ready(GuestClient<Channel>),
    /// Why it does not answer.
    Lost(String),
}

/// One boot of one workspace.
pub(crate) struct Vm {
    pub(crate) workspace_id: String,
    pub(crate) boot_id: String,
    pub(crate) metadata_json: String,
    pub(crate) fds: Fds,
    /// To have addresses let through.
    pub(crate) node: NodeSessionClient<Channel>,
    pub(crate) resolvers: Arc<[SocketAddr]>,
    pub(crate) names: watch::Sender<Names>,
    pub(crate) refusals: Refusals,
    pub(crate) agent: watch::Sender<AgentState>,
    /// How systemd said the system would end.
    pub(crate) announced: watch::Sender<Option<guest_ended::Cause>>,
    ended: Mutex<Option<GuestEnded>>,
    /// Asked to shut down within so many ms.
    pub(crate) shut_down: watch::Sender<Option<u32>>,
    /// To press the power button, when the agent cannot be asked.
    pub(crate) power_button: Notify,
    reports: Reports,
}

impl Vm {
    pub(crate) fn report(&self, report: report::Report) {
        self.reports.send(Report { boot_id: self.boot_id.clone(), report: Some(report) });
    }

    /// The agent's state, told to callers and to the node.
    pub(crate) fn set_agent(&self, state: AgentState) {
        if let Some(report) = report_of(&state) {
            self.report(report);
        }
        self.agent.send_replace(state);
    }

    /// The guest is over. Only the first cause counts.
    pub(crate) fn set_ended(&self, cause: guest_ended::Cause, detail: &str) {
        let end = GuestEnded { cause: cause.into(), detail: crate::text::clean(detail) };
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        if ended.is_none() {
            *ended = Some(end.clone());
            self.report(report::Report::GuestEnded(end));
        }
    }

    /// Says again all that the node has to know, after it was restarted.
    fn report_again(&self) {
        if let Some(report) = report_of(&self.agent.borrow()) {
            self.report(report);
        }
        if let Some(end) = self.ended.lock().unwrap_or_else(PoisonError::into_inner).clone() {
            self.report(report::Report::GuestEnded(end));
        }
    }
}

fn report_of(state: &AgentState) -> Option<report::Report> {
    match state {
        AgentState::Awaited => None,
        AgentState::Ready(_) => Some(report::Report::AgentReady(rigbox_proto::guestio::AgentReady {})),
        AgentState::Lost(reason) => {
            Some(report::Report::AgentLost(rigbox_proto::guestio::AgentLost { reason: reason.clone() }))
        }
    }
}

/// Reports on their way to the node; while it is away they are dropped, and said again when it is back.
#[derive(Clone)]
struct Reports {
    sender: Arc<Mutex<Option<mpsc::Sender<Report>>>>,
}

impl Reports {
    fn send(&self, report: Report) {
        let mut sender = self.sender.lock().unwrap_or_else(PoisonError::into_inner);
        // A queue that is full means a node that does not read: it gets a new session, and then everything again.
        if sender.as_ref().is_some_and(|sender| sender.try_send(report).is_err()) {
            *sender = None;
        }
    }
}

struct Entry {
    vm: Arc<Vm>,
    cancel: CancellationToken,
    _tasks: [AbortOnDropHandle<()>; 5],
}

/// All VMs, by boot.
#[derive(Clone)]
pub(crate) struct Vms {
    entries: Arc<Mutex<HashMap<String, Entry>>>,
    reports: Reports,
    surroundings: Surroundings,
}

/// What all VMs share.
#[derive(Clone)]
pub(crate) struct Surroundings {
    pub(crate) fds: Fds,
    pub(crate) node: NodeSessionClient<Channel>,
    pub(crate) resolvers: Arc<[SocketAddr]>,
}

/// More reports on their way than this mean that the node does not read.
const QUEUE: usize = 4096;

impl Vms {
    pub(crate) fn new(surroundings: Surroundings) -> Self {
        Self { entries: Arc::default(), reports: Reports { sender: Arc::default() }, surroundings }
    }

    /// A new session with the node: what is known is said again, then each change, until the receiver is dropped.
    pub(crate) fn subscribe(&self) -> mpsc::Receiver<Report> {
        let (sender, receiver) = mpsc::channel(QUEUE);
        *self.reports.sender.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender);
        receiver
    }

    /// Attends to exactly these VMs. Those known before keep their sessions and are reported again when `again`.
    pub(crate) fn set_roster(&self, roster: Vec<rigbox_proto::guestio::Vm>, again: bool) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.retain(|boot_id, entry| {
            let stays = roster.iter().any(|vm| vm.boot_id == *boot_id);
            if !stays {
                entry.cancel.cancel();
            }
            stays
        });
        if again {
            entries.values().for_each(|entry| entry.vm.report_again());
        }
        for vm in roster {
            match entries.entry(vm.boot_id.clone()) {
                Slot::Occupied(entry) => {
                    entry.get().vm.names.send_replace(Names::of(vm.dns_policy));
                }
                Slot::Vacant(entry) => {
                    entry.insert(self.attend(vm));
                }
            }
        }
    }

    fn attend(&self, vm: rigbox_proto::guestio::Vm) -> Entry {
        let vm = Arc::new(Vm {
            workspace_id: vm.workspace_id,
            boot_id: vm.boot_id,
            metadata_json: vm.metadata_json,
            fds: self.surroundings.fds.clone(),
            node: self.surroundings.node.clone(),
            resolvers: Arc::clone(&self.surroundings.resolvers),
            names: watch::Sender::new(Names::of(vm.dns_policy)),
            refusals: Refusals::default(),
            agent: watch::Sender::new(AgentState::Awaited),
            announced: watch::Sender::new(None),
            ended: Mutex::default(),
            shut_down: watch::Sender::new(None),
            power_button: Notify::new(),
            reports: self.reports.clone(),
        });
        tracing::info!(workspace = %vm.workspace_id, boot = %vm.boot_id, "attending");
        let tasks = [
            AbortOnDropHandle::new(tokio::spawn(agent::attend(Arc::clone(&vm)))),
            AbortOnDropHandle::new(tokio::spawn(qmp_task::attend(Arc::clone(&vm)))),
            AbortOnDropHandle::new(tokio::spawn(dns::attend(Arc::clone(&vm)))),
            AbortOnDropHandle::new(tokio::spawn(tls::attend(Arc::clone(&vm)))),
            AbortOnDropHandle::new(tokio::spawn(refusals::attend(Arc::clone(&vm)))),
        ];
        Entry { vm, cancel: CancellationToken::new(), _tasks: tasks }
    }

    /// The VM of a boot.
    pub(crate) fn of_boot(&self, boot_id: &str) -> Option<Arc<Vm>> {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.get(boot_id).map(|entry| Arc::clone(&entry.vm))
    }

    /// The VM of a workspace, and a token that is cancelled when it is let go.
    pub(crate) fn of_workspace(&self, workspace_id: &str) -> Option<(Arc<Vm>, CancellationToken)> {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = entries.values().find(|entry| entry.vm.workspace_id == workspace_id)?;
        Some((Arc::clone(&entry.vm), entry.cancel.clone()))
    }
}
