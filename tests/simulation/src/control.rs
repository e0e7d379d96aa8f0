//! The control role's process: the reconciler and the services above a real database, started, and killed where it is.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use rigbox_core::lifecycle::Timeouts;
use rigbox_core::plans::Plans;
use rigbox_service::database::{KeySource, TokenKey};
use rigbox_service::environment::Environments;
use rigbox_service::guests::secret_delivery::SecretDelivery;
use rigbox_service::network::NetworkPolicies;
use rigbox_service::nodes::client::NodeClient;
use rigbox_service::reconciler::Reconciler;
use rigbox_service::targets::Targets;
use rigbox_service::transitions::WorkspaceTransitions;
use rigbox_service::vm_limits::OwnerLimits;
use rigbox_service::workspaces::Workspaces;
use rigbox_store::{Clock, Store, WriteFault};
use tokio::task::JoinSet;

use crate::network::{Agents, NodeConnection};
use crate::node::Node;
use crate::timeouts;
use crate::world::World;

/// Share of writes that fail, per mille.
const WRITE_FAULTS: u64 = 30;

pub(crate) struct Control {
    world: Arc<World>,
    node: Arc<Node>,
    folder: PathBuf,
    running: Mutex<Option<Running>>,
}

/// Services of the process that runs.
#[derive(Clone)]
pub(crate) struct Services {
    pub store: Store,
    pub transitions: WorkspaceTransitions,
    pub workspaces: Workspaces,
    pub environments: Environments,
    pub networks: NetworkPolicies,
}

struct Running {
    services: Services,
    tasks: JoinSet<()>,
}

impl Control {
    pub(crate) fn new(world: &Arc<World>, node: &Arc<Node>, folder: &Path) -> Arc<Self> {
        let (world, node) = (Arc::clone(world), Arc::clone(node));
        Arc::new(Self { world, node, folder: folder.to_owned(), running: Mutex::default() })
    }

    pub(crate) fn database(&self) -> PathBuf {
        database_of(&self.folder)
    }

    pub(crate) fn services(&self) -> Option<Services> {
        self.running.lock().unwrap().as_ref().map(|running| running.services.clone())
    }

    pub(crate) async fn start(&self) {
        if self.services().is_some() {
            return;
        }
        self.world.note("control starts");
        let (store, token_key) = open(&self.folder, &self.world).await;
        let connection = NodeConnection { world: Arc::clone(&self.world), node: Arc::clone(&self.node) };
        let node = NodeClient::over(Arc::new(connection));
        let transitions = WorkspaceTransitions::new(store.clone());
        let agents = Arc::new(Agents(Arc::clone(&self.world)));
        let secrets = SecretDelivery::new(store.clone(), token_key, agents, "rigbox.localhost", Vec::new());
        let limits = OwnerLimits::new(store.clone(), Plans::default());
        let targets = Targets::new(store.clone(), limits, String::new());
        let networks = NetworkPolicies::new(store.clone(), node.clone(), targets.clone());
        let reconciler = Reconciler::new(
            transitions.clone(),
            node.clone(),
            secrets,
            networks.clone(),
            targets,
            Timeouts::default(),
        );
        let synced = reconciler.synced();
        let services = Services {
            store,
            workspaces: Workspaces::new(transitions.clone(), node, Plans::default()),
            environments: Environments::new(transitions.clone()),
            networks: networks.clone(),
            transitions,
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(reconciler.run());
        tasks.spawn(async move { networks.run(synced).await });
        tasks.spawn(timeouts::watch(Arc::clone(&self.world), services.store.clone()));
        *self.running.lock().unwrap() = Some(Running { services, tasks });
    }

    /// Runs a request of a client in the process, with which it ends.
    pub(crate) fn spawn(&self, request: impl Future<Output = ()> + Send + 'static) {
        if let Some(running) = self.running.lock().unwrap().as_mut() {
            running.tasks.spawn(request);
        }
    }

    /// Ends the process where it is.
    pub(crate) async fn crash(&self) {
        let running = self.running.lock().unwrap().take();
        let Some(Running { services, mut tasks }) = running else { return };
        self.world.note("control crashes");
        tasks.shutdown().await;
        // Tasks of the reconciler's own end with it.
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        services.store.close().await;
    }

    /// Fails if a task of the process has panicked.
    pub(crate) fn check(&self) {
        let mut running = self.running.lock().unwrap();
        while let Some(ended) = running.as_mut().and_then(|running| running.tasks.try_join_next()) {
            if let Err(error) = ended
                && error.is_panic()
            {
                std::panic::resume_unwind(error.into_panic());
            }
        }
    }
}

pub(crate) fn database_of(folder: &Path) -> PathBuf {
    folder.join("rigbox.db")
}

/// Opens the database of a folder, whose writes the world disturbs.
pub(crate) async fn open(folder: &Path, world: &Arc<World>) -> (Store, TokenKey) {
    let token_key = TokenKey::load_or_create(&folder.join("token.key")).unwrap();
    let chance = Arc::clone(world);
    let opened = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let faults = {
        let opened = Arc::clone(&opened);
        Arc::new(move || {
            if !opened.load(std::sync::atomic::Ordering::SeqCst) || !chance.disturbs(WRITE_FAULTS) {
                return None;
            }
            let fault = *chance.random.pick(&[WriteFault::NotWritten, WriteFault::Written]);
            chance.note(format!("a write fails: {fault:?}"));
            Some(fault)
        })
    };
    let store = Store::open_in_turn(&database_of(folder), &token_key, faults).await.unwrap();
    let days = Arc::clone(world);
    let store = store.with_clock(Clock::simulated(move || days.now()));
    let key = KeySource::File(folder.join("master.key"));
    let store = store.unlock(key, world.now()).await.unwrap();
    opened.store(true, std::sync::atomic::Ordering::SeqCst);
    (store, token_key)
}
