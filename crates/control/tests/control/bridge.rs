//! Bridge: the caller is the workspace that the AI proxy names as the node named it, and only requests in its scope succeed.

use std::os::fd::{AsFd, OwnedFd};

use prost::Message;
use rigbox_proto::bridge::Handover;
use rigbox_sys::fdpass;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::support::TestControl;

struct Proxy {
    socket: OwnedFd,
}

impl Proxy {
    fn connect(rig: &TestControl) -> Self {
        Self { socket: fdpass::connect(&rig.path("bridge.sock")).unwrap() }
    }

    /// Opens a connection from the VM of `workspace`.
    fn connection(&self, workspace: &str) -> UnixStream {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let packet = Handover { workspace_id: workspace.to_owned() }.encode_to_vec();
        fdpass::send(&self.socket, &packet, &[theirs.as_fd()]).unwrap();
        ours
    }

    async fn request(
        &self,
        workspace: &str,
        method: &str,
        path: &str,
        headers: &str,
        body: &str,
    ) -> (u16, Value) {
        let mut stream = self.connection(workspace);
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: 172.16.0.1:9090\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, serde_json::from_str(body).unwrap_or(Value::Null))
    }
}

#[tokio::test]
async fn vm_sees_itself_and_changes_its_apps_with_its_key() {
    let rig = TestControl::new().await;
    let (workspace, other) = (rig.running("one").await, rig.running("two").await);
    let proxy = Proxy::connect(&rig);
    let get = async |path: &str| proxy.request(&workspace, "GET", path, "", "").await;
    let (status, listed) = get("/rig/v1/workspaces").await;
    assert_eq!((status, listed["vms"].as_array().unwrap().len()), (200, 1), "{listed}");
    assert_eq!(listed["vms"][0]["id"], json!(workspace));
    assert_eq!(get(&format!("/rig/v1/workspaces/{workspace}")).await.0, 200);
    assert_eq!(get(&format!("/rig/v1/workspaces/{other}")).await.0, 404);
    for outside in ["/rig/v1/users/me", "/rig/v1/api-keys", "/rig/v1/audit-log"] {
        assert_eq!(get(outside).await.0, 403, "{outside}");
    }
    for shared in ["/rig/v1/templates", "/rig/v1/capacity"] {
        assert_eq!(get(shared).await.0, 200, "{shared}");
    }
    // What strangers may do has no place here, with or without a key.
    for public in ["/rig/v1/auth/link", "/rig/v1/auth/device", "/rig/v1/auth/device/poll"] {
        let body = json!({"email": "a@example.com", "machine": "m"}).to_string();
        assert_eq!(proxy.request(&workspace, "POST", public, "", &body).await.0, 404, "{public}");
    }
    // Its own program, for which it needs no key.
    std::fs::write(rig.path("rig.lz4"), "{}").unwrap();
    assert_eq!(get("/rig/program").await, (200, json!({})));
    std::fs::remove_file(rig.path("rig.lz4")).unwrap();
    assert_eq!(get("/rig/program").await.0, 503);
    for elsewhere in ["/", "/api/v1/workspaces", "/v1/workspaces", "/v1/messages", "/sign-in", "/rig/v2"] {
        let (status, body) = get(elsewhere).await;
        assert_eq!((status, &body["error"]["code"]), (404, &json!("not_found")), "{elsewhere}");
    }

    // Changes require the key of this workspace.
    let body = json!({"name": "web", "workspace_id": workspace, "port": 8000}).to_string();
    let create =
        async |headers: &str| proxy.request(&workspace, "POST", "/rig/v1/apps", headers, &body).await;
    let own = rig.guests.delivered_to(&workspace).2;
    let wrong = [rig.guests.delivered_to(&other).2, rig.key.clone(), format!("rb_ws_{}", "a".repeat(43))];
    for key in ["".to_owned()].into_iter().chain(wrong.map(|key| format!("Authorization: Bearer {key}\r\n")))
    {
        let (status, response) = create(&key).await;
        assert_eq!((status, &response["error"]["code"]), (401, &json!("unauthorized")), "{key}: {response}");
    }
    assert_eq!(rig.get("/apps").await.1["apps"], json!([]));
    let (status, created) = create(&format!("Authorization: Bearer {own}\r\n")).await;
    assert_eq!(status, 201, "{created}");
    // Its idempotency keys are its own, not its owner's.
    let same =
        async |request: reqwest::RequestBuilder| rig.send(request.header("idempotency-key", "k")).await;
    let owners = json!({"name": "owners", "workspace_id": workspace, "port": 1});
    let owners = same(rig.request(reqwest::Method::POST, "/apps").json(&owners)).await;
    assert_eq!(owners.status, 201);
    let own_body = json!({"name": "vms", "workspace_id": workspace, "port": 2}).to_string();
    let headers = format!("Authorization: Bearer {own}\r\nIdempotency-Key: k\r\n");
    let vms = proxy.request(&workspace, "POST", "/rig/v1/apps", &headers, &own_body).await;
    assert_eq!((vms.0, &vms.1["app"]["name"]), (201, &json!("vms")), "{}", vms.1);
    let open = format!("/rig/v1/apps/{}/visibility", created["app"]["id"].as_str().unwrap());
    let public = proxy
        .request(
            &workspace,
            "PUT",
            &open,
            &format!("Authorization: Bearer {own}\r\n"),
            r#"{"visibility":"public"}"#,
        )
        .await;
    assert_eq!(public.0, 403, "{}", public.1);
    // The log shows which workspace it was.
    let (_, log) = rig.get("/audit-log").await;
    let entry =
        log["entries"].as_array().unwrap().iter().find(|entry| entry["action"] == "app.create").unwrap();
    assert_eq!(entry["address"], json!(workspace), "{log}");
    // The key of another caller is refused.
    assert_eq!(
        proxy
            .request(
                &workspace,
                "GET",
                "/rig/v1/workspaces",
                &format!("Authorization: Bearer {}\r\n", rig.key),
                ""
            )
            .await
            .0,
        401
    );
}

