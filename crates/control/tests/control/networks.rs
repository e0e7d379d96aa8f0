//! Network settings of a workspace: validated, in force at the node with the response, and refusals logged.

use reqwest::Method;
use rigbox_proto::node::EgressRefused;
use rigbox_proto::node::egress::Mode;
use serde_json::{Value, json};

use crate::support::{TestControl, eventually};

async fn set(rig: &TestControl, id: &str, body: Value) -> (u16, Value) {
    let (status, body) = rig.call(Method::PATCH, &format!("/workspaces/{id}/network"), Some(body)).await;
    (status.as_u16(), body)
}

#[tokio::test]
async fn network_settings_are_at_the_node_with_the_response() {
    let rig = TestControl::new().await;
    let id = rig.running("one").await;
    let (_, network) = rig.get(&format!("/workspaces/{id}/network")).await;
    let egress = json!({"mode": "internet", "domains": [], "cidrs": [], "can_tunnel": []});
    assert_eq!(network, json!({"egress": egress, "apps_from_inside": "narrow", "live": true}));
    let requested =
        json!({"mode": "list", "domains": ["Example.org", "*.example.net"], "cidrs": ["93.184.216.0/24"]});
    let (status, network) = set(&rig, &id, json!({"egress": requested})).await;
    assert_eq!((status, &network["live"]), (200, &json!(true)), "{network}");
    assert_eq!(network["egress"]["domains"], json!(["example.org", "*.example.net"]));
    assert_eq!(network["egress"]["can_tunnel"], json!(["*.example.net"]));
    let egress = rig.node.network(&id).unwrap().egress.unwrap();
    assert_eq!(
        (egress.mode(), egress.domains, egress.cidrs),
        (
            Mode::List,
            vec!["example.org".to_owned(), "*.example.net".to_owned()],
            vec!["93.184.216.0/24".to_owned()],
        )
    );
    // App ports and egress are pushed together.
    let app = json!({"name": "web", "workspace_id": id, "port": 8000});
    assert_eq!(rig.call(Method::POST, "/apps", Some(app)).await.0, 201);
    let policy = rig.node.network(&id).unwrap();
    assert_eq!((policy.app_ports, policy.egress.unwrap().mode()), (vec![8000], Mode::List));
    set(&rig, &id, json!({"egress": {"mode": "none"}})).await;
    assert_eq!(rig.node.network(&id).unwrap().egress.unwrap().mode(), Mode::None);
}

#[tokio::test]
async fn invalid_entries_are_refused_and_change_nothing() {
    let rig = TestControl::new().await;
    let id = rig.running("one").await;
    for egress in [
        json!({"mode": "list"}),
        json!({"mode": "internet", "domains": ["example.org"]}),
        json!({"mode": "list", "domains": ["*"]}),
        json!({"mode": "list", "domains": ["exa mple.org"]}),
        json!({"mode": "list", "cidrs": ["10.0.0.0/8"]}),
        json!({"mode": "list", "cidrs": ["0.0.0.0/0"]}),
        json!({"mode": "list", "cidrs": ["1.2.3.4/33"]}),
        json!({"mode": "some"}),
    ] {
        let (status, response) = set(&rig, &id, json!({"egress": egress})).await;
        assert_eq!(status, 400, "{egress}: {response}");
    }
    let (_, network) = rig.get(&format!("/workspaces/{id}/network")).await;
    assert_eq!(network["egress"]["mode"], "internet");
}

#[tokio::test]
async fn start_that_is_late_brings_back_no_older_policy() {
    let rig = TestControl::new().await;
    let id = rig.provisioned("one").await;
    rig.node.hold("start");
    rig.post(&format!("/workspaces/{id}/start")).await;
    eventually("the start is on its way", || async { rig.node.calls("start") == 1 }).await;
    // The newer policy comes with the same target.
    let both_are_there = eventually("both are there", || async { rig.node.calls("start") == 2 });
    let release = async {
        both_are_there.await;
        rig.node.release("start");
    };
    let (changed, ()) = tokio::join!(set(&rig, &id, json!({"egress": {"mode": "none"}})), release);
    assert_eq!(changed.1["live"], true);
    rig.until(&id, "running").await;
    let policy = rig.node.network(&id).unwrap();
    assert_eq!(policy.egress.unwrap().mode(), Mode::None);
}

