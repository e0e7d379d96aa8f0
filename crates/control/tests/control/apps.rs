//! Apps: names, quotas, changes, and the limits of code inside a workspace.

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::rdata::TXT;
use hickory_proto::rr::{RData, Record};
use reqwest::Method;
use rigbox_core::plans::Plan;
use rigbox_proto::guest::ListeningPort;
use serde_json::{Value, json};

use crate::support::TestControl;
use crate::support::browser::Browser;

/// DNS server with a single TXT record.
async fn dns_with(name: String, text: String) -> std::net::SocketAddr {
    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 4096];
        while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
            let query = Message::from_vec(&buffer[..length]).unwrap();
            let mut response = Message::response(query.metadata.id, query.metadata.op_code);
            response.metadata.recursion_available = true;
            let question = query.queries[0].clone();
            if question.name().to_string().to_lowercase() == name {
                let data = RData::TXT(TXT::new(vec![text.clone()]));
                response.add_answer(Record::from_rdata(question.name().clone(), 60, data));
            } else {
                response.metadata.response_code = ResponseCode::NXDomain;
            }
            response.add_query(question);
            socket.send_to(&response.to_vec().unwrap(), from).await.unwrap();
        }
    });
    address
}

#[tokio::test]
async fn custom_domain_serves_the_app_once_dns_verifies_it() {
    let mut rig = TestControl::with_gateways().await;
    let workspace = rig.running("one").await;
    let app = new_app(&rig, &workspace, "web").await;
    let path = format!("/apps/{}", id(&app));
    rig.call(Method::PATCH, &path, Some(json!({"custom_domain": "shop.example.org"}))).await;
    // Before the record exists, the message names it.
    rig.dns = vec![dns_with("nothing.".to_owned(), String::new()).await];
    rig.kill_control();
    rig.start_control().await;
    let verify = format!("{path}/verify-domain");
    let (status, body) = rig.post(&verify).await;
    assert_eq!((status.as_u16(), &body["error"]["code"]), (422, &json!("unverifiable_domain")), "{body}");
    let message = body["error"]["message"].as_str().unwrap();
    let (_, text) = message.split_once("at _rigbox.shop.example.org with the value ").unwrap();
    let text = text.split(',').next().unwrap().to_owned();

    rig.dns =
        vec![dns_with("_rigbox.shop.example.org.".to_owned(), "rigbox-domain=another".to_owned()).await];
    rig.kill_control();
    rig.start_control().await;
    assert_eq!(rig.post(&verify).await.0, 422);

    rig.dns = vec![dns_with("_rigbox.shop.example.org.".to_owned(), text).await];
    rig.kill_control();
    rig.start_control().await;
    let (status, body) = rig.post(&verify).await;
    assert_eq!(status, 200, "{body}");
    assert_eq!(body["app"]["url"], "http://shop.example.org:7080");
    assert_eq!(body["app"]["custom_domain_verified"], true);
    // Another app cannot take the domain with this record, and another domain is not verified by it.
    let other = new_app(&rig, &workspace, "other").await;
    let (_, body) = rig
        .call(
            Method::PATCH,
            &format!("/apps/{}", id(&other)),
            Some(json!({"custom_domain": "shop.example.org"})),
        )
        .await;
    assert_eq!(body["app"]["custom_domain_verified"], false);
    assert_eq!(rig.post(&format!("/apps/{}/verify-domain", id(&other))).await.0, 422);
    let (_, body) = rig.call(Method::PATCH, &path, Some(json!({"custom_domain": "x.example.org"}))).await;
    assert_eq!(body["app"]["custom_domain_verified"], false);
}

