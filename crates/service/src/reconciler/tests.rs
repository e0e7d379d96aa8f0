//! The reconciler against a node that says what a test wants.

use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt};
use rigbox_core::ids::{NodeId, UserId};
use rigbox_core::lifecycle::Lifecycle;
use rigbox_core::plans::Plans;
use rigbox_core::resources::Resources;
use rigbox_core::status::{Request, Status};
use rigbox_core::time::Timestamp;
use rigbox_proto::guest::DeliverSecretsRequest;
use rigbox_proto::node::{
    Cause, Desired, DiskState, End, NodeDescription, RefusalBatch, SetTargetRequest, Synced, VmState,
    WatchEvent, WorkspaceReport, watch_event,
};
use rigbox_store::tokens::{ApiKey, TokenKey};
use rigbox_store::{AuditEvent, EnvironmentNames, KeySource, NewKey, Quota, Store, Workspace};
use rigbox_testkit::eventually;
use tempfile::TempDir;
use tokio::sync::mpsc;

use super::*;
use crate::guests::client::GuestError;
use crate::guests::deliver::DeliverSecrets;
use crate::nodes::api::{NodeApi, NodeError, NodeStream};
use crate::vm_limits::OwnerLimits;

/// Node whose answers and reports a test chooses.
#[derive(Default)]
struct ScriptedNode {
    /// Answer to every target, but for the workspace. `None`: it does not answer.
    answer: Mutex<Option<WorkspaceReport>>,
    targets: Mutex<Vec<SetTargetRequest>>,
    watcher: Mutex<Option<mpsc::Sender<Result<WatchEvent, NodeError>>>>,
}

fn lost<T>() -> Result<T, NodeError> {
    Err(NodeError::Unreachable("lost".to_owned()))
}

impl NodeApi for ScriptedNode {
    fn describe(&self) -> BoxFuture<'_, Result<NodeDescription, NodeError>> {
        let node_id = "node-aaaaaaaa".to_owned();
        async { Ok(NodeDescription { node_id, ..NodeDescription::default() }) }.boxed()
    }

    fn set_target(&self, request: SetTargetRequest) -> BoxFuture<'_, Result<WorkspaceReport, NodeError>> {
        let answer = lock(&self.answer).clone();
        let workspace_id = request.workspace_id.clone();
        lock(&self.targets).push(request);
        async { answer.map_or_else(lost, |answer| Ok(WorkspaceReport { workspace_id, ..answer })) }.boxed()
    }

    fn watch(&self) -> BoxFuture<'_, Result<NodeStream<WatchEvent>, NodeError>> {
        // Of one test, which sends a few.
        #[expect(clippy::disallowed_methods)]
        let (watcher, events) = mpsc::channel(64);
        *lock(&self.watcher) = Some(watcher);
        let next = |mut events: mpsc::Receiver<_>| async move { Some((events.recv().await?, events)) };
        async move { Ok(futures_util::stream::unfold(events, next).boxed()) }.boxed()
    }

    fn watch_refusals(&self) -> BoxFuture<'_, Result<NodeStream<RefusalBatch>, NodeError>> {
        async { Ok(futures_util::stream::pending().boxed()) }.boxed()
    }
}

impl ScriptedNode {
    async fn send(&self, event: watch_event::Event) {
        eventually("it is watched", async || lock(&self.watcher).is_some()).await;
        let watcher = lock(&self.watcher).clone().unwrap();
        watcher.send(Ok(WatchEvent { event: Some(event) })).await.unwrap();
    }

    async fn report(&self, id: &WorkspaceId, report: WorkspaceReport) {
        let report = WorkspaceReport { workspace_id: id.to_string(), ..report };
        self.send(watch_event::Event::Report(report)).await;
    }

    async fn sync(&self, session: u64, sequence: u64) {
        self.send(watch_event::Event::Synced(Synced { session, sequence })).await;
    }

    /// Ends the stream of reports.
    fn cut(&self) {
        lock(&self.watcher).take();
    }

    fn answer(&self, answer: WorkspaceReport) {
        *lock(&self.answer) = Some(answer);
    }

