//! Registry of the VMs that this role is attached to: one entry per boot, whose tasks end with the entry.

use std::collections::hash_map::Entry as Slot;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rigbox_proto::guestio::{Report, VmList};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::allow_list::AllowList;
use crate::egress::{dns, http, nflog, sni};
use crate::vm::{Vm, VmContext};
use crate::{agent_session, monitor, streams_session};

/// All attached VMs, by boot id.
#[derive(Clone)]
pub(crate) struct VmRegistry {
    entries: Arc<Mutex<HashMap<String, Entry>>>,
    context: VmContext,
}

struct Entry {
    vm: Arc<Vm>,
    detached: CancellationToken,
    _tasks: [AbortOnDropHandle<()>; 7],
}

impl VmRegistry {
    pub(crate) fn new(context: VmContext) -> Self {
        Self { entries: Arc::default(), context }
    }

    /// Starts a new session with the node. The receiver gets the reports until it is dropped.
    pub(crate) fn subscribe(&self) -> mpsc::Receiver<Report> {
        self.context.reports.subscribe()
    }

    /// Attaches to exactly these VMs, but leaves alone those that the node is still taking over. VMs that were attached before keep their
    /// sessions, and their reports are repeated once to each session with the node, which has told `told` VMs.
    pub(crate) fn set_vms(&self, list: VmList, told: &mut HashSet<String>) {
        let mut entries = self.entries();
        entries.retain(|boot_id, entry| {
            let is_listed = list.vms.iter().any(|vm| vm.boot_id == *boot_id);
            let stays = is_listed || list.recovering_boot_ids.contains(boot_id);
            if !stays {
                entry.detached.cancel();
                told.remove(boot_id);
            }
            stays
        });
        for vm in list.vms {
            let is_news = told.insert(vm.boot_id.clone());
            match entries.entry(vm.boot_id.clone()) {
                Slot::Occupied(entry) => {
                    let attached = &entry.get().vm;
                    if is_news {
                        attached.report_again();
                        // A restarted node may not know what its predecessor admitted.
                        attached.dns_cache().clear();
                    }
                    attached.set_order(&vm);
                    attached.set_allow_list(AllowList::parse(vm.dns_policy));
                    attached.set_dns_limits(vm.dns_limits);
                }
                Slot::Vacant(entry) => {
                    entry.insert(self.attach(vm));
                }
            }
        }
    }

    fn attach(&self, vm: rigbox_proto::guestio::Vm) -> Entry {
        let vm = Arc::new(Vm::new(vm, self.context.clone()));
        tracing::info!(workspace = %vm.workspace_id, boot = %vm.boot_id, "attaching to VM");
        let tasks = [
            AbortOnDropHandle::new(tokio::spawn(agent_session::run(Arc::clone(&vm)))),
            AbortOnDropHandle::new(tokio::spawn(streams_session::run(Arc::clone(&vm)))),
            AbortOnDropHandle::new(tokio::spawn(monitor::run(Arc::clone(&vm)))),
            AbortOnDropHandle::new(tokio::spawn(dns::run(Arc::clone(&vm)))),
            AbortOnDropHandle::new(tokio::spawn(sni::run(Arc::clone(&vm)))),
            AbortOnDropHandle::new(tokio::spawn(http::run(Arc::clone(&vm)))),
            AbortOnDropHandle::new(tokio::spawn(nflog::run(Arc::clone(&vm)))),
        ];
        Entry { vm, detached: CancellationToken::new(), _tasks: tasks }
    }

    /// Returns the VM of a boot.
    pub(crate) fn by_boot(&self, boot_id: &str) -> Option<Arc<Vm>> {
        self.entries().get(boot_id).map(|entry| Arc::clone(&entry.vm))
    }

    /// Returns the VM of a workspace, and a token that is canceled when it is detached.
    pub(crate) fn by_workspace(&self, workspace_id: &str) -> Option<(Arc<Vm>, CancellationToken)> {
        let entries = self.entries();
        let entry = entries.values().find(|entry| entry.vm.workspace_id == workspace_id)?;
        Some((Arc::clone(&entry.vm), entry.detached.clone()))
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<String, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use rigbox_core::egress::BlockedNetworks;
    use rigbox_proto::guestio::node_session_client::NodeSessionClient;
    use rigbox_proto::guestio::{Vm as WireVm, guest_ended, report};
    use rigbox_proto::transport::unix;

    use super::*;
    use crate::descriptors::Descriptors;
    use crate::egress::EgressBudget;
    use crate::vm::ReportSender;

    fn registry() -> VmRegistry {
        let nowhere = Path::new("/nonexistent");
        VmRegistry::new(VmContext {
            descriptors: Descriptors::new(nowhere.to_owned()),
            node: NodeSessionClient::new(unix::channel(nowhere)),
            resolvers: [].into(),
            blocked_networks: Arc::new(BlockedNetworks::default()),
            internal_zones: Arc::default(),
            egress: EgressBudget::new(crate::DnsLimits::default()),
            reports: ReportSender::default(),
        })
    }

    fn list(attached: &[&str], recovering: &[&str]) -> VmList {
        let vm = |boot_id: &&str| WireVm {
            boot_id: (*boot_id).to_owned(),
            workspace_id: format!("of-{boot_id}"),
            ..WireVm::default()
        };
        VmList {
            vms: attached.iter().map(vm).collect(),
            recovering_boot_ids: recovering.iter().map(|boot_id| (*boot_id).to_owned()).collect(),
        }
    }

    #[tokio::test]
    async fn vm_stays_attached_while_a_restarted_node_takes_it_over_and_reports_again_afterwards() {
        let registry = registry();
        let _first_session = registry.subscribe();
        registry.set_vms(list(&["boot"], &[]), &mut HashSet::new());
        let (vm, detached) = registry.by_workspace("of-boot").unwrap();
        vm.set_ended(guest_ended::Cause::Poweroff, "");

        let (mut reports, mut told) = (registry.subscribe(), HashSet::new());
        registry.set_vms(list(&[], &["boot"]), &mut told);
        assert!(reports.try_recv().is_err(), "the node would not know which VM it is about");
        registry.set_vms(list(&["boot"], &[]), &mut told);
        assert!(matches!(reports.try_recv().unwrap().report, Some(report::Report::GuestEnded(_))));
        registry.set_vms(list(&["boot"], &[]), &mut told);
        assert!(reports.try_recv().is_err(), "it was told");
        assert!(!detached.is_cancelled());
        registry.set_vms(list(&[], &[]), &mut told);
        assert!(detached.is_cancelled());
    }
}