#[tokio::test]
async fn lapsed_domain_gets_no_sign_in_code_and_is_no_longer_verified() {
    let mut rig = TestControl::with_gateways().await;
    let workspace = rig.running("one").await;
    let app = new_app(&rig, &workspace, "web").await;
    let path = format!("/apps/{}", id(&app));
    rig.call(Method::PATCH, &path, Some(json!({"custom_domain": "shop.example.org"}))).await;
    let (_, body) = rig.post(&format!("{path}/verify-domain")).await;
    let message = body["error"]["message"].as_str().unwrap();
    let (_, text) = message.split_once("at _rigbox.shop.example.org with the value ").unwrap();
    let text = text.split(',').next().unwrap().to_owned();
    rig.dns = vec![dns_with("_rigbox.shop.example.org.".to_owned(), text).await];
    rig.kill_control();
    rig.start_control().await;
    assert_eq!(rig.post(&format!("{path}/verify-domain")).await.0, 200);
    let handed_to = async |rig: &TestControl| {
        let browser = Browser::signed_in(rig, "a@example.com").await;
        let query = format!("state={}&host=shop.example.org", "s".repeat(43));
        let page = browser.open(&format!("/open/{}?{query}", id(&app))).await;
        assert_eq!(page.status, 303);
        let location = page.headers["location"].to_str().unwrap();
        location.split("code=").next().unwrap().to_owned()
    };
    assert_eq!(handed_to(&rig).await, "http://shop.example.org:7080/.rigbox/callback?");

    // The record is gone, and the last proof is some minutes old.
    rig.dns = vec![dns_with("nothing.".to_owned(), String::new()).await];
    rig.kill_control();
    rig.start_control().await;
    let config = rig.config();
    let token_key = rigbox_store::tokens::TokenKey::load_or_create(&config.token_key).unwrap();
    let store = rigbox_store::Store::open(&config.database, &token_key).await.unwrap();
    let proved = async |minutes: u64| {
        let (app, domain) = (id(&app).parse().unwrap(), "shop.example.org".parse().unwrap());
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let at = i64::try_from((now - std::time::Duration::from_mins(minutes)).as_millis()).unwrap();
        let at = rigbox_core::time::Timestamp::from_unix_ms(at);
        store.domain_proved(&app, &domain, at).await.unwrap();
    };
    proved(5).await;
    // Without a code: another sign-in begins there.
    assert_eq!(handed_to(&rig).await, "http://web.rigbox.localhost:7080/");
    let (_, body) = rig.get(&path).await;
    assert_eq!(body["app"]["custom_domain_verified"], false, "{body}");
    let (_, log) = rig.get("/audit-log").await;
    assert!(log.to_string().contains("app.domain_lost"), "{log}");
}

async fn new_app(rig: &TestControl, workspace: &str, name: &str) -> Value {
    let body = json!({"name": name, "workspace_id": workspace, "port": 8000});
    let (status, body) = rig.call(Method::POST, "/apps", Some(body)).await;
    assert_eq!(status, 201, "{body}");
    body["app"].clone()
}

fn id(app: &Value) -> &str {
    app["id"].as_str().unwrap()
}

#[tokio::test]
async fn app_is_created_private_read_changed_and_deleted() {
    let rig = TestControl::new().await;
    let workspace = rig.running("one").await;
    let app = new_app(&rig, &workspace, "web").await;
    assert_eq!(app["visibility"], "private");
    assert_eq!(app["status"], "active");
    assert_eq!(app["url"], "http://web.rigbox.localhost:7080");
    assert_eq!((&app["workspace_id"], &app["port"]), (&json!(workspace), &json!(8000)));
    let path = format!("/apps/{}", id(&app));
    assert_eq!(rig.get(&path).await.1["app"], app);

    let changes = json!({
        "port": 9000, "description": "a page", "allowed_emails": ["Ada@Example.org", "ada@example.org"],
        "visibility": "privileged", "metadata": {"a": [1]}, "cors_origins": ["https://x.example"],
        "custom_domain": "Shop.Example.org",
    });
    let (status, body) = rig.call(Method::PATCH, &path, Some(changes)).await;
    assert_eq!(status, 200, "{body}");
    let changed = &body["app"];
    assert_eq!(changed["allowed_emails"], json!(["ada@example.org"]));
    assert_eq!((&changed["port"], &changed["visibility"]), (&json!(9000), &json!("privileged")));
    assert_eq!(
        (&changed["custom_domain"], &changed["custom_domain_verified"]),
        (&json!("shop.example.org"), &json!(false))
    );
    // An unverified domain is not the app's URL.
    assert_eq!(changed["url"], app["url"]);

    let (_, body) =
        rig.call(Method::PATCH, &path, Some(json!({"description": null, "custom_domain": null}))).await;
    assert!(body["app"].get("description").is_none() && body["app"].get("custom_domain").is_none());
    let (_, body) = rig.call(Method::PATCH, &path, Some(json!({"status": "inactive"}))).await;
    assert_eq!(body["app"]["status"], "inactive");

    let (_, body) =
        rig.call(Method::PATCH, &format!("{path}/params"), Some(json!({"params": {"A": "b"}}))).await;
    assert_eq!(body["params"], json!({"A": "b"}));
    let (_, body) =
        rig.call(Method::PATCH, &format!("{path}/params"), Some(json!({"params": {"A": null}}))).await;
    assert_eq!(body["params"], json!({}));

    assert_eq!(rig.call(Method::DELETE, &path, None).await.0, 200);
    assert_eq!(rig.get(&path).await.0, 404);
}