    fn targets(&self) -> Vec<(u64, Desired, bool)> {
        let target = |target: &SetTargetRequest| (target.generation, target.desired(), target.create);
        lock(&self.targets).iter().map(target).collect()
    }
}

/// Agents that take everything.
#[derive(Default)]
struct Agents(Mutex<Vec<DeliverSecretsRequest>>);

impl DeliverSecrets for Agents {
    fn deliver<'a>(
        &'a self,
        _: &'a WorkspaceId,
        secrets: DeliverSecretsRequest,
    ) -> BoxFuture<'a, Result<(), GuestError>> {
        lock(&self.0).push(secrets);
        async { Ok(()) }.boxed()
    }
}

struct Fixture {
    _folder: TempDir,
    store: Store,
    user: UserId,
    node: Arc<ScriptedNode>,
    agents: Arc<Agents>,
    transitions: WorkspaceTransitions,
    reconciler: Reconciler,
}

async fn fixture(timeouts: Timeouts) -> Fixture {
    let folder = tempfile::tempdir().unwrap();
    let token_key = TokenKey::load_or_create(&folder.path().join("token.key")).unwrap();
    let store = Store::open(&folder.path().join("rigbox.db"), &token_key).await.unwrap();
    let now = Timestamp::from_unix_ms(1);
    let store = store.unlock(KeySource::File(folder.path().join("master.key")), now).await.unwrap();
    let key = NewKey::of(&ApiKey::mint().unwrap(), "first", &token_key);
    let user = store.create_first_user("a@example.com", &key, now).await.unwrap();
    let (node, agents) = (Arc::new(ScriptedNode::default()), Arc::new(Agents::default()));
    let client = NodeClient::over(node.clone());
    let secrets =
        SecretDelivery::new(store.clone(), token_key, agents.clone(), "rigbox.localhost", Vec::new());
    let targets =
        Targets::new(store.clone(), OwnerLimits::new(store.clone(), Plans::default()), String::new());
    let networks = NetworkPolicies::new(store.clone(), client.clone(), targets.clone());
    let transitions = WorkspaceTransitions::new(store.clone());
    let reconciler = Reconciler::new(transitions.clone(), client, secrets, networks, targets, timeouts);
    Fixture { _folder: folder, store, user, node, agents, transitions, reconciler }
}

impl Fixture {
    async fn create(&self) -> WorkspaceId {
        let now = Timestamp::from_unix_ms(1);
        let new = Workspace {
            id: WorkspaceId::from_random([1; 5]),
            user_id: self.user.clone(),
            node_id: NodeId::from_random([0; 5]),
            name: "one".parse().unwrap(),
            template_id: "base".into(),
            image: "base".into(),
            resources: Resources::new(512, 1, 4096).unwrap(),
            revision: 1,
            lifecycle: Lifecycle::created(now),
            environment: EnvironmentNames::default(),
            created_at: now,
            updated_at: now,
        };
        let quota = Quota { max_vms: 9, max_ram_total_mb: 9_999, max_disk_total_mb: 99_999 };
        let event = AuditEvent::by_operator(&self.user, "workspace.create", &new.id);
        self.store.create_workspace(&new, quota, None, &event).await.unwrap();
        self.transitions.announce(&new.id);
        new.id
    }

    async fn request(&self, id: &WorkspaceId, request: Request) {
        let apply = |workspace: &Workspace, now| Ok(workspace.lifecycle.request(request, now).ok());
        self.transitions.change::<rigbox_store::Error>(id, None, apply).await.unwrap();
    }

    /// Creates and starts a workspace, until it runs in the node's session 1.
    async fn run_workspace(&self) -> WorkspaceId {
        let id = self.create().await;
        self.node.report(&id, at_rest(1, 1, 1)).await;
        self.node.sync(1, 1).await;
        self.until(&id, Status::Provisioned).await;
        self.node.answer(answering(1, 2, 2));
        self.request(&id, Request::Start).await;
        self.until(&id, Status::Running).await;
        id
    }

    async fn lifecycle(&self, id: &WorkspaceId) -> Lifecycle {
        self.store.workspace(id).await.unwrap().unwrap().lifecycle
    }

    async fn until(&self, id: &WorkspaceId, status: Status) {
        eventually(status.as_str(), async || self.lifecycle(id).await.status == status).await;
    }
}