#[tokio::test]
async fn policy_of_a_restored_database_is_in_force_too() {
    let rig = TestControl::new().await;
    let id = rig.running("one").await;
    // From before the restore.
    rig.node.set_network_revision(&id, 1_000);
    assert_eq!(set(&rig, &id, json!({"egress": {"mode": "none"}})).await.1["live"], true);
    assert_eq!(rig.node.network(&id).unwrap().egress.unwrap().mode(), Mode::None);
    assert_eq!(set(&rig, &id, json!({"egress": {"mode": "internet"}})).await.1["live"], true);
    assert_eq!(rig.node.network(&id).unwrap().egress.unwrap().mode(), Mode::Internet);
    // Also that of a workspace which is started before it is changed.
    rig.post(&format!("/workspaces/{id}/stop")).await;
    rig.until(&id, "stopped").await;
    set(&rig, &id, json!({"egress": {"mode": "none"}})).await;
    rig.node.set_network(&id, 3_000, Mode::Internet);
    rig.post(&format!("/workspaces/{id}/start")).await;
    eventually("the policy of the database is in force", || async {
        rig.node.network(&id).unwrap().egress.unwrap().mode() == Mode::None
    })
    .await;
}

#[tokio::test]
async fn concurrent_changes_of_different_settings_lose_none() {
    let rig = TestControl::new().await;
    let id = rig.running("one").await;
    for _ in 0..10 {
        let reset = json!({"egress": {"mode": "internet"}, "apps_from_inside": "narrow"});
        set(&rig, &id, reset).await;
        let (egress, inside) = tokio::join!(
            set(&rig, &id, json!({"egress": {"mode": "none"}})),
            set(&rig, &id, json!({"apps_from_inside": "any"})),
        );
        assert_eq!((egress.0, inside.0), (200, 200));
        let (_, network) = rig.get(&format!("/workspaces/{id}/network")).await;
        assert_eq!(
            (&network["egress"]["mode"], &network["apps_from_inside"]),
            (&json!("none"), &json!("any"))
        );
        assert_eq!(rig.node.network(&id).unwrap().egress.unwrap().mode(), Mode::None);
    }
}

#[tokio::test]
async fn returning_node_gets_changed_network_settings() {
    let mut rig = TestControl::new().await;
    let id = rig.running("one").await;
    rig.kill_node();
    let (status, network) = set(&rig, &id, json!({"egress": {"mode": "none"}})).await;
    assert_eq!((status, &network["live"]), (200, &json!(false)), "{network}");
    rig.start_node();
    eventually("the node has the policy", || async {
        rig.node.network(&id).is_some_and(|policy| policy.egress.unwrap().mode() == Mode::None)
    })
    .await;
    // The node's report of it comes later.
    eventually("the policy is live", || async {
        rig.get(&format!("/workspaces/{id}/network")).await.1["live"] == true
    })
    .await;
}

#[tokio::test]
async fn owner_may_let_code_in_a_workspace_share_its_apps() {
    let rig = TestControl::new().await;
    let id = rig.running("one").await;
    let app = json!({"name": "web", "workspace_id": id, "port": 8000});
    let (_, created) = rig.call(Method::POST, "/apps", Some(app)).await;
    let path = format!("/api/v1/apps/{}/visibility", created["app"]["id"].as_str().unwrap());
    let inside = rig.guests.delivered_to(&id).2;
    let publish = async || {
        let request =
            rig.client.put(rig.url(&path)).bearer_auth(&inside).json(&json!({"visibility": "public"}));
        rig.fetch(request).await.0.as_u16()
    };
    assert_eq!(publish().await, 403);
    assert_eq!(set(&rig, &id, json!({"apps_from_inside": "any"})).await.1["apps_from_inside"], "any");
    assert_eq!(publish().await, 200);
}

#[tokio::test]
async fn blocked_network_access_is_in_the_workspace_log() {
    let rig = TestControl::new().await;
    let id = rig.running("one").await;
    let refused = |protocol: &str, address: &str, port, name: &str, count| EgressRefused {
        workspace_id: id.clone(),
        unix_ms: 1_700_000_000_000,
        protocol: protocol.to_owned(),
        address: address.to_owned(),
        port,
        name: name.to_owned(),
        count,
    };
    eventually("control follows refusals", || async { rig.node.is_watched_for_refusals() }).await;
    rig.node.refuse(refused("tcp", "10.0.0.1", 25, "", 3));
    rig.node.refuse(refused("dns", "", 0, "evil.example", 1));
    for text in [
        "Network policy blocked tcp to 10.0.0.1 port 25, 3 times.",
        "Network policy blocked a DNS query for evil.example.",
    ] {
        eventually(text, || async {
            rig.get(&format!("/workspaces/{id}/logs")).await.1.to_string().contains(text)
        })
        .await;
    }
}