#[tokio::test]
async fn lists_are_filtered_and_paged() {
    let rig = TestControl::new().await;
    let (one, two) = (rig.running("one").await, rig.running("two").await);
    for (workspace, name) in [(&one, "aaa"), (&one, "bbb"), (&two, "ccc")] {
        new_app(&rig, workspace, name).await;
    }
    let names = |body: &Value| -> Vec<String> {
        let apps = body["apps"].as_array().unwrap();
        apps.iter().map(|app| app["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(&rig.get("/apps").await.1), ["aaa", "bbb", "ccc"]);
    assert_eq!(names(&rig.get(&format!("/apps?workspace_id={two}")).await.1), ["ccc"]);
    assert_eq!(names(&rig.get("/apps?name=bbb").await.1), ["bbb"]);
    assert!(names(&rig.get("/apps?workspace_id=nonsense").await.1).is_empty());
    let (_, first) = rig.get("/apps?limit=2").await;
    let next = first["next_cursor"].as_str().unwrap();
    let (_, second) = rig.get(&format!("/apps?limit=2&cursor={next}")).await;
    assert_eq!((names(&second), second.get("next_cursor")), (vec!["ccc".to_owned()], None));
}

#[tokio::test]
async fn invalid_values_are_refused_by_field_and_change_nothing() {
    let rig = TestControl::new().await;
    let workspace = rig.running("one").await;
    let app = new_app(&rig, &workspace, "web").await;
    let path = format!("/apps/{}", id(&app));
    for (body, status, field) in [
        (json!({"name": "ab"}), 400, "name"),
        (json!({"name": "www"}), 400, "name"),
        (json!({"port": 0}), 400, "port"),
        (json!({"port": 65536}), 400, "port"),
        (json!({"visibility": "everyone"}), 400, "visibility"),
        (json!({"allowed_emails": ["nobody"]}), 400, "allowed_emails"),
        (json!({"cors_origins": ["https://x.example/path"]}), 400, "cors_origins"),
        (json!({"cors_origins": ["*"]}), 400, "cors_origins"),
        (json!({"custom_domain": "localhost"}), 400, "custom_domain"),
        (json!({"custom_domain": "x.rigbox.localhost"}), 400, "custom_domain"),
        (json!({"metadata": [1]}), 400, "metadata"),
        (json!({"prot": 1}), 400, "prot"),
    ] {
        let (actual, response) = rig.call(Method::PATCH, &path, Some(body.clone())).await;
        assert_eq!(actual, status, "{body}: {response}");
        let named = response["error"]["details"]["field"].as_str().unwrap();
        assert!(named.starts_with(field), "{body}: {response}");
    }
    assert_eq!(rig.get(&path).await.1["app"], app);
    for body in [
        json!({"name": "api", "workspace_id": workspace, "port": 80}),
        json!({"name": "good", "workspace_id": workspace}),
        json!({"name": "good", "workspace_id": workspace, "port": 80, "app_kind": "cli"}),
        json!({"name": "good", "workspace_id": workspace, "port": 80, "protocol": "gopher"}),
    ] {
        assert_eq!(rig.call(Method::POST, "/apps", Some(body.clone())).await.0, 400, "{body}");
    }
    let elsewhere = json!({"name": "good", "workspace_id": "ws-aaaaaaaa", "port": 80});
    assert_eq!(rig.call(Method::POST, "/apps", Some(elsewhere)).await.0, 404);
}

#[tokio::test]
async fn app_names_are_unique_and_plans_limit_the_number_of_apps() {
    let mut rig = TestControl::new().await;
    let workspace = rig.running("one").await;
    new_app(&rig, &workspace, "web").await;
    let again = json!({"name": "web", "workspace_id": workspace, "port": 1});
    let (status, body) = rig.call(Method::POST, "/apps", Some(again)).await;
    assert_eq!((status.as_u16(), &body["error"]["code"]), (409, &json!("name_taken")));

    // The name is also taken for another user, and the plan `free` allows five apps.
    rig.key = rig.new_user("b@example.com", Plan::Free).await;
    let workspace = rig.running("mine").await;
    let taken = json!({"name": "web", "workspace_id": workspace, "port": 1});
    assert_eq!(rig.call(Method::POST, "/apps", Some(taken)).await.0, 409);
    let create = async |n: u32| {
        let body = json!({"name": format!("app{n}"), "workspace_id": workspace, "port": 1});
        rig.call(Method::POST, "/apps", Some(body)).await.0.as_u16()
    };
    let responses = futures_util::future::join_all((0..8).map(create)).await;
    assert_eq!(responses.iter().filter(|status| **status == 201).count(), 5, "{responses:?}");
    assert_eq!(responses.iter().filter(|status| **status == 402).count(), 3, "{responses:?}");
}

#[tokio::test]
async fn repeated_create_makes_one_app() {
    let rig = TestControl::new().await;
    let workspace = rig.running("one").await;
    let create = async |port: u16| {
        let body = json!({"name": "web", "workspace_id": workspace, "port": port});
        let request = rig.request(Method::POST, "/apps").header("idempotency-key", "k").json(&body);
        rig.fetch(request).await
    };
    let (first, second) = (create(80).await, create(80).await);
    assert_eq!((first.0.as_u16(), second.0.as_u16()), (201, 201));
    assert_eq!(first.1["app"]["id"], second.1["app"]["id"]);
    assert_eq!(create(81).await.0, 409);
}

#[tokio::test]
async fn code_in_a_workspace_cannot_share_its_apps_more_widely() {
    let rig = TestControl::new().await;
    let workspace = rig.running("one").await;
    let app = new_app(&rig, &workspace, "web").await;
    let path = format!("/apps/{}", id(&app));
    let inside = rig.guests.delivered_to(&workspace).2;
    let from_inside = async |body: Value| {
        let request = rig.client.patch(rig.url(&format!("/api/v1{path}"))).bearer_auth(&inside).json(&body);
        rig.fetch(request).await.0.as_u16()
    };
    assert_eq!(from_inside(json!({"visibility": "public"})).await, 403);
    assert_eq!(from_inside(json!({"visibility": "privileged"})).await, 403);
    assert_eq!(from_inside(json!({"cors_origins": ["https://evil.example"]})).await, 403);
    let shared = json!({"visibility": "privileged", "allowed_emails": ["a@x.example", "b@x.example"]});
    assert_eq!(rig.call(Method::PATCH, &path, Some(shared)).await.0, 200);
    assert_eq!(from_inside(json!({"allowed_emails": ["c@x.example"]})).await, 403);
    assert_eq!(from_inside(json!({"allowed_emails": ["a@x.example"]})).await, 200);
    assert_eq!(from_inside(json!({"visibility": "private"})).await, 200);
    assert_eq!(from_inside(json!({"port": 8001})).await, 200);
}

/// Adds a listening port to every guest.
fn listens(rig: &TestControl, port: u32, address: &str) {
    let what = ListeningPort {
        port,
        address: address.to_owned(),
        pid: 7,
        process: "python3".to_owned(),
        command: vec!["python3".to_owned(), "-m".to_owned(), "http server".to_owned()],
        cwd: "/home/developer".to_owned(),
        env_names: vec!["PATH".to_owned()],
        uid: 1000,
        ..ListeningPort::default()
    };
    rig.guests.ports.lock().unwrap().push(what);
}

#[tokio::test]
async fn listener_becomes_an_app_with_a_service_that_starts_and_stops() {
    let rig = TestControl::new().await;
    let workspace = rig.running("one").await;
    listens(&rig, 8000, "0.0.0.0");
    listens(&rig, 9000, "127.0.0.1");
    let path = format!("/workspaces/{workspace}/expose-port");
    let (_, detected) = rig.call(Method::POST, &path, Some(json!({"port": 8000, "step": "detect"}))).await;
    assert_eq!(detected["command"], "python3 -m http server");
    assert_eq!((&detected["step"], &detected["suggested_name"]), (&json!("detect"), &json!("python3-8000")));
    let nothing = rig.call(Method::POST, &path, Some(json!({"port": 1, "step": "detect"}))).await;
    assert_eq!(nothing.0, 400, "{}", nothing.1);

    let (status, wrapped) =
        rig.call(Method::POST, &path, Some(json!({"port": 8000, "step": "wrap", "name": "web"}))).await;
    assert_eq!(status, 200, "{wrapped}");
    assert_eq!(wrapped["service_name"], "rigbox-svc-web.service");
    let app = wrapped["app"]["id"].as_str().unwrap();
    let files = rig.guests.files.lock().unwrap().clone();
    let unit = String::from_utf8(files["/etc/systemd/system/rigbox-svc-web.service"].clone()).unwrap();
    assert!(unit.contains("ExecStart=\"python3\" \"-m\" \"http server\"\n"), "{unit}");
    assert!(unit.contains("User=developer\nWorkingDirectory=/home/developer\n"), "{unit}");

    let (_, ports) = rig.get(&format!("/workspaces/{workspace}/listening-ports")).await;
    let exposed: Vec<_> =
        ports["ports"].as_array().unwrap().iter().map(|port| &port["already_exposed"]).collect();
    assert_eq!(exposed, [&json!(true), &json!(false)]);

    rig.call(Method::PATCH, &format!("/apps/{app}/params"), Some(json!({"params": {"MODE": "a \"b\" $c"}})))
        .await;
    for (action, status) in [("stop", "inactive"), ("start", "active"), ("restart", "active")] {
        let (_, body) = rig.post(&format!("/apps/{app}/{action}")).await;
        assert_eq!(body["app"]["status"], status, "{body}");
        let ran = rig.guests.commands.lock().unwrap().last().cloned().unwrap();
        assert_eq!(ran, format!("systemctl {action} rigbox-svc-web.service"));
    }
    let params = rig.guests.files.lock().unwrap()["/etc/rigbox/apps/web.env"].clone();
    assert_eq!(String::from_utf8(params).unwrap(), "MODE=\"a \\\"b\\\" \\$c\"\n");

    let (_, health) = rig.get(&format!("/apps/{app}/health")).await;
    assert_eq!(
        health,
        json!({"live": true, "port_open": true, "port_drift": false, "service_status": "active",
            "listening_on": ["0.0.0.0"]})
    );
    let (_, logs) = rig.get(&format!("/apps/{app}/logs?lines=5")).await;
    let messages: Vec<_> =
        logs["lines"].as_array().unwrap().iter().map(|line| line["message"].as_str().unwrap()).collect();
    assert_eq!((messages, logs["cursor"].as_str()), (vec!["line 1", "line 2"], Some("c2")));
    assert_eq!(logs["source"]["source_ref"], "rigbox-svc-web.service");
    rig.get(&format!("/apps/{app}/logs?cursor=c2")).await;
    let ran = rig.guests.commands.lock().unwrap().last().cloned().unwrap();
    assert!(ran.ends_with("--after-cursor=c2"), "{ran}");
    let stream = rig
        .send_streaming(rig.request(Method::GET, &format!("/apps/{app}/logs/stream")))
        .await
        .text()
        .await
        .unwrap();
    assert!(stream.contains("id: c1\n") && stream.contains("\"message\":\"line 2\""), "{stream}");
    for bad in ["lines=0", "lines=1001", "cursor=a%20b"] {
        assert_eq!(rig.get(&format!("/apps/{app}/logs?{bad}")).await.0, 400, "{bad}");
    }
}

#[tokio::test]
async fn app_without_service_is_stopped_at_the_edge_and_has_no_log() {
    let rig = TestControl::new().await;
    let workspace = rig.running("one").await;
    listens(&rig, 8000, "127.0.0.1");
    let app = new_app(&rig, &workspace, "web").await;
    let path = format!("/apps/{}", id(&app));
    let (_, body) = rig.post(&format!("{path}/stop")).await;
    assert_eq!((&body["app"]["status"], &body["service_name"]), (&json!("inactive"), &json!("")));
    assert!(rig.guests.commands.lock().unwrap().is_empty());
    assert_eq!(rig.get(&format!("{path}/logs")).await.0, 409);
    rig.post(&format!("{path}/start")).await;
    // Listeners on a loopback address cannot be reached.
    let (_, health) = rig.get(&format!("{path}/health")).await;
    assert_eq!((&health["live"], &health["service_status"]), (&json!(false), &json!("unmanaged")));
}

#[tokio::test]
async fn quick_deploy_succeeds_completely_or_leaves_nothing() {
    let rig = TestControl::new().await;
    let deploy = async |body: Value| rig.call(Method::POST, "/quick-deploy", Some(body)).await;
    let (status, created) = deploy(json!({
        "template_id": "dev", "name": "one", "env_vars": {"A": "b"}, "app_params": {"preview": {"MODE": "fast"}},
    }))
    .await;
    assert_eq!(status, 200, "{created}");
    let id = created["workspace"]["id"].as_str().unwrap();
    assert_eq!(created["workspace"]["status"], "starting");
    let app = &created["expected_apps"][0];
    let name = format!("preview-{}", id.trim_start_matches("ws-"));
    assert_eq!(
        (&app["name"], &app["port"], &app["visibility"]),
        (&json!(name), &json!(3000), &json!("private"))
    );
    assert_eq!(created["installed_apps"], json!([name]));
    let app = app["id"].as_str().unwrap();
    assert_eq!(rig.get(&format!("/apps/{app}/params")).await.1["params"], json!({"MODE": "fast"}));
    rig.until(id, "running").await;
    assert_eq!(rig.guests.delivered_to(id).1["A"], "b");

    for (body, status) in [
        (json!({"template_id": "none"}), 400),
        (json!({"template_id": "dev", "app_params": {"other": {}}}), 400),
        (json!({"template_id": "dev", "name": "one"}), 409),
        (json!({"template_id": "base", "setup_script_ids": ["x"]}), 400),
        // Detected only after the workspace was created.
        (json!({"template_id": "dev", "name": "two", "env_vars": {"1": "b"}}), 400),
        (json!({"template_id": "dev", "name": "three", "app_params": {"preview": {"1": "b"}}}), 400),
    ] {
        let (actual, response) = deploy(body.clone()).await;
        assert_eq!(actual, status, "{body}: {response}");
    }
    crate::support::eventually("nothing of the failed deployments remains", || async {
        rig.get("/workspaces").await.1["vms"].as_array().unwrap().len() == 1
    })
    .await;
}

#[tokio::test]
async fn service_runs_a_command_or_what_listens_on_the_apps_port() {
    let rig = TestControl::new().await;
    let workspace = rig.running("one").await;
    listens(&rig, 8000, "0.0.0.0");
    let new = json!({"name": "web", "workspace_id": workspace, "port": 8000});
    let (_, created) = rig.call(Method::POST, "/apps", Some(new)).await;
    let app = created["app"]["id"].as_str().unwrap().to_owned();
    let path = format!("/apps/{app}/service");
    let (status, refused) = rig.post(&format!("/apps/{app}/restart")).await;
    assert_eq!(status, 409, "nothing to restart: {refused}");

    let body = json!({"command": "exec node server.js | tee \"a b\"", "cwd": "/srv/50%", "env_vars": {"PORT": "8000"}});
    let (status, set) = rig.call(Method::PUT, &path, Some(body)).await;
    assert_eq!(status, 200, "{set}");
    assert_eq!(set["service_name"], "rigbox-svc-web.service");
    let file = |name: &str| {
        let files = rig.guests.files.lock().unwrap();
        String::from_utf8(files[name].clone()).unwrap()
    };
    let unit = file("/etc/systemd/system/rigbox-svc-web.service");
    assert!(
        unit.contains("ExecStart=\"/bin/bash\" \"-lc\" \"exec node server.js | tee \\\"a b\\\"\"\n"),
        "{unit}"
    );
    assert!(unit.contains("User=developer\nWorkingDirectory=/srv/50%%\n"), "{unit}");
    assert_eq!(file("/etc/rigbox/apps/web.env"), "PORT=\"8000\"\n");
    let last = || rig.guests.commands.lock().unwrap().last().cloned().unwrap();
    assert_eq!(last(), "systemctl restart rigbox-svc-web.service");

    // The listener takes the command's place. The parameters stay.
    let (status, wrapped) = rig.call(Method::PUT, &path, Some(json!({}))).await;
    assert_eq!(status, 200, "{wrapped}");
    assert!(file("/etc/systemd/system/rigbox-svc-web.service").contains("\"http server\""));
    assert_eq!(last(), "systemctl enable rigbox-svc-web.service");
    // So does a wrap of the port: the app that exposes it is the one.
    let expose = format!("/workspaces/{workspace}/expose-port");
    let (_, again) = rig.call(Method::POST, &expose, Some(json!({"port": 8000, "step": "wrap"}))).await;
    assert_eq!(again["app"]["id"], app);

    for body in [
        json!({"command": " "}),
        json!({"command": "x", "cwd": "here"}),
        json!({"cwd": "/srv"}),
        json!({"command": "x", "env_vars": {"A-B": "c"}}),
    ] {
        assert_eq!(rig.call(Method::PUT, &path, Some(body.clone())).await.0, 400, "{body}");
    }
}

#[tokio::test]
async fn service_of_a_deleted_app_is_removed_or_named() {
    let rig = TestControl::new().await;
    let workspace = rig.running("one").await;
    let with_service = async |name: &str, port: u16| {
        let new = json!({"name": name, "workspace_id": workspace, "port": port});
        let (_, created) = rig.call(Method::POST, "/apps", Some(new)).await;
        let path = format!("/apps/{}", created["app"]["id"].as_str().unwrap());
        let set = rig.call(Method::PUT, &format!("{path}/service"), Some(json!({"command": "x"}))).await;
        assert_eq!(set.0, 200, "{}", set.1);
        path
    };
    let (web, shop) = (with_service("web", 8000).await, with_service("shop", 8001).await);
    rig.guests.commands.lock().unwrap().clear();
    let (status, body) = rig.call(Method::DELETE, &web, None).await;
    assert_eq!((status.as_u16(), &body["message"]), (200, &json!("App web deleted.")));
    assert_eq!(
        *rig.guests.commands.lock().unwrap(),
        ["systemctl disable --now rigbox-svc-web.service", "systemctl daemon-reload"]
    );
    let files: Vec<String> = rig.guests.files.lock().unwrap().keys().cloned().collect();
    assert!(!files.iter().any(|path| path.contains("web")) && files.iter().any(|path| path.contains("shop")));

    // The workspace is stopped: the app goes, and the message says what is left.
    rig.post(&format!("/workspaces/{workspace}/stop")).await;
    rig.until(&workspace, "stopped").await;
    let (status, body) = rig.call(Method::DELETE, &shop, None).await;
    assert_eq!(status, 200, "{body}");
    assert!(body["message"].as_str().unwrap().contains("disable --now rigbox-svc-shop.service"), "{body}");
    assert_eq!(rig.get(&shop).await.0, 404);
}
