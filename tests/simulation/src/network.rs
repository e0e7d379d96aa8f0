//! Simulated network between control, the node and the agents. Messages are late, get lost, or come twice; answers too.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt};
use futures_util::stream::{StreamExt, iter, once};
use rigbox_core::ids::WorkspaceId;
use rigbox_node::Host;
use rigbox_proto::guest::DeliverSecretsRequest;
use rigbox_proto::node::{
    Desired, NodeDescription, RefusalBatch, SetTargetRequest, WatchEvent, WorkspaceReport, watch_event,
};
use rigbox_service::guests::client::GuestError;
use rigbox_service::guests::deliver::DeliverSecrets;
use rigbox_service::nodes::api::{NodeApi, NodeError, NodeStream};
use tokio_stream::wrappers::BroadcastStream;

use crate::node::Node;
use crate::world::World;

/// Time after which a caller gives up.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Variable whose value tells which environment a VM has.
pub(crate) const MARKER: &str = "MARKER";

pub(crate) const NODE_ID: &str = "node-aaaaaaaa";

pub(crate) struct NodeConnection {
    pub world: Arc<World>,
    pub node: Arc<Node>,
}

fn unreachable<T>(why: &str) -> Result<T, NodeError> {
    Err(NodeError::Unreachable(why.to_owned()))
}

/// Lets a message take its time: mostly a moment, rarely so long that later ones overtake it.
async fn travel(world: &World) {
    let max_ms = if world.disturbs(100) { 9_000 } else { 20 };
    world.pause(max_ms).await;
}

async fn arrive(
    world: Arc<World>,
    node: Arc<Node>,
    request: SetTargetRequest,
) -> Result<WorkspaceReport, NodeError> {
    travel(&world).await;
    let Some(mut running) = node.running() else { return unreachable("it does not run") };
    if request.desired() == Desired::Deleted {
        world.machine().told_to_delete.insert(request.workspace_id.parse().unwrap());
    }
    let outcome = tokio::select! {
        biased;
        outcome = running.workspaces.set_target(request) => outcome,
        _ = running.alive.wait_for(|alive| !alive) => return unreachable("it crashed"),
    };
    outcome.map_err(|error| NodeError::from(tonic::Status::from(error)))
}

impl NodeApi for NodeConnection {
    fn describe(&self) -> BoxFuture<'_, Result<NodeDescription, NodeError>> {
        let description = NodeDescription {
            node_id: NODE_ID.into(),
            ram_mb: 1 << 20,
            vcpus: 8,
            disk_total_mb: 1 << 20,
            ..NodeDescription::default()
        };
        async move { if self.node.is_running() { Ok(description) } else { unreachable("it does not run") } }
            .boxed()
    }

    fn set_target(&self, request: SetTargetRequest) -> BoxFuture<'_, Result<WorkspaceReport, NodeError>> {
        let (world, node) = (Arc::clone(&self.world), Arc::clone(&self.node));
        async move {
            if world.disturbs(50) {
                tokio::time::sleep(CALL_TIMEOUT).await;
                return unreachable("the request was lost");
            }
            if world.disturbs(80) {
                let (world, node, request) = (Arc::clone(&world), Arc::clone(&node), request.clone());
                tokio::spawn(async move {
                    world.pause(20_000).await;
                    let _ = arrive(world, node, request).await;
                });
            }
            // A caller that gives up does not take its message back.
            let arriving = tokio::spawn(arrive(Arc::clone(&world), node, request));
            let answer = tokio::time::timeout(CALL_TIMEOUT, async {
                let answer = arriving.await.unwrap_or_else(|_| unreachable("it crashed"));
                travel(&world).await;
                answer
            });
            let answer = answer.await.unwrap_or_else(|_| unreachable("it takes too long"));
            if world.disturbs(50) {
                tokio::time::sleep(CALL_TIMEOUT).await;
                return unreachable("the answer was lost");
            }
            answer
        }
        .boxed()
    }

    fn watch(&self) -> BoxFuture<'_, Result<NodeStream<WatchEvent>, NodeError>> {
        async move {
            travel(&self.world).await;
            let Some(mut running) = self.node.running() else { return unreachable("it does not run") };
            let subscription = running.host.reports().subscribe();
            let first = subscription.latest.into_iter().map(watch_event::Event::Report);
            let first = first.chain([watch_event::Event::Synced(subscription.synced)]).collect::<Vec<_>>();
            let later = BroadcastStream::new(subscription.events).map(|event| event.ok());
            let world = Arc::clone(&self.world);
            let later = later.then(move |event| {
                let world = Arc::clone(&world);
                async move {
                    world.pause(10).await;
                    // Rarely, the connection is lost.
                    event.filter(|_| !world.disturbs(10))
                }
            });
            let ends = async move { drop(running.alive.wait_for(|alive| !alive).await) };
            let wrap = |event| Ok(WatchEvent { event: Some(event) });
            let later =
                later.map(move |event| event.map_or_else(|| unreachable("the connection is lost"), wrap));
            let later = later.take_until(Box::pin(ends)).chain(once(async { unreachable("it crashed") }));
            Ok(iter(first.into_iter().map(wrap)).chain(later).boxed())
        }
        .boxed()
    }

    fn watch_refusals(&self) -> BoxFuture<'_, Result<NodeStream<RefusalBatch>, NodeError>> {
        async { Ok(futures_util::stream::pending().boxed()) }.boxed()
    }
}

/// Way to the agents.
pub(crate) struct Agents(pub Arc<World>);

impl DeliverSecrets for Agents {
    fn deliver<'a>(
        &'a self,
        workspace: &'a WorkspaceId,
        secrets: DeliverSecretsRequest,
    ) -> BoxFuture<'a, Result<(), GuestError>> {
        async move {
            let world = &self.0;
            let failed = || Err(GuestError { code: "unreachable".into(), message: "simulated".into() });
            world.pause(50).await;
            if world.disturbs(50) {
                return failed();
            }
            {
                let mut machine = world.machine();
                let Some(pid) = machine.pid_of(workspace) else { return failed() };
                let Some(vm) = machine.vms.get_mut(&pid).filter(|vm| vm.is_ready && vm.ended.is_none())
                else {
                    return failed();
                };
                vm.environment = secrets.env.get(MARKER).cloned();
                vm.has_key |= !secrets.workspace_key.is_empty();
            }
            world.pause(50).await;
            if world.disturbs(50) { failed() } else { Ok(()) }
        }
        .boxed()
    }
}
