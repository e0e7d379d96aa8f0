//! Reports of a node: the records of its workspaces, and refusals of network access, as the services read them.

use rigbox_core::ids::WorkspaceId;
use rigbox_core::lifecycle::{Desired, Disk, End, EndCause, Observed, ReportOrder, Target, Vm, VmPhase};
use rigbox_core::system::SystemState;
use rigbox_core::time::Timestamp;
use rigbox_proto::node::{
    Cause, Desired as WireDesired, DiskState, EgressRefused, End as WireEnd, VmState, WorkspaceReport,
};

/// Record of a workspace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeReport {
    /// Id of the workspace.
    pub id: WorkspaceId,
    /// Its state.
    pub observed: Observed,
    /// Size of its disk in MiB.
    pub disk_size_mb: u32,
    /// Number of boots that have to end before this one begins. `None` if it does not wait.
    pub queue_position: Option<u32>,
    /// Revision of the network policy that the node has.
    pub network_revision: u64,
}

/// Parses a report. Returns `None` for one that only a newer node can mean.
pub(super) fn parse_report(report: WorkspaceReport) -> Option<NodeReport> {
    let state = match report.desired() {
        WireDesired::Stopped => Desired::Stopped,
        WireDesired::Running => Desired::Running,
        WireDesired::Deleted => Desired::Deleted,
        WireDesired::Unspecified if report.disk() == DiskState::DiskAbsent => Desired::Deleted,
        WireDesired::Unspecified => return None,
    };
    let disk = match report.disk() {
        DiskState::DiskAbsent => Disk::Absent,
        DiskState::DiskIncomplete => Disk::Incomplete,
        DiskState::DiskComplete => Disk::Complete,
        DiskState::Unspecified => return None,
    };
    let phase = match report.vm() {
        VmState::VmNone => None,
        VmState::VmBooting => Some(VmPhase::Booting),
        VmState::VmRunning => Some(VmPhase::Running {
            agent_lost: report.agent_lost,
            // A word that only a newer node knows tells as little as none.
            system: report.system.parse().unwrap_or(SystemState::Starting),
        }),
        VmState::VmStopping => Some(VmPhase::Stopping),
        // A record without a disk needs no word about a VM.
        VmState::Unspecified if disk == Disk::Absent => None,
        VmState::Unspecified => return None,
    };
    let observed = Observed {
        order: ReportOrder { session: report.session, sequence: report.sequence },
        target: Target { generation: report.generation, state },
        disk,
        vm: phase.map(|phase| Vm { boot: report.boot_id, generation: report.boot_generation, phase }),
        end: report.end.map(parse_end),
    };
    Some(NodeReport {
        id: report.workspace_id.parse().ok()?,
        observed,
        disk_size_mb: report.disk_size_mb,
        queue_position: Some(report.queue_position).filter(|position| *position > 0),
        network_revision: report.network_revision,
    })
}

fn parse_end(end: WireEnd) -> End {
    let cause = cause(end.cause());
    End { generation: end.generation, boot: end.boot_id, cause, code: end.code, detail: end.detail }
}

fn cause(cause: Cause) -> EndCause {
    match cause {
        Cause::Requested => EndCause::Requested,
        Cause::Poweroff => EndCause::Poweroff,
        Cause::Reboot => EndCause::Reboot,
        Cause::Halt => EndCause::Halt,
        Cause::KernelPanic => EndCause::KernelPanic,
        Cause::VmmDied => EndCause::VmmDied,
        Cause::AgentNeverAnswered => EndCause::AgentNeverAnswered,
        Cause::Unspecified | Cause::EndedUnobserved => EndCause::Unobserved,
        Cause::HostWentDown => EndCause::HostWentDown,
        Cause::StartFailed => EndCause::StartFailed,
        Cause::Refused => EndCause::Refused,
    }
}

/// Returns a refusal as a text for the workspace's owner. The name in it comes from a guest, and the node has
/// bounded it.
pub(super) fn parse_refusal(refused: &EgressRefused) -> Option<(WorkspaceId, Timestamp, String)> {
    let EgressRefused { workspace_id, unix_ms, protocol, address, port, name, count } = refused;
    let what = match (protocol.as_str(), port) {
        ("dns", _) => format!("a DNS query for {name}"),
        (protocol, 0) => format!("{protocol} to {address}"),
        (protocol, port) => format!("{protocol} to {address} port {port}"),
    };
    let times = if *count > 1 { format!(", {count} times") } else { String::new() };
    let text = format!("Network policy blocked {what}{times}.");
    Some((workspace_id.parse().ok()?, Timestamp::from_unix_ms(*unix_ms), text))
}
