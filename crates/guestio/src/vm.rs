//! One boot of one VM, as its tasks share it, and the reports about it to the node.

use std::fmt::Display;
use std::net::{SocketAddr, SocketAddrV4};
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use rigbox_core::egress::{BlockedNetworks, InternalZones};
use rigbox_core::system::SystemState;
use rigbox_proto::guestio::node_session_client::NodeSessionClient;
use rigbox_proto::guestio::{
    AgentLost, AgentReady, DnsLimits, GuestEnded, Report, RunState, StateReached, SystemChanged, Vmm,
    guest_ended, report,
};
use rigbox_proto::transport::client::Channel;
use tokio::sync::{Notify, mpsc, watch};

use crate::agent_client::AgentClient;
use crate::allow_list::AllowList;
use crate::descriptors::Descriptors;
use crate::egress::dns::cache::Cache;
use crate::egress::{DnsShare, EgressBudget};
use crate::refusal_counter::{Destination, RefusalCounter};
use crate::sanitize::sanitize;

/// Maximum number of queued reports. A longer queue means that the node does not read.
const MAX_QUEUED_REPORTS: usize = 4096;
const IPPROTO_TCP: u8 = 6;
/// Log lines of one kind that a VM can cause.
const LOG_RATE: Quota = Quota::per_minute(NonZeroU32::MIN.saturating_add(5));

/// State of a VM's agent, as callers see it.
#[derive(Clone)]
pub(crate) enum AgentState {
    /// No session yet in this boot.
    Pending,
    /// Answers, and has heard of this epoch.
    Ready(AgentClient, u32),
    /// The session is lost; holds the reason.
    Lost(String),
}

/// State that a VMM is to be in, and the epoch of its guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Order {
    pub(crate) run_state: RunState,
    pub(crate) epoch: u32,
}

/// Order of a VM that never stood still.
pub(crate) const FRESH: Order = Order { run_state: RunState::Running, epoch: 0 };

impl Order {
    fn of(vm: &rigbox_proto::guestio::Vm) -> Self {
        let run_state = match vm.run_state() {
            RunState::Unspecified => RunState::Running,
            stated => stated,
        };
        Self { run_state, epoch: vm.epoch }
    }
}

/// Dependencies that all VMs share.
#[derive(Clone)]
pub(crate) struct VmContext {
    pub(crate) descriptors: Descriptors,
    /// Client for the admission of addresses.
    pub(crate) node: NodeSessionClient<Channel>,
    pub(crate) resolvers: Arc<[SocketAddr]>,
    pub(crate) blocked_networks: Arc<BlockedNetworks>,
    pub(crate) internal_zones: Arc<InternalZones>,
    pub(crate) egress: EgressBudget,
    pub(crate) reports: ReportSender,
}

/// One boot of one workspace.
pub(crate) struct Vm {
    pub(crate) workspace_id: String,
    pub(crate) boot_id: String,
    pub(crate) metadata_json: String,
    pub(crate) vmm: Vmm,
    pub(crate) context: VmContext,
    pub(crate) allow_list: watch::Sender<AllowList>,
    pub(crate) refusals: RefusalCounter,
    dns_cache: Mutex<Cache>,
    dns_share: Mutex<Arc<DnsShare>>,
    /// Log lines that the VM can cause.
    pub(crate) log_rate: DefaultDirectRateLimiter,
    pub(crate) agent: watch::Sender<AgentState>,
    /// The agent's second session, while it is open.
    pub(crate) streams: watch::Sender<Option<AgentClient>>,
    /// State of the guest's system, once the agent has told it.
    system: Mutex<Option<SystemState>>,
    /// Kind of shutdown that systemd has announced.
    pub(crate) announced: watch::Sender<Option<guest_ended::Cause>>,
    ended: Mutex<Option<GuestEnded>>,
    /// State that the VMM is to be in.
    pub(crate) order: watch::Sender<Order>,
    /// The guest runs, as far as its VMM has been told: there is somebody to have a session with.
    pub(crate) is_running: watch::Sender<bool>,
    /// The VMM has no guest until it is loaded.
    pub(crate) is_restored: bool,
    /// Last report of a state in which the guest stands still.
    reached: Mutex<Option<StateReached>>,
    /// Requested shutdown, with its grace period in ms.
    pub(crate) shut_down: watch::Sender<Option<u32>>,
    /// Requests a press of the power button, if the agent cannot be asked.
    pub(crate) power_button: Notify,
}

