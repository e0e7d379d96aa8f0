//! Limits: they hold under any number of concurrent requests, and changes apply to the next one.

use std::num::NonZeroU32;

use futures_util::future::join_all;
use reqwest::Method;
use rigbox_control::{Timeouts, admin};
use rigbox_core::plans::{LimitOverrides, Plan, Plans};
use rigbox_core::vm_limits::{MbPerS, VmLimits};
use serde_json::{Value, json};

use crate::support::{TestControl, eventually};

/// Limit of the plan `free`.
const VMS: u32 = 2;

const EMAIL: &str = "free@example.com";

/// Returns a rig whose client is a user of the plan `free`.
async fn rig(free: LimitOverrides) -> TestControl {
    let mut rig = TestControl::with_plans(Timeouts::default(), Plans { free, ..Plans::default() }).await;
    rig.key = rig.new_user(EMAIL, Plan::Free).await;
    rig
}

async fn limits(rig: &TestControl) -> Value {
    rig.get("/users/me/limits").await.1
}

/// Sets limits as an operator does, beside the running server.
async fn set(rig: &TestControl, limits: Option<LimitOverrides>) {
    admin::set_limits(&rig.config(), EMAIL, limits).await.unwrap();
}

#[tokio::test]
async fn hundred_concurrent_creates_stay_within_the_quota() {
    let rig =
        rig(LimitOverrides { workspaces_per_min: NonZeroU32::new(100_000), ..LimitOverrides::default() })
            .await;
    let create = async |number: u32| {
        rig.call(Method::POST, "/workspaces", Some(json!({"name": format!("w{number}")}))).await
    };
    let responses = join_all((0..100).map(create)).await;
    let (created, refused): (Vec<_>, Vec<_>) = responses.into_iter().partition(|(status, _)| *status == 201);
    assert_eq!(created.len(), VMS as usize);
    for (status, body) in refused {
        assert_eq!(
            (status.as_u16(), body["error"]["code"].as_str()),
            (402, Some("limit_exceeded")),
            "{body}"
        );
        assert_eq!(body["error"]["details"], json!({"limit": "max_vms", "max": VMS}));
        assert!(
            body["error"]["message"]
                .as_str()
                .unwrap()
                .starts_with(&format!("You have {VMS} of {VMS} workspaces.")),
            "{body}"
        );
    }
    assert_eq!(rig.get("/workspaces").await.1["vms"].as_array().unwrap().len(), VMS as usize);
}

#[tokio::test]
async fn limits_of_a_user_apply_on_next_request() {
    let rig = rig(LimitOverrides::default()).await;
    let before = limits(&rig).await;
    assert_eq!((&before["custom"], &before["limits"]["max_vms"]), (&json!(false), &json!(VMS)));
    let own = LimitOverrides {
        max_vms: Some(1),
        max_ram_per_vm_mb: Some(600),
        workspaces_per_min: NonZeroU32::new(1_000),
        ..LimitOverrides::default()
    };
    set(&rig, Some(own)).await;
    let set_now = limits(&rig).await;
    assert_eq!((&set_now["custom"], &set_now["limits"]["max_vms"]), (&json!(true), &json!(1)));
    assert_eq!(set_now["limits"]["max_ram_per_vm_mb"], 600);
    let create = |name: &str, ram: u32| {
        let body = json!({"name": name, "ram_mb": ram});
        rig.request(Method::POST, "/workspaces").json(&body)
    };
    let too_large = rig.send(create("large", 700)).await;
    assert_eq!(
        (too_large.status.as_u16(), &too_large.headers["ratelimit-limit"]),
        (402, &"1000".parse().unwrap())
    );
    assert_eq!(rig.fetch(create("one", 600)).await.0, 201);
    assert_eq!(rig.fetch(create("two", 600)).await.0, 402);

    set(&rig, None).await;
    assert_eq!(limits(&rig).await["custom"], false);
    assert_eq!(rig.fetch(create("two", 700)).await.0, 201);
    let log = rig.get("/audit-log").await.1;
    let changes = log["entries"].as_array().unwrap().iter().filter(|entry| entry["action"] == "user.limits");
    assert_eq!(changes.count(), 2);
}

/// Returns limits of VMs: connections, and MB/s of disks.
fn vm_limits(connections: u32, disk_mb_per_s: u32) -> LimitOverrides {
    let limits = VmLimits {
        connections: NonZeroU32::new(connections),
        disk_mb_per_s: MbPerS::new(disk_mb_per_s),
        ..VmLimits::default()
    };
    LimitOverrides { limits, ..LimitOverrides::default() }
}

/// Returns the same as the node was told by the last start.
fn started_with(rig: &TestControl, id: &str) -> (Option<u32>, Option<u32>) {
    let request = rig.node.start_request(id).unwrap();
    (request.network.unwrap().limits.unwrap().connections, request.disk.unwrap().mb_per_s)
}

/// Waits until the node has been told of this limit of a running VM.
async fn until_told(rig: &TestControl, id: &str, connections: Option<u32>) {
    eventually("the node knows the limit", || async {
        rig.node.network(id).is_some_and(|network| network.limits.unwrap().connections == connections)
    })
    .await;
}

#[tokio::test]
async fn vms_start_with_the_limits_of_their_owners_plan() {
    let mut rig = rig(vm_limits(10, 5)).await;
    let free = rig.running("one").await;
    assert_eq!(started_with(&rig, &free), (Some(10), Some(5)));
    rig.key = rig.new_user("pro@example.com", Plan::Pro).await;
    let pro = rig.running("one").await;
    // The node's own count.
    assert_eq!(started_with(&rig, &pro), (None, None));
}

#[tokio::test]
async fn changed_limit_reaches_a_running_vm_and_that_of_its_disk_the_next_boot() {
    let mut rig = rig(vm_limits(10, 5)).await;
    let id = rig.running("one").await;
    // Another process sets the user's own, then the plan's count again.
    set(&rig, Some(vm_limits(7, 3))).await;
    until_told(&rig, &id, Some(7)).await;
    assert_eq!(started_with(&rig, &id), (Some(10), Some(5)));
    rig.post(&format!("/workspaces/{id}/stop")).await;
    rig.until(&id, "stopped").await;
    rig.post(&format!("/workspaces/{id}/start")).await;
    rig.until(&id, "running").await;
    assert_eq!(started_with(&rig, &id), (Some(7), Some(3)));
    set(&rig, None).await;
    until_told(&rig, &id, Some(10)).await;
    // Another plan, while the node is away.
    rig.kill_node();
    admin::set_plan(&rig.config(), EMAIL, Plan::Pro).await.unwrap();
    rig.start_node();
    until_told(&rig, &id, None).await;
    // Another configuration.
    rig.kill_control();
    rig.plans.pro = vm_limits(20, 1);
    rig.start_control().await;
    until_told(&rig, &id, Some(20)).await;
}
