//! Workspaces, against a simulated node.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::TestControl;

#[tokio::test]
async fn workspace_is_created_started_stopped_and_deleted() {
    let rig = TestControl::new().await;
    let id = rig.running("one").await;
    let (_, body) = rig.get(&format!("/workspaces/{id}")).await;
    for field in [
        "id",
        "user_id",
        "node_id",
        "name",
        "status",
        "image",
        "ram_mb",
        "vcpu_count",
        "disk_size_mb",
        "created_at",
        "updated_at",
    ] {
        assert!(!body["vm"][field].is_null(), "{field}: {body}");
    }
    assert!(!body.to_string().contains("null"), "{body}");

    let (status, body) = rig.post(&format!("/workspaces/{id}/stop")).await;
    assert_eq!((status.as_u16(), body["vm"]["status"].as_str()), (200, Some("stopping")));
    rig.until(&id, "stopped").await;
    assert!(!rig.node.alive(&id));

    let (status, body) = rig.call(Method::DELETE, &format!("/workspaces/{id}"), None).await;
    assert_eq!((status.as_u16(), body["status"].as_str()), (200, Some("deleting")), "{body}");
    let body = rig.until(&id, "gone").await;
    assert!(body["error"]["message"].as_str().unwrap().contains("not found"));
    assert!(!rig.node.has(&id));
}

#[tokio::test]
async fn running_workspace_can_be_deleted_and_its_name_reused() {
    let rig = TestControl::new().await;
    let id = rig.running("one").await;
    rig.call(Method::DELETE, &format!("/workspaces/{id}"), None).await;
    rig.until(&id, "gone").await;
    assert!(!rig.node.has(&id));
    rig.provisioned("one").await;
}

#[tokio::test]
async fn invalid_requests_are_refused_with_the_reason() {
    let rig = TestControl::new().await;
    for (body, code, expected) in [
        (json!({"name": "a", "colour": 1}), 400, "colour"),
        (json!({}), 400, "name"),
        (json!({"name": "A_b"}), 400, "a-z"),
        (json!({"name": 5}), 400, "name"),
        (json!({"name": "a", "ram_mb": 0}), 400, "ram_mb is 0"),
        (json!({"name": "a", "ram_mb": -1}), 400, "ram_mb"),
        (json!({"name": "a", "vcpu_count": 0}), 400, "vcpu_count"),
        (json!({"name": "a", "disk_size_mb": 4_000_000_000u32}), 402, "max_disk_total_mb"),
        (json!({"name": "a", "ram_mb": 10_000}), 402, "max_ram_per_vm_mb"),
        (json!({"name": "a", "template_id": "windows"}), 400, "windows"),
        (json!({"name": "a", "image": "other"}), 400, "image"),
        (json!({"name": "a", "setup_script_ids": ["x"]}), 400, "setup_script_ids"),
        (json!([]), 400, "list"),
    ] {
        let (status, response) = rig.call(Method::POST, "/workspaces", Some(body.clone())).await;
        assert_eq!(status, code, "{body} {response}");
        let message = response["error"]["message"].as_str().unwrap();
        assert!(message.contains(expected), "{body}: {message}");
        assert!(response["error"]["code"].is_string());
    }
    let huge = rig.request(Method::POST, "/workspaces").body("x".repeat(1024 * 1024 + 1));
    assert_eq!(rig.fetch(huge).await.0, 413);
    assert_eq!(rig.fetch(rig.request(Method::POST, "/workspaces").body("{")).await.0, 400);
    assert_eq!(rig.get("/workspaces?limit=0").await.0, 400);
    assert_eq!(rig.get("/workspaces?limit=1001").await.0, 400);
    assert_eq!(rig.get("/workspaces?colour=1").await.0, 400);
    assert_eq!(rig.get("/workspaces?cursor=%00").await.0, 400);
    assert_eq!(rig.get("/nothing").await.0, 404);
    assert_eq!(rig.call(Method::PATCH, "/workspaces", None).await.0, 405);
    assert_eq!(rig.get("/workspaces").await.1["vms"], json!([]), "a workspace was created");
    assert_eq!(rig.get("/workspaces/%ff").await.0, 400);
}

