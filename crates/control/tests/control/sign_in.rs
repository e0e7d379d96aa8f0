//! Signing in: links, browser sessions, and machines that log in.

use std::time::Duration;

use reqwest::Method;
use rigbox_control::admin;
use rigbox_core::plans::Plan;
use serde_json::{Value, json};

use crate::support::TestControl;
use crate::support::browser::{Browser, form, text};

const EMAIL: &str = "a@example.com";

async fn post(rig: &TestControl, path: &str, body: Value) -> (u16, Value) {
    let (status, body) = rig.fetch(rig.client.post(rig.url(&format!("/api/v1{path}"))).json(&body)).await;
    (status.as_u16(), body)
}

#[tokio::test]
async fn unknown_path_of_the_console_is_a_page_for_people_and_json_for_programs() {
    let rig = TestControl::new().await;
    let browser = Browser::new(&rig);
    let get = async |accept: &'static str, request: reqwest::RequestBuilder| {
        let response = rig.client.execute(request.header("accept", accept).build().unwrap()).await.unwrap();
        let content_type = response.headers()["content-type"].to_str().unwrap().to_owned();
        (response.status().as_u16(), content_type, response.text().await.unwrap())
    };
    let html = "text/html,application/xhtml+xml,*/*;q=0.8";
    let (status, content_type, page) = get(html, browser.request(Method::GET, "/worksapces")).await;
    assert_eq!((status, content_type.as_str()), (404, "text/html; charset=utf-8"));
    assert!(page.contains("<h1>Page not found</h1>") && page.contains(r#"href="/""#), "{page}");
    for (accept, request) in [
        ("*/*", browser.request(Method::GET, "/worksapces")),
        ("application/json", browser.request(Method::GET, "/worksapces")),
        // The API's host has no pages.
        (html, rig.client.get(rig.url("/worksapces"))),
    ] {
        let (status, content_type, body) = get(accept, request).await;
        assert_eq!((status, content_type.as_str()), (404, "application/json"), "{body}");
        assert!(body.contains("not found"), "{body}");
    }
}

#[tokio::test]
async fn link_signs_in_once_and_only_after_confirmation() {
    let rig = TestControl::new().await;
    let mut browser = Browser::new(&rig);
    assert_eq!(browser.api("/users/me").await, 401);
    let link = admin::login_link(&rig.config(), EMAIL).await.unwrap();
    let path = link.strip_prefix(&rig.console()).unwrap();
    for _ in 0..2 {
        let shown = browser.open(path).await;
        assert_eq!(shown.status, 200);
        assert!(text(&shown).contains(EMAIL) && shown.headers.get("set-cookie").is_none());
        let policy = shown.headers["content-security-policy"].to_str().unwrap();
        assert!(
            policy.contains("default-src 'none'") && policy.contains("frame-ancestors 'none'"),
            "{policy}"
        );
    }
    let token = path.split_once("token=").unwrap().1;
    // Not from one of our pages: an attacker's form cannot sign a victim in.
    for origin in [None, Some("http://evil.example"), Some("null")] {
        let request = form(browser.request(Method::POST, "/sign-in/link"), &[("token", token)]);
        let request = match origin {
            Some(origin) => request.header("origin", origin),
            None => request,
        };
        assert_eq!(rig.send(request).await.status, 403, "{origin:?}");
    }
    let followed = browser.submit("/sign-in/link", &[("token", token)]).await;
    assert_eq!(followed.status, 303);
    assert_eq!(followed.headers["location"], "/sign-in");
    assert_eq!(browser.api("/users/me").await, 200);
    assert!(text(&browser.open("/sign-in").await).contains(EMAIL));
    assert_eq!(browser.open(path).await.status, 404);
    assert_eq!(browser.submit("/sign-in/link", &[("token", token)]).await.status, 404);
}

#[tokio::test]
async fn sign_in_redirects_only_to_own_pages() {
    let rig = TestControl::new().await;
    let mut browser = Browser::new(&rig);
    for device in ["//evil.example", "http://evil.example", "BCDF-GHJK\r\nSet-Cookie: x=y", ""] {
        let link = admin::login_link(&rig.config(), EMAIL).await.unwrap();
        let token = link.split_once("token=").unwrap().1;
        let followed = browser.submit("/sign-in/link", &[("token", token), ("device", device)]).await;
        assert_eq!(followed.headers["location"], "/sign-in", "{device}");
    }
    // Another of our names redirects to the console, keeping only the path.
    let response = rig.send(rig.client.get(rig.url("/sign-in"))).await;
    assert_eq!(
        (response.status.as_u16(), response.headers["location"].to_str().unwrap().to_owned()),
        (303, format!("{}/sign-in", rig.console()))
    );
    let response = rig.send(form(rig.client.post(rig.url("/sign-in")), &[("email", EMAIL)])).await;
    assert_eq!(response.status, 421);
}

#[tokio::test]
async fn session_is_valid_only_for_pages_of_the_console() {
    let rig = TestControl::new().await;
    let browser = Browser::signed_in(&rig, EMAIL).await;
    let cookie = browser.cookie.clone().unwrap();
    let elsewhere = rig.client.get(rig.url("/api/v1/users/me")).header("cookie", &cookie);
    assert_eq!(rig.send(elsewhere).await.status, 401);
    let create = |origin: Option<&str>| {
        let request = browser.request(Method::POST, "/api/v1/workspaces").json(&json!({"name": "mine"}));
        match origin {
            Some(origin) => request.header("origin", origin),
            None => request,
        }
    };
    for origin in [None, Some("null"), Some("http://web.rigbox.localhost:7080")] {
        assert_eq!(rig.send(create(origin)).await.status, 403, "{origin:?}");
    }
    let site = browser.request(Method::GET, "/api/v1/users/me").header("sec-fetch-site", "same-site");
    assert_eq!(rig.send(site).await.status, 403);
    assert_eq!(rig.get("/workspaces").await.1["vms"], json!([]));
    assert_eq!(rig.send(create(Some(&rig.console()))).await.status, 201);
}

#[tokio::test]
async fn session_ends_on_next_request_after_sign_out() {
    let rig = TestControl::new().await;
    let mut browser = Browser::signed_in(&rig, EMAIL).await;
    let before = Browser { rig: &rig, cookie: browser.cookie.clone() };
    assert_eq!(before.api("/users/me").await, 200);
    assert_eq!(browser.submit("/sign-out", &[]).await.status, 303);
    assert_eq!((before.api("/users/me").await, browser.api("/users/me").await), (401, 401));
    let by_api = Browser::signed_in(&rig, EMAIL).await;
    let request = by_api.request(Method::POST, "/api/v1/auth/sign-out").header("origin", rig.console());
    assert_eq!(rig.send(request).await.status, 200);
    assert_eq!(by_api.api("/users/me").await, 401);
    let (_, log) = rig.get("/audit-log").await;
    let actions: Vec<&str> =
        log["entries"].as_array().unwrap().iter().map(|entry| entry["action"].as_str().unwrap()).collect();
    assert_eq!(actions.iter().filter(|action| **action == "session.create").count(), 2);
    assert_eq!(actions.iter().filter(|action| **action == "session.end").count(), 2);
}

#[tokio::test]
async fn requesting_a_link_does_not_reveal_accounts() {
    let rig = TestControl::new().await;
    let request_link = async |email: &str| post(&rig, "/auth/link", json!({"email": email})).await;
    let (known, unknown) = (request_link(EMAIL).await, request_link("b@example.com").await);
    assert_eq!((known.0, &known), (202, &unknown));
    // The rate limit per address does not reveal whether it has an account.
    for email in [EMAIL, "b@example.com"] {
        for _ in 1..5 {
            assert_eq!(request_link(email).await.0, 202);
        }
        let request = rig.client.post(rig.url("/api/v1/auth/link")).json(&json!({"email": email}));
        let over = rig.send(request).await;
        assert_eq!(over.status, 429, "{email}");
        assert!(over.headers.contains_key("retry-after"));
    }
    assert_eq!(request_link("nobody").await.0, 400);
}

#[tokio::test]
async fn response_to_a_link_request_does_not_wait_for_the_lookup() {
    let rig = TestControl::new().await;
    // While another process writes, a link for an existing user cannot be stored.
    let mut writer = std::process::Command::new("python3")
        .args(["-c", "import sqlite3,sys;c=sqlite3.connect(sys.argv[1],isolation_level=None);c.execute('BEGIN IMMEDIATE');print('held',flush=True);sys.stdin.read()"])
        .arg(rig.path("rigbox.db"))
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(writer.stdout.take().unwrap()), &mut line)
        .unwrap();
    assert_eq!(line.trim(), "held");
    for email in [EMAIL, "b@example.com"] {
        assert_eq!(post(&rig, "/auth/link", json!({"email": email})).await.0, 202);
    }
    // The lock was held all the time.
    assert!(writer.try_wait().unwrap().is_none());
    drop(writer.stdin.take());
    writer.wait().unwrap();
}

