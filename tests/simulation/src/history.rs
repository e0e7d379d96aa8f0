//! One history: what a seed makes happen, and the calm after it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rigbox_core::authz::{
    Action, CreateWorkspace, Credential, DeleteWorkspace, OperateWorkspace, Principal, Scope, Target,
    WriteEnv, WriteNetwork, authorize,
};
use rigbox_core::egress::Egress;
use rigbox_core::ids::{KeyId, UserId, WorkspaceId};
use rigbox_core::lifecycle::Lifecycle;
use rigbox_core::names::WorkspaceName;
use rigbox_core::plans::{LimitOverrides, Plan};
use rigbox_core::resources::Resources;
use rigbox_core::status::{Request, Status};
use rigbox_core::templates;
use rigbox_service::error::ServiceError;
use rigbox_service::network::NetworkChange;
use rigbox_service::nodes::orphans;
use rigbox_store::{AuditEvent, EnvironmentNames, Quota, Workspace};

use crate::control::{Control, Services, database_of};
use crate::machine::Disk;
use crate::network::{MARKER, NODE_ID};
use crate::node::Node;
use crate::oracle::{Answer, Oracle, may_delete};
use crate::world::World;

/// Longest time between two events, in ms.
const MAX_GAP_MS: u64 = 6_000;
/// Longest time after which what has begun is canceled at once, in ms.
const MAX_HASTE_MS: u64 = 100;
const MAX_EVENTS: u64 = 60;
const MAX_WORKSPACES: usize = 3;
/// Longest time that one side is down, in ms.
const MAX_OUTAGE_MS: u64 = 15_000;
/// Time after which everything has settled by itself: longer than an outage, a boot and the end of a guest that hangs, and shorter than the
/// time-outs of a start and a deletion, which would hide what got lost.
const CALM: Duration = Duration::from_secs(110);

/// Time in which the start of a workspace without its disk fails.
const START_WITHOUT_DISK: Duration = Duration::from_secs(20);

/// Interval at which a client asks for a workspace that is being deleted.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

pub(crate) struct Outcome {
    pub trace: Vec<String>,
    pub violations: Vec<String>,
}

/// Runs the history of a seed. `template` is the folder of a database without workspaces.
pub(crate) fn run(seed: u64, template: &Path) -> Outcome {
    let shared_memory = Path::new("/dev/shm");
    let folder =
        if shared_memory.is_dir() { tempfile::tempdir_in(shared_memory) } else { tempfile::tempdir() };
    let folder = folder.unwrap();
    for file in fs::read_dir(template).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), folder.path().join(file.file_name())).unwrap();
    }
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    // Within the runtime, whose clock stands still.
    runtime.block_on(async { History::new(seed, folder.path()).run().await })
}

struct History {
    world: Arc<World>,
    node: Arc<Node>,
    control: Arc<Control>,
    oracle: Arc<Oracle>,
    user: Option<Principal>,
    seed: u64,
    made: u8,
}

impl History {
    fn new(seed: u64, folder: &Path) -> Self {
        let world = Arc::new(World::new(seed));
        let node = Node::new(&world);
        let control = Control::new(&world, &node, folder);
        Self { world, node, control, oracle: Arc::default(), user: None, seed, made: 0 }
    }

    async fn run(mut self) -> Outcome {
        self.node.start();
        self.control.start().await;
        let store = self.control.services().unwrap().store;
        let user = store.users().await.unwrap().remove(0).id;
        self.user = Some(principal(user));
        for _ in 0..=self.world.random.below(MAX_EVENTS) {
            self.world.pause(MAX_GAP_MS).await;
            self.event().await;
            self.control.check();
        }
        self.world.calm_down();
        self.node.start();
        self.control.start().await;
        tokio::time::sleep(CALM).await;
        self.control.check();
        self.oracle.check(&self.world, &self.control.services().unwrap().store).await;
        self.start_lost().await;
        Outcome { trace: self.world.trace(), violations: self.world.violations() }
    }

