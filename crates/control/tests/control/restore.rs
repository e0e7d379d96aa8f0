//! An older database that is put back revives nothing that was revoked, whether by the operator's command or by hand.

use reqwest::Method;
use rigbox_control::admin;
use serde_json::json;

use crate::support::browser::Browser;
use crate::support::{TestControl, eventually};

const EMAIL: &str = "a@example.com";
const SSH_KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAINzDTkJ/Qj8U6p6Vt76Q8GWs+YJVqzBcInAJ6CcLfDb9";

/// Puts a copy of the database in its place, as by hand.
fn put_back(rig: &TestControl) {
    for file in ["rigbox.db-wal", "rigbox.db-shm"] {
        let _ = std::fs::remove_file(rig.path(file));
    }
    std::fs::remove_file(rig.path("rigbox.db")).unwrap();
    std::fs::copy(rig.path("copy.db"), rig.path("rigbox.db")).unwrap();
}

#[tokio::test]
async fn revoked_key_session_and_workspace_stay_gone_when_an_older_database_is_put_back() {
    let mut rig = TestControl::new().await;
    let kept = rig.running("kept").await;
    let (_, _, boot_key) = rig.guests.delivered_to(&kept);
    let deleted = rig.provisioned("deleted").await;
    let app = json!({"name": "shop", "workspace_id": kept, "port": 80});
    let (status, app) = rig.call(Method::POST, "/apps", Some(app)).await;
    assert_eq!(status, 201, "{app}");
    let app = format!("/apps/{}", app["app"]["id"].as_str().or(app["id"].as_str()).unwrap());
    let share = async |rig: &TestControl, visibility: &str| {
        let body = Some(json!({"visibility": visibility}));
        assert_eq!(rig.call(Method::PUT, &format!("{app}/visibility"), body).await.0, 200);
    };
    share(&rig, "public").await;
    let (_, created) = rig.call(Method::POST, "/api-keys", Some(json!({"name": "one"}))).await;
    let (id, key) = (created["api_key"]["id"].as_str().unwrap(), created["key"].as_str().unwrap());
    let ssh_key = json!({"name": "one", "public_key": SSH_KEY});
    let (_, ssh_key) = rig.call(Method::POST, "/ssh-keys", Some(ssh_key)).await;
    let mut browser = Browser::signed_in(&rig, EMAIL).await;
    let cookie = browser.cookie.clone();

    admin::backup::copy_database(&rig.config(), &rig.path("copy.db")).await.unwrap();
    assert_eq!(rig.call(Method::DELETE, &format!("/api-keys/{id}"), None).await.0, 200);
    let ssh_key = format!("/ssh-keys/{}", ssh_key["id"].as_str().unwrap());
    assert_eq!(rig.call(Method::DELETE, &ssh_key, None).await.0, 200);
    assert_eq!(browser.submit("/sign-out", &[]).await.status, 303);
    share(&rig, "private").await;
    assert_eq!(rig.call(Method::DELETE, &format!("/workspaces/{deleted}"), None).await.0, 200);
    rig.until(&deleted, "gone").await;

    // The control case: without the log all of them are back.
    let log = std::fs::read(rig.path("revocations.log")).unwrap();
    for with_log in [false, true] {
        rig.kill_control();
        put_back(&rig);
        let path = rig.path("revocations.log");
        if with_log {
            std::fs::write(&path, &log).unwrap()
        } else {
            std::fs::remove_file(&path).unwrap()
        }
        rig.start_control().await;
        let request = rig.client.get(rig.url("/api/v1/users/me")).bearer_auth(key);
        assert_eq!(rig.send(request).await.status == 200, !with_log);
        let (_, ssh_keys) = rig.get("/ssh-keys").await;
        assert_eq!(ssh_keys["ssh_keys"].as_array().unwrap().is_empty(), with_log, "{ssh_keys}");
        let browser = Browser { rig: &rig, cookie: cookie.clone() };
        assert_eq!(browser.api("/users/me").await == 200, !with_log);
        assert_eq!(rig.get(&format!("/workspaces/{deleted}")).await.0 == 200, !with_log);
        let (_, app) = rig.get(&app).await;
        assert_eq!(app.to_string().contains("\"private\""), with_log, "{app}");
        assert_eq!(rig.get("/users/me").await.0, 200, "another key was revoked");
    }
    // A VM that runs on gets another key: that of the restored database may be an earlier boot's.
    eventually("it has a new key", || async {
        let (_, _, key) = rig.guests.delivered_to(&kept);
        !key.is_empty() && key != boot_key
    })
    .await;
}