/// Report of a workspace with its disk and no VM.
fn at_rest(session: u64, sequence: u64, generation: u64) -> WorkspaceReport {
    WorkspaceReport {
        session,
        sequence,
        generation,
        desired: Desired::Stopped.into(),
        disk: DiskState::DiskComplete.into(),
        disk_size_mb: 4096,
        vm: VmState::VmNone.into(),
        network_revision: 1,
        ..WorkspaceReport::default()
    }
}

/// Report of a workspace whose agent answers.
fn answering(session: u64, sequence: u64, generation: u64) -> WorkspaceReport {
    WorkspaceReport {
        desired: Desired::Running.into(),
        vm: VmState::VmRunning.into(),
        boot_id: "boot-1".to_owned(),
        boot_generation: generation,
        system: "running".to_owned(),
        ..at_rest(session, sequence, generation)
    }
}

#[tokio::test]
async fn panic_of_a_worker_ends_the_reconciler() {
    let f = fixture(Timeouts::default()).await;
    f.reconciler.spawn(async { panic!("deliberate") });
    let ended = tokio::time::timeout(Duration::from_secs(10), tokio::spawn(f.reconciler.run())).await;
    assert!(ended.unwrap().unwrap_err().is_panic());
}

#[tokio::test]
async fn workers_wait_until_the_node_is_known_and_time_outs_go_on() {
    let f = fixture(Timeouts { provisioning: Duration::from_millis(1_200), ..Timeouts::default() }).await;
    let run = tokio::spawn(f.reconciler.clone().run());
    let id = f.create().await;
    f.until(&id, Status::Failed).await;
    assert_eq!(f.node.targets(), []);
    f.node.answer(at_rest(5, 4, 2));
    f.node.sync(5, 3).await;
    eventually("the node has the target", async || f.lifecycle(&id).await.is_acknowledged()).await;
    assert_eq!(f.node.targets(), [(2, Desired::Stopped, true)]);
    run.abort();
}

#[tokio::test]
async fn reports_of_an_ended_session_are_dropped() {
    let f = fixture(Timeouts::default()).await;
    let run = tokio::spawn(f.reconciler.clone().run());
    f.node.answer(at_rest(5, 7, 1));
    f.node.sync(6, 3).await;
    let id = f.create().await;
    // The answer is one of another process of the node, which had a later number.
    eventually("the node was told", async || f.node.targets().len() > 1).await;
    assert_eq!(f.lifecycle(&id).await.status, Status::Provisioning);
    f.node.report(&id, at_rest(5, 9, 1)).await;
    f.node.report(&id, at_rest(6, 4, 1)).await;
    f.until(&id, Status::Provisioned).await;
    assert_eq!(f.lifecycle(&id).await.observed.order.session, 6);
    // Its next process begins with a lower number.
    f.node.cut();
    f.node.report(&id, at_rest(7, 1, 1)).await;
    f.node.sync(7, 1).await;
    eventually("the next session counts", async || f.lifecycle(&id).await.observed.order.session == 7).await;
    run.abort();
}

#[tokio::test]
async fn lost_disk_is_not_created_anew() {
    let f = fixture(Timeouts::default()).await;
    let run = tokio::spawn(f.reconciler.clone().run());
    let id = f.create().await;
    f.node.report(&id, at_rest(1, 1, 1)).await;
    f.node.sync(1, 1).await;
    f.until(&id, Status::Provisioned).await;
    assert_eq!(f.node.targets(), []);
    let (disk, desired) = (DiskState::DiskAbsent.into(), Desired::Deleted.into());
    f.node.answer(WorkspaceReport { disk, desired, ..at_rest(1, 2, 0) });
    f.request(&id, Request::Start).await;
    f.until(&id, Status::Failed).await;
    assert_eq!(f.lifecycle(&id).await.failure.unwrap().code, "ended_unobserved");
    // Not even with time.
    let before = f.node.targets();
    tokio::time::sleep(TICK_INTERVAL * 2).await;
    assert_eq!(
        (f.node.targets(), before),
        (vec![(2, Desired::Running, false)], vec![(2, Desired::Running, false)])
    );
    run.abort();
}