    async fn event(&mut self) {
        match self.world.random.below(112) {
            0..14 => {
                self.create();
                self.change_mind().await;
            }
            14..34 => {
                self.request(Request::Start);
                self.change_mind().await;
            }
            34..46 => self.request(Request::Stop),
            46..51 => self.request(Request::Cancel),
            51..57 => self.request(Request::Retry),
            57..64 => self.request(Request::Delete),
            64..71 => self.change_environment(),
            71..77 => self.change_network(),
            77..84 => self.crash_node(),
            84..91 => self.crash_control().await,
            91..94 => self.reboot_host().await,
            94..97 => self.back_up().await,
            97..100 => self.restore().await,
            100..105 => self.world.jump(),
            105..109 => self.adopt_orphan().await,
            109..111 => self.lose_journal(),
            _ => self.lose_disk(),
        }
    }

    fn create(&mut self) {
        let (Some(services), Some(user)) = (self.control.services(), self.user.clone()) else { return };
        if self.oracle.ids().len() >= MAX_WORKSPACES {
            return;
        }
        self.made += 1;
        let mut random = self.seed.to_be_bytes();
        random[3] = self.made;
        let id = WorkspaceId::from_random(random[3..].try_into().unwrap());
        self.world.note(format!("{id}: create"));
        self.oracle.creation(&id, Answer::Unknown);
        let (world, oracle, name) = (Arc::clone(&self.world), Arc::clone(&self.oracle), self.made);
        self.control.spawn(async move {
            let now = services.store.now();
            let new = Workspace {
                id: id.clone(),
                user_id: user.user.clone(),
                node_id: NODE_ID.parse().unwrap(),
                name: WorkspaceName::for_new(&format!("w{name}")).unwrap(),
                template_id: "base".into(),
                image: "base".into(),
                resources: Resources::new(512, 1, 4_096).unwrap(),
                revision: 1,
                lifecycle: Lifecycle::created(now),
                environment: EnvironmentNames::default(),
                created_at: now,
                updated_at: now,
            };
            let quota = Quota { max_vms: 100, max_ram_total_mb: u32::MAX, max_disk_total_mb: u32::MAX };
            let event = AuditEvent::by(&user, CreateWorkspace::NAME, &id);
            let made = services.store.create_workspace(&new, quota, None, &event).await;
            if made.is_ok() {
                services.transitions.announce(&id);
                world.note(format!("{id}: created"));
                oracle.creation(&id, Answer::Done);
            }
        });
    }

    /// Picks a workspace, and what a client needs to speak about it.
    fn pick(&self) -> Option<(WorkspaceId, Services, Principal, Target)> {
        let (services, user) = (self.control.services()?, self.user.clone()?);
        let ids = self.oracle.ids();
        if ids.is_empty() {
            return None;
        }
        let id = self.world.random.pick(&ids).clone();
        let target = Target::Workspace { id: id.clone(), owner: user.user.clone() };
        Some((id, services, user, target))
    }

    fn request(&self, request: Request) {
        let Some((id, services, user, target)) = self.pick() else { return };
        self.world.note(format!("{id}: {request}"));
        if may_delete(request) {
            self.world.allow_deletion(&id);
        }
        self.oracle.begin(&id, request);
        let (world, oracle) = (Arc::clone(&self.world), Arc::clone(&self.oracle));
        self.control.spawn(async move {
            let workspaces = &services.workspaces;
            let operate = || authorize::<OperateWorkspace>(&user, target.clone()).unwrap();
            let answer = match request {
                Request::Start => workspaces.start(&operate()).await,
                Request::Stop => workspaces.stop(&operate()).await,
                Request::Cancel => workspaces.cancel(&operate()).await,
                Request::Retry => workspaces.retry(&operate()).await,
                Request::Delete => {
                    workspaces.delete(&authorize::<DeleteWorkspace>(&user, target).unwrap()).await
                }
            };
            let status = answer.as_ref().ok().map(|workspace| workspace.lifecycle.status);
            if let Some(status) = status {
                world.note(format!("{id}: {request} is acknowledged, it is {status}"));
            }
            oracle.end(&id, request, answer_of(&answer), status);
            if let Ok(workspace) = &answer {
                check_stop(&world, workspace);
                if workspace.lifecycle.status == Status::Deleting {
                    wait_until_gone(&world, &services, &id).await;
                }
            }
        });
    }