/// Starts a login as `rig login` does. Returns the secret and the code.
async fn start_login(rig: &TestControl, machine: &str) -> (String, String) {
    let (status, login) = post(rig, "/auth/device", json!({"machine": machine})).await;
    assert_eq!(status, 201, "{login}");
    let text = |name: &str| login[name].as_str().unwrap().to_owned();
    let (secret, code) = (text("device_secret"), text("user_code"));
    let url = text("verification_url");
    assert!(url.ends_with("/device") && !url.contains(&secret), "{url}");
    (secret, code)
}

/// Types a code into the form of the console's page.
async fn typed(browser: &Browser<'_>, code: &str) -> crate::support::ApiResponse {
    let request = browser.request(Method::GET, &format!("/device?code={code}"));
    browser.rig.send(request.header("sec-fetch-site", "same-origin")).await
}

async fn poll(rig: &TestControl, secret: &str) -> (u16, Value) {
    post(rig, "/auth/device/poll", json!({"device_secret": secret})).await
}

#[tokio::test]
async fn machine_gets_its_key_once_after_approval() {
    let rig = TestControl::new().await;
    let (secret, code) = start_login(&rig, "laptop").await;
    assert_eq!(poll(&rig, &secret).await, (200, json!({"status": "pending"})));
    let anonymous = Browser::new(&rig);
    let redirected = anonymous.open(&format!("/device?code={code}")).await;
    assert_eq!(
        (redirected.status.as_u16(), redirected.headers["location"].to_str().unwrap()),
        (303, "/sign-in?device=1")
    );
    let mut browser = Browser::signed_in(&rig, EMAIL).await;
    // A link leads to the form only: a stranger may have started the login.
    let linked = text(&browser.open(&format!("/device?code={code}")).await);
    assert!(!linked.contains("laptop") && !linked.contains(&code), "{linked}");
    let shown = text(&typed(&browser, &code).await);
    assert!(shown.contains("laptop") && shown.contains("127.0.0.1") && shown.contains(&code), "{shown}");
    // Viewing is not approving, and neither is a form from elsewhere.
    let foreign = browser.request(Method::POST, "/device").header("origin", "http://evil.example");
    assert_eq!(rig.send(form(foreign, &[("code", &code), ("decision", "approve")])).await.status, 403);
    assert_eq!(poll(&rig, &secret).await.1["status"], "pending");
    let approved = browser.submit("/device", &[("code", &code), ("decision", "approve")]).await;
    assert_eq!(approved.status, 200, "{}", text(&approved));
    let (status, collected) = poll(&rig, &secret).await;
    assert_eq!(
        (status, &collected["status"], &collected["user_email"]),
        (200, &json!("approved"), &json!(EMAIL))
    );
    let key = collected["api_key"].as_str().unwrap();
    assert_eq!(poll(&rig, &secret).await.0, 404);
    let with_key = |method: Method, path: &str| {
        rig.client.request(method, rig.url(&format!("/api/v1{path}"))).bearer_auth(key)
    };
    let (_, keys) = rig.fetch(with_key(Method::GET, "/api-keys")).await;
    assert!(keys["api_keys"].as_array().unwrap().iter().any(|key| key["name"] == "rig on laptop"), "{keys}");
    // Signing out revokes the key that logging in created, and no other.
    assert_eq!(rig.post("/auth/sign-out").await.1["ended"], false);
    assert_eq!(rig.get("/users/me").await.0, 200);
    assert_eq!(rig.fetch(with_key(Method::POST, "/auth/sign-out")).await.1["ended"], true);
    assert_eq!(rig.fetch(with_key(Method::GET, "/users/me")).await.0, 401);
}