impl Vm {
    pub(crate) fn new(vm: rigbox_proto::guestio::Vm, context: VmContext) -> Self {
        let dns_share = DnsShare::new(context.egress.dns_limits(vm.dns_limits));
        let order = Order::of(&vm);
        Self {
            vmm: vm.vmm(),
            is_restored: vm.is_restored,
            // One that was out of time may still be.
            is_running: watch::Sender::new(order == FRESH),
            order: watch::Sender::new(order),
            reached: Mutex::default(),
            dns_cache: Mutex::default(),
            dns_share: Mutex::new(Arc::new(dns_share)),
            log_rate: RateLimiter::direct(LOG_RATE),
            workspace_id: vm.workspace_id,
            boot_id: vm.boot_id,
            metadata_json: vm.metadata_json,
            context,
            allow_list: watch::Sender::new(AllowList::parse(vm.dns_policy)),
            refusals: RefusalCounter::default(),
            agent: watch::Sender::new(AgentState::Pending),
            streams: watch::Sender::new(None),
            system: Mutex::default(),
            announced: watch::Sender::new(None),
            ended: Mutex::default(),
            shut_down: watch::Sender::new(None),
            power_button: Notify::new(),
        }
    }

    pub(crate) fn dns_cache(&self) -> MutexGuard<'_, Cache> {
        self.dns_cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn dns_share(&self) -> Arc<DnsShare> {
        Arc::clone(&self.dns_share.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Sets the limits of the VM's DNS queries. Those that did not change go on counting.
    pub(crate) fn set_dns_limits(&self, limits: Option<DnsLimits>) {
        let limits = self.context.egress.dns_limits(limits);
        let mut share = self.dns_share.lock().unwrap_or_else(PoisonError::into_inner);
        if share.limits != limits {
            *share = Arc::new(DnsShare::new(limits));
        }
    }

    /// Sets the names that the VM may use.
    pub(crate) fn set_allow_list(&self, list: AllowList) {
        let changed = self.allow_list.send_if_modified(|current| {
            let changed = *current != list;
            *current = list;
            changed
        });
        if changed {
            // What is admitted changes with the list.
            self.dns_cache().clear();
        }
    }

    /// Sets the state that the VMM is to be in.
    pub(crate) fn set_order(&self, vm: &rigbox_proto::guestio::Vm) {
        let order = Order::of(vm);
        self.order.send_if_modified(|current| {
            let changed = *current != order;
            *current = order;
            changed
        });
    }

    /// Waits until the guest runs. Returns its epoch.
    pub(crate) async fn running(&self) -> u32 {
        let (mut running, mut order) = (self.is_running.subscribe(), self.order.subscribe());
        loop {
            let found = *order.borrow_and_update();
            if found.run_state == RunState::Running && *running.borrow_and_update() {
                return found.epoch;
            }
            // The senders live as long as this.
            tokio::select! {
                _ = running.changed() => {}
                _ = order.changed() => {}
            }
        }
    }

    /// Waits until the guest of this epoch does not run any more.
    pub(crate) async fn left(&self, epoch: u32) {
        let (mut running, mut order) = (self.is_running.subscribe(), self.order.subscribe());
        let runs = Order { run_state: RunState::Running, epoch };
        tokio::select! {
            _ = running.wait_for(|is_running| !is_running) => {}
            _ = order.wait_for(|order| *order != runs) => {}
        }
    }

    /// Reports that the VMM is in a state in which the guest stands still, or why it cannot get there.
    pub(crate) fn set_reached(&self, state: RunState, error: Option<&str>) {
        let error = error.map(sanitize).unwrap_or_default();
        let reached = StateReached { state: state.into(), error };
        *self.reached.lock().unwrap_or_else(PoisonError::into_inner) = Some(reached.clone());
        self.report(report::Report::StateReached(reached));
    }

    /// Records that the guest was let run, or reports why it could not be.
    pub(crate) fn set_running<E: Display>(&self, done: Result<(), E>) -> Result<(), E> {
        match &done {
            Ok(()) => {
                *self.reached.lock().unwrap_or_else(PoisonError::into_inner) = None;
                self.is_running.send_replace(true);
            }
            Err(error) => self.set_reached(RunState::Running, Some(&error.to_string())),
        }
        done
    }

    /// Counts a refused connection to a checked port.
    pub(crate) fn refuse_checked(&self, target: SocketAddrV4) {
        let (address, port) = (*target.ip(), target.port());
        self.refusals.count(Destination::Address { protocol: IPPROTO_TCP, address, port });
    }

    pub(crate) fn report(&self, report: report::Report) {
        self.context.reports.send(Report { boot_id: self.boot_id.clone(), report: Some(report) });
    }

    /// Sets the agent's state and reports it to the node.
    pub(crate) fn set_agent(&self, state: AgentState) {
        if let Some(report) = agent_report(&state) {
            self.report(report);
        }
        self.agent.send_replace(state);
    }

    /// Sets the state of the guest's system and reports it to the node.
    pub(crate) fn set_system(&self, state: SystemState) {
        *self.system.lock().unwrap_or_else(PoisonError::into_inner) = Some(state);
        self.report(system_report(state));
    }

    /// Records and reports the end of the guest. Only the first cause counts.
    pub(crate) fn set_ended(&self, cause: guest_ended::Cause, detail: &str) {
        let end = GuestEnded { cause: cause.into(), detail: sanitize(detail) };
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        if ended.is_none() {
            *ended = Some(end.clone());
            self.report(report::Report::GuestEnded(end));
        }
    }

    /// Repeats the reports that a restarted node needs.
    pub(crate) fn report_again(&self) {
        if let Some(report) = agent_report(&self.agent.borrow()) {
            self.report(report);
        }
        if let Some(state) = *self.system.lock().unwrap_or_else(PoisonError::into_inner) {
            self.report(system_report(state));
        }
        if let Some(reached) = self.reached.lock().unwrap_or_else(PoisonError::into_inner).clone() {
            self.report(report::Report::StateReached(reached));
        }
        if let Some(end) = self.ended.lock().unwrap_or_else(PoisonError::into_inner).clone() {
            self.report(report::Report::GuestEnded(end));
        }
    }
}

fn agent_report(state: &AgentState) -> Option<report::Report> {
    match state {
        AgentState::Pending => None,
        AgentState::Ready(_, epoch) => Some(report::Report::AgentReady(AgentReady { epoch: *epoch })),
        AgentState::Lost(reason) => Some(report::Report::AgentLost(AgentLost { reason: reason.clone() })),
    }
}

fn system_report(state: SystemState) -> report::Report {
    report::Report::SystemChanged(SystemChanged { state: state.to_string() })
}

/// Queue of reports to the node. While the node is away, reports are dropped; they are repeated when it is back.
#[derive(Clone, Default)]
pub(crate) struct ReportSender {
    sender: Arc<Mutex<Option<mpsc::Sender<Report>>>>,
}

impl ReportSender {
    /// Starts a new queue in place of the one before.
    pub(crate) fn subscribe(&self) -> mpsc::Receiver<Report> {
        #[expect(
            clippy::disallowed_methods,
            reason = "bound: reports to the node; a node that does not read gets a new session with all of them"
        )]
        let (sender, receiver) = mpsc::channel(MAX_QUEUED_REPORTS);
        *self.sender.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender);
        receiver
    }

    fn send(&self, report: Report) {
        let mut sender = self.sender.lock().unwrap_or_else(PoisonError::into_inner);
        // A full queue means that the node does not read. It gets a new session, in which everything is repeated.
        if sender.as_ref().is_some_and(|sender| sender.try_send(report).is_err()) {
            *sender = None;
        }
    }
}