#[tokio::test]
async fn pages_in_a_vm_and_forged_requests_are_refused() {
    let rig = TestControl::new().await;
    let workspace = rig.running("one").await;
    let proxy = Proxy::connect(&rig);
    for header in ["Origin: null", "Sec-Fetch-Site: none", "X-Forwarded-For: 10.0.0.1", "Host: localhost"] {
        let (status, body) =
            proxy.request(&workspace, "GET", "/rig/v1/workspaces", &format!("{header}\r\n"), "").await;
        assert!(status == 403 || status == 400, "{header}: {status} {body}");
    }
    // Without a workspace named by the node there is no caller.
    let mut stream = proxy.connection("nonsense");
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.unwrap();
    assert!(rest.is_empty());
    assert_eq!(proxy.request("ws-aaaaaaaa", "GET", "/rig/v1/workspaces", "", "").await.0, 401);
}

#[tokio::test]
async fn connections_are_limited_per_workspace() {
    let rig = TestControl::new().await;
    let (workspace, other) = (rig.running("one").await, rig.running("two").await);
    let proxy = Proxy::connect(&rig);
    let mut held = Vec::new();
    for _ in 0..128 {
        held.push(proxy.connection(&workspace));
    }
    let mut one_more = proxy.connection(&workspace);
    let mut rest = Vec::new();
    one_more.read_to_end(&mut rest).await.unwrap();
    assert_eq!(proxy.request(&other, "GET", "/rig/v1/workspaces", "", "").await.0, 200);
    held.clear();
    // Their ends are noticed a moment later; until then another connection is closed without a response.
    crate::support::eventually("the places are free again", || async {
        let mut stream = proxy.connection(&workspace);
        let request = "GET /rig/v1/apps HTTP/1.1\r\nHost: 172.16.0.1:9090\r\nConnection: close\r\n\r\n";
        let mut text = String::new();
        let _ = stream.write_all(request.as_bytes()).await;
        let _ = stream.read_to_string(&mut text).await;
        text.starts_with("HTTP/1.1 200")
    })
    .await;
}