#[tokio::test]
async fn denied_or_unknown_machine_gets_no_key() {
    let rig = TestControl::new().await;
    let (secret, code) = start_login(&rig, "strange <b>machine</b>").await;
    let mut browser = Browser::signed_in(&rig, EMAIL).await;
    let shown = text(&typed(&browser, &code).await);
    assert!(shown.contains("strange &lt;b&gt;machine"), "{shown}");
    assert_eq!(browser.submit("/device", &[("code", &code), ("decision", "deny")]).await.status, 200);
    assert_eq!(poll(&rig, &secret).await.0, 403);
    // A decision is final.
    assert_eq!(browser.submit("/device", &[("code", &code), ("decision", "approve")]).await.status, 404);
    assert_eq!(poll(&rig, &secret).await.0, 403);
    assert_eq!(typed(&browser, "BCDF-GHJK").await.status, 404);
    assert_eq!(typed(&browser, "nonsense").await.status, 400);
    for wrong in ["", "rbv_short", &format!("rbv_{}", "a".repeat(43))] {
        assert_eq!(poll(&rig, wrong).await.0, 404, "{wrong}");
    }
    for machine in ["", "\n", &"x".repeat(49)] {
        assert_eq!(post(&rig, "/auth/device", json!({"machine": machine})).await.0, 400, "{machine:?}");
    }
    assert_eq!(rig.get("/api-keys").await.1["api_keys"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn credentials_of_a_disabled_user_are_refused() {
    let rig = TestControl::new().await;
    let config = rig.config();
    admin::add_user(&config, "Bob@Example.com", Plan::Free).await.unwrap();
    let browser = Browser::signed_in(&rig, "bob@example.com").await;
    let request = browser.request(Method::POST, "/api/v1/api-keys").header("origin", rig.console());
    let created = rig.send(request.json(&json!({"name": "ci"}))).await;
    assert_eq!(created.status, 201);
    let key = serde_json::from_slice::<Value>(&created.body).unwrap()["key"].as_str().unwrap().to_owned();
    let with_key =
        async |key: &str| rig.fetch(rig.client.get(rig.url("/api/v1/users/me")).bearer_auth(key)).await;
    assert_eq!((with_key(&key).await.0.as_u16(), browser.api("/users/me").await), (200, 200));
    admin::set_disabled(&config, "bob@example.com", true).await.unwrap();
    let (status, disabled) = with_key(&key).await;
    assert_eq!((status.as_u16(), browser.api("/users/me").await), (401, 401));
    // The response does not reveal that the key was ever valid.
    assert_eq!(disabled, with_key(&format!("rb_{}", "a".repeat(43))).await.1);
    assert!(admin::login_link(&config, "bob@example.com").await.is_err());
    admin::set_disabled(&config, "bob@example.com", false).await.unwrap();
    assert_eq!((with_key(&key).await.0.as_u16(), browser.api("/users/me").await), (200, 401));
    assert!(admin::set_disabled(&config, EMAIL, true).await.is_err(), "the administrator was locked out");
    assert!(admin::add_user(&config, "BOB@example.com", Plan::Pro).await.is_err(), "one address, two users");
}

#[tokio::test]
async fn invalid_credentials_are_rate_limited_by_address() {
    let rig = TestControl::new().await;
    let attempts = [
        rig.client.get(rig.url("/api/v1/users/me")).bearer_auth(format!("rb_{}", "a".repeat(43))),
        rig.client.post(rig.url("/api/v1/auth/device/poll")).json(&json!({"device_secret": "rbv_x"})),
        rig.client.get(format!("{}/sign-in/link?token=rbl_x", rig.console())),
        rig.client.get(format!("{}/device?code=BCDF-GHJK", rig.console())),
    ];
    let mut refused = 0;
    for attempt in attempts.iter().cycle().take(24) {
        let response = rig.send(attempt.try_clone().unwrap()).await;
        refused += u32::from(response.status == 429);
    }
    // A burst of 12, whatever was tried, and what a few seconds add to it.
    assert!((8..=12).contains(&refused), "{refused}");
    // A caller with a valid key is not affected.
    assert_eq!(rig.get("/users/me").await.0, 200);
    // The next attempt gets the time to wait.
    let over = rig.send(attempts[0].try_clone().unwrap()).await;
    let wait: u64 = over.headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert!(Duration::from_secs(wait) <= Duration::from_secs(1), "{wait}");
}
