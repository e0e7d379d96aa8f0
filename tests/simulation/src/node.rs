//! The node's process: started, and killed where it is.

use std::sync::{Arc, Mutex};

use rigbox_node::Workspaces;
use tokio::sync::watch;

use crate::machine::NodeProcess;
use crate::world::World;

pub(crate) struct Node {
    world: Arc<World>,
    running: Mutex<Option<Running>>,
}

/// Process of the node that runs.
#[derive(Clone)]
pub(crate) struct Running {
    pub host: Arc<NodeProcess>,
    pub workspaces: Workspaces<NodeProcess>,
    pub alive: watch::Receiver<bool>,
    /// Ends with the process.
    ends: watch::Sender<bool>,
}

impl Node {
    pub(crate) fn new(world: &Arc<World>) -> Arc<Self> {
        Arc::new(Self { world: Arc::clone(world), running: Mutex::default() })
    }

    pub(crate) fn is_running(&self) -> bool {
        self.running.lock().unwrap().is_some()
    }

    pub(crate) fn start(&self) {
        if self.is_running() {
            return;
        }
        self.world.note("node starts");
        let host = NodeProcess::start(&self.world);
        let workspaces = Workspaces::new(Arc::clone(&host));
        self.world.machine().recover_unrecorded();
        let records = self.world.machine().records();
        for (id, record) in records {
            workspaces.adopt(id, record);
        }
        let (ends, alive) = watch::channel(true);
        *self.running.lock().unwrap() = Some(Running { host, workspaces, alive, ends });
    }

    pub(crate) fn crash(&self) {
        let running = self.running.lock().unwrap().take();
        if let Some(running) = running {
            self.world.note("node crashes");
            running.host.kill();
            running.ends.send_replace(false);
        }
    }

    pub(crate) fn running(&self) -> Option<Running> {
        self.running.lock().unwrap().clone()
    }
}
