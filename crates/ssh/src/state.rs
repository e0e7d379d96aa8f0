//! State that all sessions of the gateway share.

use std::sync::Arc;

use rigbox_core::ids::WorkspaceId;
use rigbox_gateway::active_grants::ActiveGrants;
use rigbox_gateway::attempts::{FailedAttempts, Quota, quota};
use rigbox_gateway::clock::Clock;
use rigbox_gateway::connections::{ConnectionTimeouts, Connections};
use rigbox_gateway::dial::Dialer;
use rigbox_shares::{AddressBlock, Bounds, Shares};
use rigbox_ssh_keys::private_key::PrivateKey;

use crate::config::{Config, Limits};
use crate::control::{Control, Decision};
use crate::host_keys::CurrentHostKeys;

/// Refused log-ins of a client a minute, after a burst. Keys that a client only offers do not count.
const REFUSED_BY_ADDRESS: Quota = quota(20, 60);
/// Refused log-ins of a client by one user name a minute, after a burst. Those of other clients do not count: a stranger could lock out the
/// owner.
const REFUSED_BY_NAME: Quota = quota(10, 30);
/// Maximum number of clients that are logged in to one VM at once. More would all wait longer there, until none of them is in time.
const MAX_VM_LOG_INS: usize = 8;

/// The gateway.
pub(crate) struct Gateway {
    pub(crate) control: Control,
    pub(crate) host_keys: CurrentHostKeys,
    pub(crate) clock: Arc<Clock>,
    pub(crate) connections: Arc<Connections>,
    pub(crate) grants: Arc<ActiveGrants<Decision>>,
    pub(crate) sessions: Shares<WorkspaceId>,
    /// Clients that are being logged in to their VM.
    pub(crate) vm_log_ins: Shares<WorkspaceId>,
    pub(crate) dialer: Dialer,
    pub(crate) by_address: FailedAttempts<AddressBlock>,
    pub(crate) by_name: FailedAttempts<(AddressBlock, String)>,
    pub(crate) limits: Limits,
}

impl Gateway {
    pub(crate) fn new(config: Config, control: Control, host_keys: Arc<[PrivateKey]>) -> Arc<Self> {
        let (clock, limits) = (Clock::new(), config.limits);
        let timeouts = ConnectionTimeouts { head: limits.log_in, keep_alive: limits.log_in };
        // Connections of clients, per IPv4 address or IPv6 /64: 10,000 and 1,000.
        let bounds = Bounds { total: limits.connections, per_key: limits.connections_per_address };
        // Sessions, per workspace: as many as connections, and 500.
        let sessions = Bounds { total: limits.connections, per_key: limits.sessions_per_workspace };
        // Log-ins to VMs, per workspace: as many as connections, and 8.
        let vm_log_ins = Bounds { total: limits.connections, per_key: MAX_VM_LOG_INS };
        Arc::new(Self {
            control,
            host_keys: CurrentHostKeys::new(host_keys),
            connections: Connections::new(Arc::clone(&clock), timeouts, bounds),
            grants: ActiveGrants::new(Arc::clone(&clock)),
            clock,
            sessions: Shares::new(sessions),
            vm_log_ins: Shares::new(vm_log_ins),
            dialer: Dialer { socket: config.dial_socket, timeout: limits.vm },
            by_address: FailedAttempts::new(REFUSED_BY_ADDRESS),
            by_name: FailedAttempts::new(REFUSED_BY_NAME),
            limits,
        })
    }
}