    /// Cancels at times what has only begun, before the node has told about it.
    async fn change_mind(&self) {
        if self.world.random.chance(200) {
            self.world.pause(MAX_HASTE_MS).await;
            self.request(Request::Cancel);
        }
    }

    fn change_environment(&self) {
        let Some((id, services, user, target)) = self.pick() else { return };
        let value = format!("value-{}", self.world.random.below(1_000_000));
        self.world.note(format!("{id}: environment {value}"));
        self.oracle.begin_environment(&id);
        let oracle = Arc::clone(&self.oracle);
        self.control.spawn(async move {
            let permit = authorize::<WriteEnv>(&user, target).unwrap();
            let variables = BTreeMap::from([(MARKER.to_owned(), value.clone().into())]);
            let answer = services.environments.set(&permit, variables).await;
            oracle.end_environment(&id, value, answer_of(&answer));
        });
    }

    fn change_network(&self) {
        let Some((id, services, user, target)) = self.pick() else { return };
        self.world.note(format!("{id}: network"));
        let egress = if self.world.random.chance(500) { Egress::None } else { Egress::Internet };
        self.control.spawn(async move {
            let permit = authorize::<WriteNetwork>(&user, target).unwrap();
            let change = NetworkChange { egress: Some(egress), apps_from_inside_any: None };
            let _ = services.networks.change(&permit, change).await;
        });
    }

    fn crash_node(&self) {
        self.node.crash();
        let (world, node) = (Arc::clone(&self.world), Arc::clone(&self.node));
        tokio::spawn(async move {
            world.pause(MAX_OUTAGE_MS).await;
            node.start();
        });
    }

    async fn crash_control(&self) {
        self.control.crash().await;
        self.oracle.cut_off();
        if self.world.random.chance(500) {
            self.world.pause(MAX_OUTAGE_MS).await;
        }
        self.control.start().await;
    }

    async fn reboot_host(&self) {
        self.world.note("host reboots");
        self.node.crash();
        self.control.crash().await;
        self.oracle.cut_off();
        self.world.machine().reboot_host();
        self.world.pause(MAX_OUTAGE_MS).await;
        self.node.start();
        self.control.start().await;
    }

    async fn back_up(&self) {
        let Some(services) = self.control.services() else { return };
        let made = services.store.copy_to(&self.backup()).await.is_ok();
        self.world.note(format!("backup: {made}"));
        if !made {
            // An unfinished one is of no use.
            let _ = fs::remove_file(self.backup());
        }
    }

    async fn restore(&self) {
        if !self.backup().exists() {
            return;
        }
        self.control.crash().await;
        self.world.note("restore");
        let database = self.control.database();
        for suffix in ["-wal", "-shm"] {
            let _ = fs::remove_file(format!("{}{suffix}", database.display()));
        }
        fs::copy(self.backup(), &database).unwrap();
        self.control.start().await;
        let store = self.control.services().unwrap().store;
        while store.end_sign_ins(store.now()).await.is_err() {}
        self.oracle.restored(&self.world, &store).await;
    }

    /// Gives an orphan to the user, as the operator's command does, beside the process of control.
    async fn adopt_orphan(&self) {
        let (Some(services), Some(user)) = (self.control.services(), self.user.clone()) else { return };
        let Ok(orphans) = services.store.orphans().await else { return };
        let orphans: Vec<_> = orphans.into_iter().filter(|orphan| !orphan.is_removed).collect();
        if orphans.is_empty() {
            return;
        }
        let orphan = self.world.random.pick(&orphans);
        let (name, template) = (
            WorkspaceName::for_new(&orphan.id.as_str().replace("ws-", "found-")).unwrap(),
            templates::find("base").unwrap(),
        );
        let Ok(workspace) = orphans::adopted(orphan, user.user, name, template, services.store.now()) else {
            return;
        };
        let adopted = services.store.adopt_orphan(&workspace).await;
        self.world.note(format!("{}: adoption: {adopted:?}", orphan.id));
        if let Ok(true) = adopted {
            self.oracle.adopted(&orphan.id);
        }
    }