#[tokio::test]
async fn resources_below_the_templates_minimum_are_raised() {
    let rig = TestControl::new().await;
    let body = json!({"name": "a", "template_id": "dev", "ram_mb": 1, "disk_size_mb": 20_000});
    let (_, body) = rig.call(Method::POST, "/workspaces", Some(body)).await;
    let vm = &body["vm"];
    assert_eq!(
        (&vm["ram_mb"], &vm["vcpu_count"], &vm["disk_size_mb"]),
        (&json!(1024), &json!(2), &json!(20_000))
    );
}

#[tokio::test]
async fn illegal_transition_names_the_status_and_the_allowed_requests() {
    let rig = TestControl::new().await;
    let id = rig.running("one").await;
    for verb in ["start", "cancel", "retry"] {
        let (status, body) = rig.post(&format!("/workspaces/{id}/{verb}")).await;
        assert_eq!((status.as_u16(), body["error"]["code"].as_str()), (409, Some("invalid_state")), "{verb}");
        let message = body["error"]["message"].as_str().unwrap();
        assert!(message.contains("running") && message.contains("stop or delete"), "{message}");
    }
    let (status, body) = rig.call(Method::POST, "/workspaces", Some(json!({"name": "one"}))).await;
    assert_eq!((status.as_u16(), body["error"]["code"].as_str()), (409, Some("name_taken")));
}

#[tokio::test]
async fn requests_without_a_valid_key_and_keys_in_urls_are_refused() {
    let rig = TestControl::new().await;
    for path in ["/api/v1/workspaces", "/v1/users/me", "/api/v1/doctor", "/api/v1/workspaces/ws-aaaaaaaa"] {
        for key in [None, Some("rb_short".to_owned()), Some(format!("rb_{}", "a".repeat(43)))] {
            let request = rig.client.get(rig.url(path));
            let request = match &key {
                Some(key) => request.bearer_auth(key),
                None => request,
            };
            let (status, body) = rig.fetch(request).await;
            assert_eq!(
                (status.as_u16(), body["error"]["code"].as_str()),
                (401, Some("unauthorized")),
                "{path}"
            );
        }
    }
    let (status, body) = rig.get(&format!("/workspaces?name={}", rig.key)).await;
    assert_eq!((status.as_u16(), body["error"]["code"].as_str()), (400, Some("key_in_url")));
    assert!(!body.to_string().contains(&rig.key));
}

#[tokio::test]
async fn unknown_host_is_misdirected() {
    let rig = TestControl::new().await;
    let get = |host: String| rig.fetch(rig.request(Method::GET, "/workspaces").header("host", host));
    let port = rig.address.port();
    assert_eq!(get("evil.example".into()).await.0, 421);
    assert_eq!(get(format!("evil.example:{port}")).await.0, 421);
    for good in [format!("localhost:{port}"), format!("[::1]:{port}"), format!("127.0.0.1:{port}")] {
        assert_eq!(get(good).await.0, 200);
    }
}

