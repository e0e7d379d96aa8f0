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