#[tokio::test]
async fn refused_creation_tells_its_reason() {
    let f = fixture(Timeouts::default()).await;
    let run = tokio::spawn(f.reconciler.clone().run());
    f.node.sync(1, 1).await;
    let (code, detail) = ("disk_full".to_owned(), "12 MiB are left".to_owned());
    let end = End { cause: Cause::Refused.into(), generation: 1, code, detail, ..End::default() };
    let disk = DiskState::DiskIncomplete.into();
    f.node.answer(WorkspaceReport { disk, end: Some(end), ..at_rest(1, 2, 1) });
    let id = f.create().await;
    f.until(&id, Status::Failed).await;
    let failure = f.lifecycle(&id).await.failure.unwrap();
    assert_eq!((failure.code.as_str(), failure.message.as_str()), ("disk_full", "12 MiB are left"));
    run.abort();
}

#[tokio::test]
async fn restart_delivers_nothing_that_the_vm_has() {
    let f = fixture(Timeouts::default()).await;
    let run = tokio::spawn(f.reconciler.clone().run());
    let id = f.run_workspace().await;
    run.abort();
    assert_eq!(lock(&f.agents.0).len(), 1);
    assert!(!lock(&f.agents.0)[0].workspace_key.is_empty());

    let client = NodeClient::over(f.node.clone());
    let secrets = SecretDelivery::new(
        f.store.clone(),
        TokenKey::load_or_create(&f._folder.path().join("token.key")).unwrap(),
        f.agents.clone(),
        "rigbox.localhost",
        Vec::new(),
    );
    let targets = f.reconciler.0.targets.clone();
    let networks = NetworkPolicies::new(f.store.clone(), client.clone(), targets.clone());
    let (transitions, timeouts) = (WorkspaceTransitions::new(f.store.clone()), Timeouts::default());
    let second = Reconciler::new(transitions, client, secrets, networks, targets, timeouts);
    f.node.cut();
    let run = tokio::spawn(second.clone().run());
    f.node.report(&id, answering(1, 9, 2)).await;
    f.node.sync(1, 9).await;
    let mut synced = second.synced();
    synced.wait_for(|synced| *synced).await.unwrap();
    eventually("its worker has rested", async || lock(&second.0.workers).is_empty()).await;
    assert_eq!(f.lifecycle(&id).await.status, Status::Running);
    assert_eq!(lock(&f.agents.0).len(), 1);
    run.abort();
}

#[tokio::test]
async fn reports_that_change_the_record_alone_are_gathered_and_the_latest_counts() {
    let f = fixture(Timeouts::default()).await;
    let run = tokio::spawn(f.reconciler.clone().run());
    let id = f.run_workspace().await;
    eventually("its worker has rested", async || lock(&f.reconciler.0.workers).is_empty()).await;

    let revision = async || f.store.workspace(&id).await.unwrap().unwrap().revision;
    let lost = |sequence| WorkspaceReport { agent_lost: true, ..answering(1, sequence, 2) };
    let before = revision().await;
    // The one in the middle was overtaken on its way.
    for report in [answering(1, 10, 2), lost(12), answering(1, 11, 2)] {
        f.node.report(&id, report).await;
    }
    eventually("the agent is lost", async || f.lifecycle(&id).await.agent_lost()).await;
    assert_eq!(f.lifecycle(&id).await.observed.order.sequence, 12);
    assert!((1..=2).contains(&(revision().await - before)), "most are written together");
    assert!(lock(&f.reconciler.0.workers).is_empty(), "nothing is due");
    // An end counts at once, and what was gathered before it does not come back.
    f.node.report(&id, answering(1, 13, 2)).await;
    let end =
        End { cause: Cause::Poweroff.into(), generation: 2, boot_id: "boot-1".to_owned(), ..End::default() };
    f.node.report(&id, WorkspaceReport { end: Some(end), ..at_rest(1, 14, 2) }).await;
    f.until(&id, Status::Stopped).await;
    tokio::time::sleep(gathered::GATHERING_TIME * 3).await;
    assert_eq!(f.lifecycle(&id).await.observed.order.sequence, 14);
    run.abort();
}
