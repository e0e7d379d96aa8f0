//! API keys: creation, scopes, rotation and revocation.

use std::time::Instant;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::{TestControl, eventually};

/// Creates a key and returns its id and secret.
async fn create(rig: &TestControl, body: Value) -> (String, String) {
    let (status, created) = rig.call(Method::POST, "/api-keys", Some(body)).await;
    assert_eq!(status, 201, "{created}");
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    (text(&created["api_key"]["id"]), text(&created["key"]))
}

async fn with(rig: &TestControl, key: &str, method: Method, path: &str) -> (StatusCode, Value) {
    rig.fetch(rig.client.request(method, rig.url(&format!("/api/v1{path}"))).bearer_auth(key)).await
}

async fn is_valid(rig: &TestControl, key: &str) -> bool {
    match with(rig, key, Method::GET, "/workspaces").await.0.as_u16() {
        200 => true,
        401 => false,
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn key_is_shown_once_and_listed_with_its_last_use() {
    let rig = TestControl::new().await;
    let (id, key) = create(&rig, json!({"name": "ci"})).await;
    assert!(key.starts_with("rb_") && key.len() == 46);
    assert!(is_valid(&rig, &key).await);
    eventually("its use is recorded", || async {
        let (_, listed) = rig.get("/api-keys").await;
        assert!(!listed.to_string().contains(&key));
        let own = listed["api_keys"].as_array().unwrap().iter().find(|key| key["id"] == *id).unwrap();
        assert_eq!((&own["name"], own["preview"].as_str().unwrap().chars().count()), (&json!("ci"), 10));
        own["last_used_at"].is_string()
    })
    .await;
}

#[tokio::test]
async fn revoked_key_is_refused_on_next_request() {
    let rig = TestControl::new().await;
    let (id, key) = create(&rig, json!({"name": "gone soon"})).await;
    assert!(is_valid(&rig, &key).await);
    let path = format!("/api-keys/{id}");
    assert_eq!(rig.call(Method::DELETE, &path, None).await.0, 200);
    assert!(!is_valid(&rig, &key).await);
    let (status, body) = rig.call(Method::DELETE, &path, None).await;
    assert_eq!(status, 404);
    assert!(body["error"]["message"].as_str().unwrap().contains("not found"));
}

#[tokio::test]
async fn previous_secret_of_rotated_key_is_valid_for_the_grace_period() {
    let rig = TestControl::new().await;
    let (id, first) = create(&rig, json!({"name": "ci"})).await;
    let rotate = async |body: Option<Value>| {
        let (status, body) = rig.call(Method::POST, &format!("/api-keys/{id}/rotate"), body).await;
        assert_eq!(status, 200, "{body}");
        body["key"].as_str().unwrap().to_owned()
    };
    let second = rotate(Some(json!({"grace_s": 60}))).await;
    assert!(is_valid(&rig, &first).await && is_valid(&rig, &second).await);
    let third = rotate(None).await;
    assert!(!is_valid(&rig, &first).await && !is_valid(&rig, &second).await && is_valid(&rig, &third).await);
    let too_long =
        rig.call(Method::POST, &format!("/api-keys/{id}/rotate"), Some(json!({"grace_s": 604_801}))).await;
    assert_eq!(too_long.0, 400);
    assert!(is_valid(&rig, &third).await);
}

#[tokio::test]
async fn scoped_key_sees_its_workspaces_and_nothing_else() {
    let rig = TestControl::new().await;
    let (mine, other) = (rig.running("mine").await, rig.provisioned("other").await);
    let (_, read) = create(&rig, json!({"name": "r", "workspaces": [mine]})).await;
    let (_, operate) = create(&rig, json!({"name": "o", "workspaces": [mine], "role": "operate"})).await;
    for key in [&read, &operate] {
        let (_, listed) = with(&rig, key, Method::GET, "/workspaces").await;
        assert_eq!(listed["vms"].as_array().unwrap().len(), 1, "{listed}");
        for (method, path, status) in [
            (Method::GET, format!("/workspaces/{mine}"), 200),
            (Method::GET, format!("/workspaces/{other}"), 404),
            (Method::POST, format!("/workspaces/{other}/start"), 404),
            (Method::DELETE, format!("/workspaces/{other}"), 404),
            (Method::DELETE, format!("/workspaces/{mine}"), 403),
            (Method::POST, "/workspaces".to_owned(), 403),
            (Method::GET, "/api-keys".to_owned(), 403),
            (Method::POST, "/api-keys".to_owned(), 403),
            (Method::GET, "/users/me".to_owned(), 200),
            (Method::GET, "/users/me/limits".to_owned(), 403),
            (Method::GET, "/doctor".to_owned(), 403),
        ] {
            let request =
                rig.client.request(method.clone(), rig.url(&format!("/api/v1{path}"))).bearer_auth(key);
            let (got, body) = rig.fetch(request.json(&json!({"name": "x"}))).await;
            assert_eq!(got, status, "{method} {path}: {body}");
        }
    }
    let stop = format!("/workspaces/{mine}/stop");
    assert_eq!(with(&rig, &read, Method::POST, &stop).await.0, 403);
    assert_eq!(rig.get(&format!("/workspaces/{mine}")).await.1["vm"]["status"], "running");
    assert_eq!(with(&rig, &operate, Method::POST, &stop).await.0, 200);
    rig.until(&mine, "stopped").await;
    assert_eq!(rig.get(&format!("/workspaces/{other}")).await.1["vm"]["status"], "provisioned");
}

#[tokio::test]
async fn account_names_the_key_of_the_request_and_its_scope() {
    let rig = TestControl::new().await;
    let mine = rig.provisioned("mine").await;
    let (id, limited) = create(&rig, json!({"name": "ci", "workspaces": [mine]})).await;
    let (_, me) = with(&rig, &limited, Method::GET, "/users/me").await;
    assert_eq!(me["api_key"], json!({"id": id, "name": "ci", "role": "read", "workspaces": [mine]}));
    let (id, account) = create(&rig, json!({"name": "laptop"})).await;
    let (_, me) = with(&rig, &account, Method::GET, "/users/me").await;
    assert_eq!(me["api_key"], json!({"id": id, "name": "laptop"}));
}

#[tokio::test]
async fn invalid_key_specification_is_refused() {
    let rig = TestControl::new().await;
    let too_many: Vec<String> = vec!["ws-aaaaaaaa".to_owned(); 101];
    for (body, status, expected) in [
        (json!({}), 400, "name"),
        (json!({"name": ""}), 400, "name"),
        (json!({"name": "x".repeat(65)}), 400, "name"),
        (json!({"name": "a\u{7}b"}), 400, "name"),
        (json!({"name": "x", "colour": 1}), 400, "colour"),
        (json!({"name": "x", "expires_at": "2020-01-01T00:00:00Z"}), 400, "past"),
        (json!({"name": "x", "expires_at": "soon"}), 400, "expires_at"),
        (json!({"name": "x", "role": "read"}), 400, "workspaces"),
        (json!({"name": "x", "workspaces": []}), 400, "workspaces"),
        (json!({"name": "x", "workspaces": too_many}), 400, "workspaces"),
        (json!({"name": "x", "workspaces": ["ws-aaaaaaaa"], "role": "own"}), 400, "role"),
        (json!({"name": "x", "workspaces": ["ws-aaaaaaaa"]}), 404, "not found"),
        (json!({"name": "x", "workspaces": ["nonsense"]}), 404, "not found"),
    ] {
        let (got, response) = rig.call(Method::POST, "/api-keys", Some(body.clone())).await;
        assert_eq!(got, status, "{body}: {response}");
        assert!(response["error"]["message"].as_str().unwrap().contains(expected), "{body}: {response}");
    }
    assert_eq!(rig.get("/api-keys").await.1["api_keys"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn repeated_create_makes_one_key_and_shows_its_secret_once() {
    let rig = TestControl::new().await;
    let create = || {
        let request = rig.request(Method::POST, "/api-keys").header("idempotency-key", "k");
        rig.fetch(request.json(&json!({"name": "ci"})))
    };
    let (first, second) = (create().await, create().await);
    assert_eq!(first.0, 201);
    assert_eq!((second.0.as_u16(), second.1["error"]["code"].as_str()), (409, Some("secret_shown_once")));
    assert!(second.1.to_string().contains(first.1["api_key"]["id"].as_str().unwrap()));
    assert_eq!(rig.get("/api-keys").await.1["api_keys"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn requests_above_the_burst_are_refused_until_the_limit_allows_them() {
    let rig = TestControl::new().await;
    let me = || rig.send(rig.request(Method::GET, "/users/me"));
    let (mut passed, started_at) = (0, Instant::now());
    let refused = loop {
        let response = me().await;
        if response.status == 429 {
            break response;
        }
        assert_eq!(response.headers["ratelimit-limit"], "120");
        passed += 1;
        assert!(passed < 1_000, "no rate limit");
    };
    // One request is available every half second.
    let max = 12 + started_at.elapsed().as_millis() / 500 + 1;
    assert!((12..=max).contains(&passed), "{passed}");
    assert_eq!(
        (&refused.headers["ratelimit-remaining"], &refused.headers["retry-after"]),
        (&"0".parse().unwrap(), &"1".parse().unwrap())
    );
    let body = refused.json();
    assert_eq!(body["error"]["code"], "rate_limited");
    eventually("the next request passes", || async { me().await.status == 200 }).await;

    // The administrator's workspaces have no rate limit, and anonymous clients have one of their own.
    for _ in 0..30 {
        let response = rig.send(rig.request(Method::GET, "/workspaces")).await;
        assert_eq!(response.status, 200);
        assert!(!response.headers.contains_key("ratelimit-limit"));
    }
    let wrong = format!("rb_{}", "x".repeat(43));
    let mut refusals = 0;
    loop {
        let request = rig.client.get(rig.url("/api/v1/workspaces")).bearer_auth(&wrong);
        match rig.send(request).await.status.as_u16() {
            401 if refusals < 1_000 => refusals += 1,
            429 => break,
            other => panic!("{other}"),
        }
    }
    assert!(refusals >= 12, "{refusals}");
    assert!(is_valid(&rig, &rig.key).await);
}

#[tokio::test]
async fn audit_log_records_actions_for_the_owner() {
    let rig = TestControl::new().await;
    let id = rig.running("one").await;
    let (key_id, key) = create(&rig, json!({"name": "ci", "workspaces": [id], "role": "operate"})).await;
    assert_eq!(with(&rig, &key, Method::POST, &format!("/workspaces/{id}/stop")).await.0, 200);
    // What the workspace's status refuses is no event; what the key does not allow is.
    assert_eq!(rig.post(&format!("/workspaces/{id}/cancel")).await.0, 409);
    assert_eq!(with(&rig, &key, Method::GET, "/audit-log").await.0, 403);
    rig.call(Method::DELETE, &format!("/api-keys/{key_id}"), None).await;

    let read = async |query: &str| rig.get(&format!("/audit-log{query}")).await.1;
    // First uses are recorded in the background.
    eventually("both first uses and the refusal are recorded", || async {
        read("").await["entries"].as_array().unwrap().len() == 10
    })
    .await;
    let log = read("").await;
    let entries: Vec<_> = log["entries"].as_array().unwrap().iter().rev().cloned().collect();
    let of = |action: &str| entries.iter().filter(|entry| entry["action"] == action).collect::<Vec<_>>();
    for (action, target) in [
        ("workspace.create", &id),
        ("workspace.start", &id),
        ("workspace.stop", &id),
        ("key.revoke", &key_id),
    ] {
        assert_eq!((of(action).len(), &of(action)[0]["target"]), (1, &json!(target)), "{action}: {log}");
        assert_eq!(of(action)[0]["address"], "127.0.0.1");
    }
    assert_eq!(of("workspace.stop")[0]["key_id"], json!(key_id));
    assert_eq!(of("audit.read.refused")[0]["key_id"], json!(key_id));
    assert_eq!((of("key.create").len(), of("key.first_use").len(), of("user.create").len()), (2, 2, 1));
    assert!(!log.to_string().contains(&key));

    let newest = read("?limit=1").await;
    let cursor = newest["next_cursor"].as_str().unwrap();
    assert_eq!(read(&format!("?limit=1&cursor={cursor}")).await["entries"][0], log["entries"][1]);
    assert_eq!(rig.get("/audit-log?cursor=x").await.0, 400);
    assert_eq!(rigbox_control::admin::verify_audit(&rig.config()).await.unwrap(), Ok(10));
}