    /// Loses the journal of the node, or the record of one workspace, while it is down.
    fn lose_journal(&self) {
        self.crash_node();
        let ids: Vec<_> = self.world.machine().journal.keys().cloned().collect();
        if ids.is_empty() {
            return;
        }
        let one = self.world.random.chance(500).then(|| self.world.random.pick(&ids).clone());
        for id in ids.iter().filter(|id| one.as_ref().is_none_or(|one| one == *id)) {
            self.world.note(format!("{id}: its record is lost"));
            self.world.machine().lose_record(id);
        }
    }

    /// Loses the file of a disk.
    fn lose_disk(&self) {
        let complete = |(id, disk): (&WorkspaceId, &Disk)| disk.is_complete.then(|| id.clone());
        let ids: Vec<_> = self.world.machine().disks.iter().filter_map(complete).collect();
        if !ids.is_empty() {
            let id = self.world.random.pick(&ids);
            self.world.note(format!("{id}: its disk is lost"));
            self.world.machine().lose_disk(id);
        }
    }

    /// Starts the workspaces whose disk is lost. None comes up, and each says so.
    async fn start_lost(&self) {
        let (services, user) = (self.control.services().unwrap(), self.user.clone().unwrap());
        let lost: Vec<_> = self.world.machine().lost_disks.keys().cloned().collect();
        for id in lost {
            let Some(workspace) = services.store.workspace(&id).await.unwrap() else { continue };
            let is_new = self.world.machine().disks.contains_key(&id);
            if is_new || !workspace.lifecycle.has_disk || !self.world.machine().alive(&id).is_empty() {
                continue;
            }
            let target = Target::Workspace { id: id.clone(), owner: user.user.clone() };
            let permit = authorize::<OperateWorkspace>(&user, target).unwrap();
            let request = match workspace.lifecycle.status {
                Status::Failed => services.workspaces.retry(&permit).await,
                _ => services.workspaces.start(&permit).await,
            };
            self.world.note(format!("{id}: started without its disk: {}", request.is_ok()));
            tokio::time::sleep(START_WITHOUT_DISK).await;
            let Some(after) = services.store.workspace(&id).await.unwrap() else { continue };
            let is_named =
                after.lifecycle.failure.as_ref().is_some_and(|failure| !failure.message.is_empty());
            if request.is_ok() && !is_named {
                self.world.violation(format!("{id}: its disk is lost, and it is {}", after.lifecycle.status));
            }
        }
    }

    fn backup(&self) -> std::path::PathBuf {
        self.control.database().with_file_name("backup.db")
    }
}

/// A stop that is said to be done is one that the node knows of.
fn check_stop(world: &World, workspace: &Workspace) {
    let (id, lifecycle) = (&workspace.id, &workspace.lifecycle);
    let held = world.machine().record(id).map(|record| record.target.generation);
    if lifecycle.status == Status::Stopped && held.is_some_and(|held| held < lifecycle.wanted.generation) {
        world.violation(format!("{id}: it is stopped, and the node does not know that it is to stop"));
    }
}

/// Waits as clients do until a deletion is confirmed. An absence that was reported before is no confirmation: what creates the workspace
/// may be on its way.
async fn wait_until_gone(world: &World, services: &Services, id: &WorkspaceId) {
    while !matches!(services.store.workspace(id).await, Ok(None)) {
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    if !world.machine().told_to_delete.contains(id) {
        world.violation(format!("{id}: its deletion was confirmed, and the node does not know of it"));
    }
}

fn answer_of<T>(answer: &Result<T, ServiceError>) -> Answer {
    match answer {
        Ok(_) => Answer::Done,
        Err(ServiceError::IllegalTransition(_) | ServiceError::NotFound(_)) => Answer::Refused,
        Err(_) => Answer::Unknown,
    }
}

fn principal(user: UserId) -> Principal {
    Principal {
        user,
        plan: Plan::Pro,
        limits: LimitOverrides::default(),
        credential: Credential::Key(KeyId::from_random([0; 5])),
        scope: Scope::Account,
        from: None,
    }
}

/// Makes the template of all histories: a database with a user.
pub(crate) fn make_template(folder: &Path) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        let world = Arc::new(World::new(0));
        world.calm_down();
        let (store, _) = crate::control::open(folder, &world).await;
        store.add_user("anna@example.com", Plan::Pro, store.now()).await.unwrap();
        store.close().await;
    });
    assert!(database_of(folder).exists());
}