#[tokio::test]
async fn repeated_create_makes_one_workspace() {
    let rig = TestControl::new().await;
    let create = |name: &str| {
        let body = json!({"name": name});
        rig.fetch(rig.request(Method::POST, "/workspaces").header("idempotency-key", "k").json(&body))
    };
    let (first, second) = (create("one").await, create("one").await);
    assert_eq!(first.0, 201);
    assert_eq!(first, second);
    let (status, body) = create("two").await;
    assert_eq!((status.as_u16(), body["error"]["code"].as_str()), (409, Some("idempotency_key_reused")));
    assert_eq!(rig.get("/workspaces").await.1["vms"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn lists_are_paged_and_filtered() {
    let rig = TestControl::new().await;
    for name in ["a", "b", "c"] {
        rig.create(name).await;
    }
    let (_, page) = rig.get("/workspaces?limit=2").await;
    assert_eq!(page["vms"].as_array().unwrap().len(), 2);
    let cursor = page["next_cursor"].as_str().unwrap();
    let (_, rest) = rig.get(&format!("/workspaces?limit=2&cursor={cursor}")).await;
    assert_eq!(rest["vms"].as_array().unwrap().len(), 1);
    assert!(rest.get("next_cursor").is_none());
    let (_, one) = rig.get("/workspaces?name=b").await;
    assert_eq!((one["vms"].as_array().unwrap().len(), &one["vms"][0]["name"]), (1, &json!("b")));
}

#[tokio::test]
async fn wait_returns_on_a_change_or_at_its_timeout() {
    let rig = TestControl::new().await;
    rig.node.hold("provision");
    let id = rig.create("one").await;
    let (_, body) = rig.get(&format!("/workspaces/{id}?wait_until_not=provisioning&timeout_s=1")).await;
    assert_eq!(body["vm"]["status"], "provisioning");
    let path = format!("/workspaces/{id}?wait_until_not=provisioning&timeout_s=60");
    let (waited, ()) = tokio::join!(rig.get(&path), async { rig.node.release("provision") });
    assert_eq!(waited.1["vm"]["status"], "provisioned");
    assert_eq!(rig.get(&format!("/workspaces/{id}?wait_until_not=asleep")).await.0, 400);
}

#[tokio::test]
async fn name_in_place_of_an_id_is_not_found_with_the_remedy() {
    let rig = TestControl::new().await;
    rig.provisioned("web").await;
    for path in ["/workspaces/web", "/workspaces/web/env", "/apps/web"] {
        let (status, body) = rig.get(path).await;
        let message = body["error"]["message"].as_str().unwrap();
        assert_eq!((status.as_u16(), &body["error"]["code"]), (404, &json!("not_found")), "{path}: {body}");
        assert!(message.contains("`web` not found. Use its id, such as"), "{path}: {message}");
    }
    let (_, body) = rig.get("/workspaces/ws-aaaaaaaa").await;
    assert_eq!(body["error"]["message"], "Workspace `ws-aaaaaaaa` not found.");
}

#[tokio::test]
async fn public_routes_need_no_key_and_the_account_can_be_read() {
    let rig = TestControl::new().await;
    let public = |path: &str| rig.fetch(rig.client.get(rig.url(path)));
    let (_, templates) = public("/api/v1/templates").await;
    assert_eq!(templates["templates"].as_array().unwrap().len(), 2);
    let (_, capacity) = public("/v1/capacity").await;
    assert_eq!((&capacity["disk_free_mb"], &capacity["emulated"]), (&json!(90_000), &json!(true)));
    assert_eq!(public("/healthz").await.1["status"], "ok");
    let (_, me) = rig.get("/users/me").await;
    assert_eq!((&me["email"], &me["plan"]), (&json!("a@example.com"), &json!("owner")));
    rig.create("one").await;
    let (_, limits) = rig.get("/users/me/limits").await;
    assert_eq!(limits["usage"]["workspace_count"], 1);
    assert_eq!(limits["limits"]["max_ram_per_vm_mb"], 8192);
    let (_, doctor) = rig.get("/doctor").await;
    assert_eq!(doctor["findings"][1]["subject"], "kvm");
    let findings = doctor["findings"].as_array().unwrap();
    let site = findings.iter().find(|finding| finding["subject"] == "apps_domain").unwrap();
    assert_eq!(site["level"], "ok", "{site}");
}

#[tokio::test]
async fn api_sends_retry_after_without_its_node() {
    let mut rig = TestControl::new().await;
    rig.kill_node();
    let create = rig.request(Method::POST, "/workspaces").json(&json!({"name": "a"}));
    let response = rig.send(create).await;
    assert_eq!(response.status, 503);
    assert!(response.headers.contains_key("retry-after"));
    let (status, doctor) = rig.get("/doctor").await;
    assert_eq!(
        (status.as_u16(), &doctor["healthy"]),
        (200, &json!(false)),
        "the doctor must work without the node"
    );
    crate::support::eventually("not ready", || async {
        rig.send(rig.client.get(rig.url("/readyz"))).await.status == 503
    })
    .await;
}

#[tokio::test]
async fn workspace_log_has_status_changes_and_can_be_followed() {
    let rig = TestControl::new().await;
    let id = rig.running("one").await;
    let path = format!("/workspaces/{id}/logs");
    let messages = |body: &Value| -> Vec<String> {
        let lines = body["lines"].as_array().unwrap();
        lines.iter().map(|line| line["message"].as_str().unwrap().to_owned()).collect()
    };
    let (_, log) = rig.get(&path).await;
    let expected = ["provisioned", "starting", "running"].map(|status| format!("Workspace is {status}."));
    assert_eq!(messages(&log), expected);
    assert_eq!((&log["lines"][2]["line_number"], &log["has_more"]), (&json!(3), &json!(false)));
    assert_eq!(messages(&rig.get(&format!("{path}?lines=1")).await.1), ["Workspace is running."]);

    let mut stream = rig.send_streaming(rig.request(Method::GET, &format!("{path}/stream?cursor=2"))).await;
    let mut next = async || {
        let chunk =
            tokio::time::timeout(Duration::from_secs(5), stream.chunk()).await.unwrap().unwrap().unwrap();
        String::from_utf8(chunk.to_vec()).unwrap()
    };
    let first = next().await;
    assert!(first.contains("id: 3\n") && first.contains("Workspace is running."), "{first}");
    rig.post(&format!("/workspaces/{id}/stop")).await;
    let second = next().await;
    assert!(second.contains("id: 4\n") && second.contains("Workspace is stopping."), "{second}");
    let cursor = log["cursor"].as_str().unwrap();
    rig.until(&id, "stopped").await;
    let (_, rest) = rig.get(&format!("{path}?cursor={cursor}")).await;
    assert_eq!(messages(&rest), ["Workspace is stopping.", "Workspace is stopped."]);
    for bad in ["lines=0", "cursor=x", "cursor=-1"] {
        assert_eq!(rig.get(&format!("{path}?{bad}")).await.0, 400, "{bad}");
    }
}

#[tokio::test]
async fn start_needs_the_memory_on_the_machine() {
    let rig = TestControl::new().await;
    // The node has 8 GiB, of which VMs get 7.
    let body = |name: &str| json!({"name": name, "ram_mb": 4096});
    let mut ids = Vec::new();
    for name in ["one", "two"] {
        let created = rig.call(Method::POST, "/workspaces", Some(body(name))).await.1;
        ids.push(created["vm"]["id"].as_str().unwrap().to_owned());
        rig.until(ids.last().unwrap(), "provisioned").await;
    }
    let start = async |id: &str| rig.post(&format!("/workspaces/{id}/start")).await;
    let started = tokio::join!(start(&ids[0]), start(&ids[1]));
    let (won, lost) = if started.0.0 == 200 { (0, 1) } else { (1, 0) };
    let refused = if lost == 1 { started.1 } else { started.0 };
    assert_eq!((refused.0.as_u16(), refused.1["error"]["code"].as_str()), (503, Some("node_full")));
    let details = &refused.1["error"]["details"];
    assert_eq!((details["needed_mb"].as_u64(), details["free_mb"].as_u64()), (Some(4224), Some(2944)));
    rig.until(&ids[won], "running").await;
    assert_eq!(rig.post(&format!("/workspaces/{}/stop", ids[won])).await.0, 200);
    rig.until(&ids[won], "stopped").await;
    assert_eq!(start(&ids[lost]).await.0, 200);
}
